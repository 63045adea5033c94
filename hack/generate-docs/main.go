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
- ` + "`AllowedPaths`, `AllowedStorageClasses` and `AllowedList`" + ` allow what a list names and nothing else. ` + "`instanceVolumes`" + ` has its
  list in ` + "`paths`" + `; ` + "`existingVolumes`" + ` has it in ` + "`storageClasses`" + `, a field beside it; ` + "`fleets`, `backends` and `registries`" + ` have
  theirs in ` + "`allowed`" + `, such as ` + "`fleets: {allowed: [a100]}`" + `. What lies below an entry of ` + "`paths`" + ` or ` + "`registries`" + ` is allowed with it, by
  whole components. Without a list any may be used.
- ` + "`existingVolumes`" + ` refuses ` + "`volume_id` and `claim_name`" + ` under ` + "`AllowedStorageClasses`" + ` too. ` + "`Denied`" + ` also refuses every storage class of
  a volume on Kubernetes, since a class that provisions nothing gives the volume a disk that exists already. List only classes that
  provision a new disk for each claim.
- ` + "`importedGateways`" + ` looks at gateways that a service names. A service with ` + "`gateway: true`" + `, or without ` + "`gateway`" + `, gets the project's
  default gateway, which the project's administrators choose.
- Under a list of ` + "`fleets`" + ` a run that names none gets the list filled in. dstack does not change the fleets of a service that runs:
  when the list changes, a service that was filled in before cannot be updated in place, and has to be stopped and applied
  again. Services that name their fleets themselves are not concerned.
- Level ` + "`Dedicated`" + ` needs ` + "`controls.fleets`" + `: the fleets that belong to these projects alone. Its ` + "`Denied`" + ` is what holds for a profile that
  came without the list past the API server.
- ` + "`DeniedIfSet`" + ` refuses a field that this release does not know if it carries a value. A field that only another kind of run has, and an
  object in a field that holds none, are such fields too. Null, false, 0, empty text, lists and objects, and what is made of those,
  pass: a newer dstack sends its new fields that way when users left them out.
- Controls hold for everybody who applies something, global administrators included. At ` + "`Restricted`" + `, for example, an
  administrator cannot apply an on-premises fleet of these projects again, because ` + "`sshFleets`" + ` is denied. Name the
  administrator in an exception, or keep such fleets in a project with a profile of its own:
  [exceptions.md](exceptions.md#administrators).
- ` + "`dstack offer`" + ` and ` + "`dstack preset create`" + ` send a run that is made up, with the image ` + "`scratch`" + `, which does not exist. Exactly
  that run is recognised. ` + "`registries`" + ` does not hold for its image. Under a list of ` + "`backends`" + ` it gets the list filled in where it
  names none, so that what is offered is what is allowed. All other controls hold as for every run, and so do rules, which can
  tell it ([rules.md](rules.md#dstack-offer)). With ` + "`--group-by`" + `, dstack queries no plugin. Of backends that not every
  version of dstack has, those are filled in that the requesting version has; with ` + "`delivery: REST`" + `, which does not report
  its version, ` + "`seeweb`" + `, ` + "`daytona`" + ` and ` + "`lium`" + ` are offered when they are named.
- "Server setting" means that dstack itself is configured to refuse it in all projects, where every policy that enforces denies it and no
  exception lifts it; else the plugin alone refuses, by project.
`

const cacheBefore = `
## Caches on the hosts

Many of dstack's examples mount a cache of the host, such as ` + "`/root/.cache`" + `, so that a host downloads a model once. Every level but
Open refuses them. The refusal names ` + "`instanceVolumes`" + `. To allow a cache, give each project a directory of its own:

` + "```yaml\n"

const cacheAfter = "```" + `

This is [a sample](../config/samples/isolationprofile-cache.yaml). Users then write:

` + "```yaml" + `
volumes: ["/var/cache/dstack/research-nlp:/root/.cache"]
` + "```" + `

- **Do not share a cache between projects that do not trust one another.** Whoever can write to a cache decides what others load from
  it. Cached packages, compiled kernels and many model files are code, so one project's run could execute code in another's. It could also
  read what the other downloaded with its own credentials, and fill the disk. Jobs run as root, so file permissions do not help.
- Do not list ` + "`/root/.cache`" + ` or another directory that programs of the host use.
- Keep the rule. ` + "`paths`" + ` allows what lies below a directory, and a run can create links in its cache. The rule allows the directory itself
  only. Let nobody but root write to the directory above it.
- Without the rule, list only directories in which no run can write.
`

// examples is where the cases are, and cacheSample the profile of a cache, from
// the root of the repository.
const (
	examples    = "internal/policy/testdata/controls"
	cacheSample = "config/samples/isolationprofile-cache.yaml"
)

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
	cache, err := os.ReadFile(cacheSample)
	if err != nil {
		return nil, fmt.Errorf("sample of a cache: %w", err)
	}
	out.WriteString(cacheBefore)
	out.Write(cache)
	out.WriteString(cacheAfter)
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
