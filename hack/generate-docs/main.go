// Command generate-docs writes the documents that are made of tables in the
// code: the controls, with what each level means for them.
//
//	go run ./hack/generate-docs docs/controls.md
package main

import (
	"bytes"
	"fmt"
	"os"
	"strings"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
)

const introduction = `# Controls and levels

<!-- Written by "make generate" from the table in internal/isolation. -->

A *level* gives each *control* a value; ` + "`spec.controls`" + ` of an IsolationProfile overrides single ones. Where several profiles
match a project, the strictest value of each control wins. What a control denies, and how it can be had all the same, stands in
[threat-model.md](threat-model.md); the shape of the fields stands in [api.md](api.md#controls).

`

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: generate-docs FILE")
		os.Exit(2)
	}
	if err := os.WriteFile(os.Args[1], controls(), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// controls is a document with one row for each control: its modes from loosest
// to strictest, its mode under each level of level version v1, and what refuses.
func controls() []byte {
	var out bytes.Buffer
	out.WriteString(introduction)
	out.WriteString("| Control | Values, from loosest to strictest |")
	for _, level := range isolation.Levels() {
		fmt.Fprintf(&out, " %s |", level)
	}
	out.WriteString(" Refused by |\n| --- | --- |" + strings.Repeat(" --- |", len(isolation.Levels())) + " --- |\n")
	for _, control := range isolation.AllControls() {
		fmt.Fprintf(&out, "| `%s` | %s |", control.Name(), strings.Join(control.Modes(), ", "))
		for _, level := range isolation.Levels() {
			mode, _ := control.Preset(level)
			fmt.Fprintf(&out, " %s |", mode)
		}
		fmt.Fprintf(&out, " %s |\n", control.Enforcer())
	}
	fmt.Fprintf(&out, "\nThis is level version `%s`. What it means does not change; a later release may add another version.\n",
		v1alpha1.LevelVersionV1)
	return out.Bytes()
}
