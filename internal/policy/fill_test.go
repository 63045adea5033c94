package policy_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/policy"
)

// TestFill: a run that names no fleet gets the list, and no other byte changes.
func TestFill(t *testing.T) {
	const list = `[{"project":null,"name":"a100"},{"project":"other","name":"gpu"}]`
	tests := map[string]struct{ spec, want string }{
		"absent": {
			`{"configuration":{"type":"task", "nodes":1 },"x":1}`,
			`{"configuration":{"type":"task", "nodes":1 ,"fleets":` + list + `},"x":1}`,
		},
		"null": {
			` { "configuration" : { "fleets" : null , "type" : "task" } } `,
			` { "configuration" : { "fleets" : ` + list + ` , "type" : "task" } } `,
		},
		"empty":                       {task(`"fleets":[],"name":"ä"`), task(`"fleets":` + list + `,"name":"ä"`)},
		"empty, with space":           {task("\"fleets\": [ \n ] ,\"name\":\"[\""), task(`"fleets": ` + list + ` ,"name":"["`)},
		"last":                        {task(`"name":"[]","fleets":[]`), task(`"name":"[]","fleets":` + list)},
		"written with escapes":        {task(`"fl\u0065ets":null`), task(`"fl\u0065ets":` + list)},
		"null beside the profile's":   {withProfile(`"fleets":null`, `,"fleets":null`), withProfile(`"fleets":`+list, `,"fleets":null`)},
		"null beside an empty one":    {withProfile(`"fleets":null`, `,"fleets":[]`), withProfile(`"fleets":`+list, `,"fleets":[]`)},
		"empty one over the profile":  {withProfile(`"fleets":[]`, `,"fleets":["a100"]`), withProfile(`"fleets":`+list, `,"fleets":["a100"]`)},
		"absent, empty in profile":    {withProfile("", `,"fleets":[]`), withProfile(`"fleets":`+list, `,"fleets":[]`)},
		"beside an instance":          {task(`"instances":[{"fleet":"a100","instance":0}]`), task(`"instances":[{"fleet":"a100","instance":0}],"fleets":` + list)},
		"numbers and escapes":         {task(`"max_price":1.50,"priority":9223372036854775807,"name":"\u00e9\/"`), task(`"max_price":1.50,"priority":9223372036854775807,"name":"\u00e9\/","fleets":` + list)},
		"service":                     {ofType("service", `"groups":[{"fleets":null}]`), ofType("service", `"groups":[{"fleets":null}],"fleets":`+list)},
		"named":                       {task(`"fleets":["a100"]`), ""},
		"named by the profile":        {withProfile("", `,"fleets":["a100"]`), ""},
		"named by the profile, null":  {withProfile(`"fleets":null`, `,"fleets":["a100"]`), ""},
		"named outside the list":      {task(`"fleets":["b"]`), ""},
		"refused for something else":  {task(`"privileged":true`), ""},
		"refused for another reason":  {task(`"nodes":"x"`), ""},
		"key twice, and not readable": {task(`"fleets":null,"fleets":null`), ""},
	}
	p := only(fleetList("other/gpu", "a100"))
	p.Spec.Controls.Privileged = "Denied"
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := decide(t, tc.spec, p)
			if diff := cmp.Diff(tc.want, string(d.Filled)); diff != "" {
				t.Fatalf("(-want +got):\n%s%s", diff, d.Message)
			}
			if d.Filled == nil {
				return
			}
			if again := decide(t, string(d.Filled), p); !again.Allowed || again.Filled != nil {
				t.Errorf("what is filled in is decided otherwise: %+v", again)
			}
		})
	}
}

func TestFillDependsOnThePolicy(t *testing.T) {
	list := func() v1alpha1.IsolationProfile { return only(fleetList("a100", "other/gpu", "research-nlp/own")) }
	named := func(change func(*v1alpha1.IsolationProfile)) []v1alpha1.IsolationProfile {
		p := list()
		p.Name = "changed"
		change(&p)
		return []v1alpha1.IsolationProfile{p}
	}
	const own, imported = `{"project":null,"name":"a100"}`, `{"project":"other","name":"gpu"}`
	const written = `{"project":"research-nlp","name":"own"}`
	tests := map[string]struct {
		profiles []v1alpha1.IsolationProfile
		want     string
	}{
		"no profile":         {nil, ""},
		"the list":           {[]v1alpha1.IsolationProfile{list()}, own + "," + imported + "," + written},
		"audited":            {named(func(p *v1alpha1.IsolationProfile) { audit(&p.Spec) }), ""},
		"excepted":           {named(func(p *v1alpha1.IsolationProfile) { exception("x", noon.Add(1), v1alpha1.ControlFleets)(&p.Spec) }), ""},
		"exception ended":    {named(func(p *v1alpha1.IsolationProfile) { exception("x", noon, v1alpha1.ControlFleets)(&p.Spec) }), own + "," + imported + "," + written},
		"imported denied":    {named(func(p *v1alpha1.IsolationProfile) { p.Spec.Controls.ImportedFleets = "Denied" }), own + "," + written},
		"what both allow":    {append(named(func(p *v1alpha1.IsolationProfile) { p.Spec.Controls.Fleets.Allowed = []v1alpha1.FleetName{"a100", "b"} }), list()), own},
		"one of two audited": {append(named(func(p *v1alpha1.IsolationProfile) { p.Spec.Controls.Fleets.Allowed = nil; audit(&p.Spec) }), list()), own + "," + imported + "," + written},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			want := ""
			if tc.want != "" {
				want = task(`"fleets":[` + tc.want + `]`)
			}
			d := decide(t, task(""), tc.profiles...)
			if got := string(d.Filled); got != want || !d.Allowed {
				t.Errorf("got  %s\nwant %s\n%s", got, want, d.Message)
			}
		})
	}
}

// TestFilledCases: captured runs keep all they have but their fleets.
func TestFilledCases(t *testing.T) {
	for _, c := range captures(t) {
		req, err := policy.Parse(c.kind(t), c.Request)
		if err != nil {
			t.Fatal(err)
		}
		d := policy.Decide(effective(only(fleetList("gpu"))), policy.Running{}, req, noon)
		var spec struct{ Configuration struct{ Fleets []any } }
		if err := json.Unmarshal(req.Spec, &spec); err != nil {
			t.Fatal(err)
		}
		isRun := strings.HasPrefix(c.Name, "task") || strings.HasPrefix(c.Name, "service") || strings.HasPrefix(c.Name, "dev")
		if filled, want := d.Filled != nil, isRun && len(spec.Configuration.Fleets) == 0; filled != want {
			t.Errorf("%s/%s: filled is %t, want %t: %s", c.Dstack, c.Name, filled, want, d.Message)
		}
		if d.Filled != nil {
			want := strings.Replace(string(req.Spec), `"fleets": null`, `"fleets": [{"project":null,"name":"gpu"}]`, 1)
			if diff := cmp.Diff(want, string(d.Filled)); diff != "" {
				t.Errorf("%s/%s (-want +got):\n%s", c.Dstack, c.Name, diff)
			}
		}
	}
}
