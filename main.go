// Command dstack-isolation is the dstack isolation operator: the manager, the
// policy server, the init container of server pods and the cleanup hook, one
// subcommand each.
package main

import (
	"os"

	"github.com/dstack-isolation/operator/internal/app"
)

func main() {
	os.Exit(app.Main(os.Args[1:]))
}
