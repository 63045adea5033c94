package policy_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/policy"
)

// offers are the captured requests of "dstack offer"; see testdata/offers.
func offers(t testing.TB) []capture {
	t.Helper()
	files, err := filepath.Glob("testdata/offers/*/*.json")
	if err != nil || len(files) < 18 {
		t.Fatalf("found %d captured offers: %v", len(files), err)
	}
	all := make([]capture, len(files))
	for i, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &all[i]); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
	}
	return all
}

// lists has all that kept users from looking at offers: lists of registries and
// backends, and a rule about what only a run needs.
func lists() v1alpha1.IsolationProfile {
	return profile("lists", v1alpha1.LevelRestricted, func(s *spec) {
		s.Controls = &v1alpha1.Controls{
			Registries: &v1alpha1.AllowedRegistries{Allowed: []v1alpha1.RegistryName{"ghcr.io/example"}},
			Backends:   &v1alpha1.AllowedBackends{Allowed: []v1alpha1.BackendName{"aws", "remote"}},
		}
	}, ruled("ends", `offer || object.configuration.max_duration != null`, "runs must end"))
}

// TestOffers: members of a project with lists and rules can look at offers, of
// what the lists allow.
func TestOffers(t *testing.T) {
	for _, c := range offers(t) {
		t.Run(c.Dstack+"/"+c.Name, func(t *testing.T) {
			req, err := policy.Parse(c.kind(t), c.Request)
			if err != nil {
				t.Fatal(err)
			}
			d := policy.Decide(effective(lists()), policy.Running{NetworkMode: 3}, req, noon)
			if c.Name == "environment" { // an option of old releases, with which it is an ordinary run
				if want := []string{"backends", "registries", "rules/ends"}; !slices.Equal(controlsOf(d.Reasons), want) {
					t.Errorf("refused by %q, want %q", controlsOf(d.Reasons), want)
				}
				return
			}
			if !d.Allowed {
				t.Fatal(d.Message)
			}
			want := strings.Replace(string(req.Spec), `"backends": null`, `"backends": ["aws","remote"]`, 1)
			if c.Name == "backend" {
				want = ""
			}
			if diff := cmp.Diff(want, string(d.Filled)); diff != "" {
				t.Errorf("filled (-want +got):\n%s", diff)
			}
		})
	}
}

// offer is the request of "dstack offer", with more in the configuration and in
// the specification.
func offer(more, beside string) string {
	if more != "" {
		more = "," + more
	}
	return `{"configuration":{"type":"task","image":"scratch","commands":[":"],"user":"root"` + more + `}` + beside + `}`
}

