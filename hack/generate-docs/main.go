// Command generate-docs writes the documents that are made of tables in the
// code: the controls, with what each level means for them, and a case each that
// is denied and that is allowed. It fails when a control has no such cases.
//
//	go run ./hack/generate-docs docs/controls.md
package main

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"strings"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
)

const introduction = `# Controls and levels

<!-- Written by "make generate" from the table in internal/isolation. -->

A *level* gives each *control* a value; ` + "`spec.controls`" + ` of an IsolationProfile overrides single ones, and so does
` + "`spec.unmatchedProjects.controls`" + ` of a DstackServer for projects that no profile names. Where several profiles
match a project, the strictest value of each control wins: of lists what all of them allow, and where that is nothing, all is denied.
What a control denies, and how it can be had all the same, stands in [threat-model.md](threat-model.md); who may do it all the same,
in [exceptions.md](exceptions.md); the shape of the fields, in [api.md](api.md#controls).

The last column links to requests as dstack sends them, with the ` + "`spec.controls`" + ` that decide them so; tests hold the
policy to them.

`

const explanation = `
- ` + "`AllowedPaths`" + ` and ` + "`AllowedList`" + ` allow what a list names and nothing else. ` + "`instanceVolumes`" + ` has its list in ` + "`paths`" + `;
  ` + "`fleets`, `backends` and `registries`" + ` in ` + "`allowed`" + `, such as ` + "`fleets: {allowed: [a100]}`" + `. What lies below an entry of
  ` + "`paths`" + ` or ` + "`registries`" + ` is allowed with it, by whole components. Without a list any may be used.
- Under a list of ` + "`fleets`" + ` a run that names none gets the list filled in. dstack does not change the fleets of a service that runs:
  when the list changes, a service that was filled in before cannot be updated in place, and has to be stopped and applied
  again. Services that name their fleets themselves are not concerned.
- Level ` + "`Dedicated`" + ` needs ` + "`controls.fleets`" + `: the fleets that belong to these projects alone. Its ` + "`Denied`" + ` is what holds for a profile that
  came without the list past the API server.
- ` + "`DeniedIfSet`" + ` refuses a field that this release does not know if it carries a value. Null, false, 0, empty text, lists and objects,
  and what is made of those, pass: a newer dstack sends its new fields that way when users left them out.
- "Server setting" means that dstack itself is told to refuse it in all projects, where every policy that enforces denies it and no
  exception lifts it; else the plugin alone refuses, by project.
`

// examples is where the cases are, from the root of the repository.
const examples = "internal/policy/testdata/controls"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: generate-docs FILE")
		os.Exit(2)
	}
	text, err := controls()
	if err == nil {
		err = os.WriteFile(os.Args[1], text, 0o644)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// controls is a document with one row for each control: its modes from loosest
// to strictest, its mode under each level of level version v1, what refuses,
// and its cases.
func controls() ([]byte, error) {
	var out bytes.Buffer
	out.WriteString(introduction)
	out.WriteString("| Control | Values, from loosest to strictest |")
	for _, level := range isolation.Levels() {
		fmt.Fprintf(&out, " %s |", level)
	}
	out.WriteString(" Refused by | Cases |\n| --- | --- |" + strings.Repeat(" --- |", len(isolation.Levels())) + " --- | --- |\n")
	for _, control := range isolation.AllControls() {
		fmt.Fprintf(&out, "| `%s` | %s |", control.Name(), strings.Join(control.Modes(), ", "))
		for _, level := range isolation.Levels() {
			mode, _ := control.Preset(level)
			fmt.Fprintf(&out, " %s |", mode)
		}
		cases, err := cases(control)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&out, " %s | %s |\n", control.Enforcer(), cases)
	}
	out.WriteString(explanation)
	fmt.Fprintf(&out, "\nThis is level version `%s`. What it means does not change; a later release may add another version.\n",
		v1alpha1.LevelVersionV1)
	return out.Bytes(), nil
}

// cases links to what a control denies, what it allows, and the controls that
// decide so.
func cases(control isolation.Control) (string, error) {
	var links []string
	for _, file := range [][2]string{{"denied", "deny.json"}, {"allowed", "allow.json"}, {"by", "controls.yaml"}} {
		at := path.Join(examples, string(control.Name()), file[1])
		if _, err := os.Stat(at); err != nil {
			return "", fmt.Errorf("control %s has no case: %w", control.Name(), err)
		}
		links = append(links, fmt.Sprintf("[%s](../%s)", file[0], at))
	}
	return strings.Join(links, ", "), nil
}
