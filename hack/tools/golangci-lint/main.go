// Command golangci-lint is golangci-lint with the two linters that come as
// plugins: kube-api-linter for the API types and logcheck for log calls.
package main

import (
	"fmt"
	"os"
	"runtime"

	"github.com/golangci/golangci-lint/v2/pkg/commands"
	"github.com/golangci/golangci-lint/v2/pkg/exitcodes"

	// The plugins register themselves when they are imported.
	_ "sigs.k8s.io/kube-api-linter"
	_ "sigs.k8s.io/logtools/logcheck/gclplugin"
)

// version is set at link time to the version of golangci-lint in go.mod: its
// configuration commands compare it with the version of the configuration.
var version = "unknown"

func main() {
	info := commands.BuildInfo{GoVersion: runtime.Version(), Version: version, Commit: "unknown", Date: "unknown"}
	if err := commands.Execute(info); err != nil {
		fmt.Fprintln(os.Stderr, "golangci-lint: "+err.Error())
		os.Exit(exitcodes.Failure)
	}
}