// TestOfferIsRecognised: whatever carries a value beyond what dstack's client
// sends makes it an ordinary run, which the lists and the rule refuse.
func TestOfferIsRecognised(t *testing.T) {
	tests := map[string]struct {
		spec string
		want bool
	}{
		"bare":                    {offer("", ""), true},
		"of a preset":             {offer(`"fleets":["gpu"],"resources":{"gpu":null}`, `,"profile":null,"ssh_key_pub":null`), true},
		"filters":                 {offer(`"regions":["eu"],"max_price":1.5,"spot_policy":"spot","instance_types":["x"],"retry":true`, ""), true},
		"filters of the profile":  {offer("", `,"profile":{"name":"p","default":true,"max_duration":60,"reservation":"cr"}`), true},
		"defaults":                {offer(`"home_dir":"/root","nodes":1,"env":{},"volumes":[],"privileged":false,"setup":[]`, `,"run_name":null,"file_archives":[]`), true},
		"space in the commands":   {strings.Replace(offer("", ""), `[":"]`, `[ ":" ]`, 1), true},
		"an empty unknown key":    {offer(`"later":{"x":[]}`, ""), true},
		"another image":           {strings.Replace(offer("", ""), `"scratch"`, `"docker.io/scratch"`, 1), false},
		"another tag":             {strings.Replace(offer("", ""), `"scratch"`, `"scratch:1"`, 1), false},
		"other commands":          {strings.Replace(offer("", ""), `[":"]`, `[":","x"]`, 1), false},
		"no commands":             {strings.Replace(offer("", ""), `[":"]`, `[]`, 1), false},
		"another user":            {strings.Replace(offer("", ""), `"root"`, `"ada"`, 1), false},
		"no user":                 {strings.Replace(offer("", ""), `,"user":"root"`, ``, 1), false},
		"a dev environment":       {strings.Replace(offer("", ""), `"task"`, `"dev-environment"`, 1), false},
		"a service":               {strings.Replace(offer("", ""), `"task"`, `"service"`, 1), false},
		"another home":            {offer(`"home_dir":"/home"`, ""), false},
		"two nodes":               {offer(`"nodes":2`, ""), false},
		"groups":                  {offer(`"groups":[{"nodes":1}]`, ""), false},
		"a group with the image":  {`{"configuration":{"type":"task","commands":[":"],"user":"root","groups":[{"nodes":1,"image":"scratch"}]}}`, false},
		"environment":             {offer(`"env":{"A":"1"}`, ""), false},
		"an instance":             {offer(`"instances":["gpu-0"]`, ""), false},
		"an instance of profile":  {offer("", `,"profile":{"instances":["gpu-0"]}`), false},
		"tags":                    {offer(`"tags":{"a":"b"}`, ""), false},
		"tags of the profile":     {offer("", `,"profile":{"name":"p","tags":{"a":"b"}}`), false},
		"a schedule":              {offer(`"schedule":{"cron":["* * * * *"]}`, ""), false},
		"schedule of the profile": {offer("", `,"profile":{"schedule":{"cron":["* * * * *"]}}`), false},
		"a volume":                {offer(`"volumes":[{"name":"v","path":"/v"}]`, ""), false},
		"docker":                  {offer(`"docker":true`, ""), false},
		"registry credentials":    {offer(`"registry_auth":{"username":"u","password":"p"}`, ""), false},
		"an entrypoint":           {offer(`"entrypoint":"sh"`, ""), false},
		"files":                   {offer("", `,"file_archives":[{"id":"x","path":"/x"}]`), false},
		"a repo":                  {offer("", `,"repo_id":"x"`), false},
		"a name":                  {offer("", `,"run_name":"x"`), false},
		"a key":                   {offer("", `,"ssh_key_pub":"ssh-ed25519 AAAA"`), false},
		"an unknown key":          {offer(`"later":1`, ""), false},
		"a profile that is odd":   {offer("", `,"profile":{"later":"x"}`), false},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := decide(t, tc.spec, only(registryList("ghcr.io/example")))
			if d.Allowed != tc.want {
				t.Errorf("is taken for an offer: %t, want %t: %s", d.Allowed, tc.want, d.Message)
			}
			ruled := profile("ruled", v1alpha1.LevelOpen, ruled("r", `offer`, "no"))
			if d := decide(t, tc.spec, ruled); d.Allowed != tc.want {
				t.Errorf("a rule sees an offer: %t, want %t: %s", d.Allowed, tc.want, d.Message)
			}
		})
	}
}

