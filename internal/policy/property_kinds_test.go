package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/policy"
)

// part is a member of an object, with the control that refuses it; none does
// when that is empty.
type part struct {
	member  string
	control v1alpha1.ControlName
}

// drawPart takes one of several parts.
func drawPart(t *rapid.T, m *model, name string, parts ...part) {
	p := rapid.SampledFrom(parts).Draw(t, name)
	if p.member != "" {
		m.members = append(m.members, p.member)
	}
	if p.control != "" {
		m.denies[p.control] = true
	}
}

// drawObject makes up a fleet, a volume or a gateway, its keys in any order.
func drawObject(t *rapid.T, kind dstack.ApplyKind) model {
	m := model{denies: make(map[v1alpha1.ControlName]bool)}
	m.add(fmt.Sprintf(`"type":%q`, kind), "")
	drawPart(t, &m, "tags", part{}, part{`"tags":null`, ""}, part{`"tags":{}`, ""}, part{`"tags":{"docker":"x"}`, v1alpha1.ControlTags})
	drawPart(t, &m, "unknown", part{}, part{`"later":{"a":[0]}`, ""}, part{`"later":{"a":[1]}`, v1alpha1.ControlUnknownFields})
	rest := []string{`"configuration_path":null`}
	switch kind {
	case dstack.KindFleet:
		rest = append(rest, `"profile":`+drawFleet(t, &m))
	case dstack.KindVolume:
		drawPart(t, &m, "backend", part{`"backend":"aws"`, ""}, part{`"backend":"gcp"`, v1alpha1.ControlBackends})
		drawPart(t, &m, "disk", part{}, part{`"volume_id":null`, ""}, part{`"volume_id":"x"`, v1alpha1.ControlExistingVolumes})
		drawPart(t, &m, "claim", part{}, part{`"claim_name":null`, ""}, part{`"claim_name":""`, v1alpha1.ControlExistingVolumes})
		drawPart(t, &m, "class", part{}, part{`"storage_class_name":null`, ""}, part{`"storage_class_name":""`, v1alpha1.ControlExistingVolumes})
	case dstack.KindGateway:
		drawPart(t, &m, "backend", part{`"backend":"aws"`, ""}, part{`"backend":"gcp"`, v1alpha1.ControlBackends})
	}
	rest = append(rest, `"configuration":{`+strings.Join(rapid.Permutation(m.members).Draw(t, "keys"), ",")+`}`)
	m.spec = `{` + strings.Join(rapid.Permutation(rest).Draw(t, "spec"), ",") + `}`
	return m
}

// drawFleet adds what only fleets have and returns the profile.
func drawFleet(t *rapid.T, m *model) string {
	drawPart(t, m, "env", part{}, part{`"env":{}`, ""}, part{`"env":{"http_proxy":"p"}`, ""},
		part{`"env":{"http_proxy":"p\\"}`, v1alpha1.ControlFleetEnvironment}, part{`"env":{"docker":"x"}`, v1alpha1.ControlFleetEnvironment})
	drawPart(t, m, "blocks", part{}, part{`"blocks":1`, ""}, part{`"blocks":2`, v1alpha1.ControlSharedInstances}, part{`"blocks":"auto"`, v1alpha1.ControlSharedInstances})
	hosts := len(m.members)
	drawPart(t, m, "hosts", part{}, part{`"ssh_config":null`, ""}, part{`"ssh_config":{"hosts":["a"]}`, v1alpha1.ControlSSHFleets})
	isSSH := len(m.members) > hosts && m.denies[v1alpha1.ControlSSHFleets]

	lists := map[string]string{"none": "", "null": `"backends":null`, "empty": `"backends":[]`, "aws": `"backends":["aws"]`, "gcp": `"backends":["gcp","aws"]`}
	kinds := sortedNames(lists)
	configured := rapid.SampledFrom(kinds).Draw(t, "backends")
	profiled := rapid.SampledFrom(kinds).Draw(t, "backends of the profile")
	if lists[configured] != "" {
		m.add(lists[configured], "")
	}
	used := configured
	if used == "none" || used == "null" {
		used = profiled
	}
	// The only backend that is allowed is aws, so that no SSH fleet is.
	m.denies[v1alpha1.ControlBackends] = isSSH || used != "aws"
	if lists[profiled] == "" {
		return `{}`
	}
	return `{` + lists[profiled] + `}`
}

func sortedNames(m map[string]string) []string {
	var all []string
	for name := range m {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// TestKindsFollowTheModel: what is made up is refused by exactly those controls
// that deny it.
func TestKindsFollowTheModel(t *testing.T) {
	kinds := []dstack.ApplyKind{dstack.KindFleet, dstack.KindVolume, dstack.KindGateway}
	about := []isolation.Control{
		isolation.FleetEnvironment, isolation.SSHFleets, isolation.SharedInstances, isolation.ExistingVolumes,
		isolation.Tags, isolation.Backends, isolation.UnknownFields,
	}
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom(kinds).Draw(t, "kind")
		object := drawObject(t, kind)
		mode := func(name string) v1alpha1.AllowedDenied {
			return rapid.SampledFrom([]v1alpha1.AllowedDenied{v1alpha1.Allowed, v1alpha1.Denied}).Draw(t, name)
		}
		c := v1alpha1.Controls{
			FleetEnvironment: mode("environment"), SSHFleets: mode("SSH fleets"), SharedInstances: mode("shared instances"),
			ExistingVolumes: v1alpha1.ExistingVolumes(mode("existing volumes")), Tags: mode("tags"),
		}
		if rapid.Bool().Draw(t, "list of backends") {
			c.Backends = &v1alpha1.AllowedBackends{Allowed: []v1alpha1.BackendName{"aws"}}
		}
		if rapid.Bool().Draw(t, "unknown fields") {
			c.UnknownFields = v1alpha1.UnknownFieldsDeniedIfSet
		}
		eff := effective(profile("a", v1alpha1.LevelOpen, controls(c)))
		d := policy.Decide(eff, policy.Running{}, &policy.Request{Kind: kind, User: "ada", Project: "research-nlp", Spec: []byte(object.spec)}, noon)
		want := []string{}
		for _, c := range about {
			if eff.Profiles[0].Values[c].Mode != isolation.ModeAllowed && object.denies[c.Name()] {
				want = append(want, string(c.Name()))
			}
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, slices.Compact(sorted(controlsOf(d.Reasons)))); diff != "" {
			t.Fatalf("%s\nrefused (-want +got):\n%s", object.spec, diff)
		}
	})
}