// TestOfferIsBound: what is offered is what is allowed, also if it is applied.
func TestOfferIsBound(t *testing.T) {
	p := lists()
	p.Spec.Controls.Fleets = &v1alpha1.AllowedFleets{Allowed: []v1alpha1.FleetName{"a100"}}
	const fleets, backends = `"fleets":[{"project":null,"name":"a100"}]`, `"backends":["aws","remote"]`
	tests := map[string]struct {
		spec, filled, message string
	}{
		"nothing":            {spec: offer("", ""), filled: offer(fleets+","+backends, "")},
		"in another order":   {spec: offer(`"backends":null,"fleets":[ ]`, ""), filled: offer(backends+","+fleets, "")},
		"a fleet":            {spec: offer(`"fleets":["a100"]`, ""), filled: offer(`"fleets":["a100"],`+backends, "")},
		"backend of profile": {spec: offer("", `,"profile":{"backends":["aws"]}`), filled: offer(fleets, `,"profile":{"backends":["aws"]}`)},
		"an empty list":      {spec: offer(`"backends":[]`, `,"profile":{"backends":["gcp"]}`), filled: offer(backends+","+fleets, `,"profile":{"backends":["gcp"]}`)},
		"another backend": {
			spec:    offer(`"backends":["gcp"]`, ""),
			message: `backend "gcp" is not allowed in project "research-nlp": use only "aws", "remote" (profile dstack/lists, control backends).`,
		},
		"another fleet": {
			spec:    offer(`"fleets":["h200"]`, ""),
			message: `fleet "h200" is not allowed in project "research-nlp": use only "a100" (profile dstack/lists, control fleets).`,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := decide(t, tc.spec, p)
			if tc.message != "" {
				tc.message += " [isolation rev=" + d.Revision + "]"
			}
			if d.Message != tc.message {
				t.Errorf("got  %s\nwant %s", d.Message, tc.message)
			}
			if diff := cmp.Diff(tc.filled, string(d.Filled)); diff != "" {
				t.Errorf("filled (-want +got):\n%s", diff)
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

// TestOfferOfBackendsThatAReleaseMayNotKnow: dstack refuses what names one.
func TestOfferOfBackendsThatAReleaseMayNotKnow(t *testing.T) {
	list := only(backendList("aws", "lium", "no-such", "seeweb"))
	for release, want := range map[string]string{
		"": `["aws"]`, "0.20.28": `["aws"]`, "0.21.5": `["aws","seeweb"]`, "0.22.5": `["aws","lium","seeweb"]`, "0.23.0": `["aws","lium","seeweb"]`,
		"odd": `["aws","lium","seeweb"]`,
	} {
		req := runRequest(offer("", ""))
		req.Process = &policy.Process{DstackVersion: release}
		d := policy.Decide(effective(list), policy.Running{}, req, noon)
		if got := string(d.Filled); got != offer(`"backends":`+want, "") {
			t.Errorf("%q: got %s %s, want %s", release, got, d.Message, want)
		}
	}
	d := decide(t, offer("", ""), only(backendList("lium")))
	const message = `this run names no backend, so that any could be used, which is not allowed in project "research-nlp": set backends to "lium" (profile dstack/research, control backends).`
	if want := message + " [isolation rev=" + d.Revision + "]"; d.Message != want {
		t.Errorf("got %s, want %s", d.Message, want)
	}
}

// TestRulesHoldForOffers, and say so: what a rule lets pass by "offer" is up to
// its author.
func TestRulesHoldForOffers(t *testing.T) {
	p := profile("ruled", v1alpha1.LevelOpen, ruled("ends", `has(object.configuration.max_duration)`, "runs must end"), hint("Ask #gpu."))
	d := decide(t, offer("", ""), p)
	want := `runs must end (profile dstack/ruled, rule ends). The rules of this project hold for dstack offer too: add the options that they require, ` +
		`such as --max-duration, or ask the administrator to exempt offers. Ask #gpu. [isolation rev=` + d.Revision + `]`
	if d.Message != want {
		t.Errorf("got\n%s\nwant\n%s", d.Message, want)
	}
	if d := decide(t, offer(`"max_duration":3600`, ""), p); !d.Allowed {
		t.Error(d.Message)
	}
	if d := decide(t, task(""), p); strings.Contains(d.Message, "dstack offer") {
		t.Errorf("of an ordinary run is said: %s", d.Message)
	}
	fleet := profile("fleets", v1alpha1.LevelOpen, ruled("r", `!offer`, "no"), ofKind(v1alpha1.RuleKindFleet))
	if d := decideKind(t, dstack.KindFleet, `{"configuration":{"type":"fleet","nodes":1}}`, fleet); !d.Allowed {
		t.Error(d.Message)
	}
}
