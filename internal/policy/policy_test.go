package policy_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/policy"
)

type spec = v1alpha1.IsolationProfileSpec

func audit(s *spec) { s.Enforcement = v1alpha1.EnforcementAudit }

func hint(text string) func(*spec) { return func(s *spec) { s.Hint = text } }

func controls(c v1alpha1.Controls) func(*spec) { return func(s *spec) { s.Controls = &c } }

func exception(name string, until time.Time, controls ...v1alpha1.ControlName) func(*spec) {
	return func(s *spec) {
		x := v1alpha1.Exception{Name: name, Users: []string{"ada"}, Controls: controls, Reason: "test"}
		if !until.IsZero() {
			x.ExpiresAt = &metav1.Time{Time: until}
		}
		s.Exceptions = append(s.Exceptions, x)
	}
}

func TestHostNetwork(t *testing.T) {
	distributed, alone := task(`"nodes":2`), task(`"nodes":1`)
	denied := v1alpha1.Controls{HostNetwork: v1alpha1.HostNetwork("Denied")}
	tests := map[string]struct {
		controls v1alpha1.Controls
		running  v1alpha1.NetworkMode
		process  *policy.Process
		refused  bool
	}{
		"mode 3":                         {denied, 3, nil, false},
		"mode 1":                         {denied, 1, nil, true},
		"mode 2":                         {denied, 2, nil, true},
		"mode unknown":                   {denied, 0, nil, true},
		"mode 3, process agrees":         {denied, 3, &policy.Process{JobNetworkMode: new(3)}, false},
		"mode 3, process has 1":          {denied, 3, &policy.Process{JobNetworkMode: new(1)}, true},
		"mode 3, process has 2":          {denied, 3, &policy.Process{JobNetworkMode: new(2)}, true},
		"mode 3, process cannot tell":    {denied, 3, &policy.Process{}, true},
		"mode 3, process says something": {denied, 3, &policy.Process{JobNetworkMode: new(4)}, true},
		"mode 1, process has 3":          {denied, 1, &policy.Process{JobNetworkMode: new(3)}, true},
		"mode unknown, process has 3":    {denied, 0, &policy.Process{JobNetworkMode: new(3)}, true},
		"for distributed tasks":          {v1alpha1.Controls{HostNetwork: "DistributedOnly"}, 2, nil, false},
		"allowed":                        {v1alpha1.Controls{HostNetwork: "Allowed"}, 2, nil, false},
		"unknown value":                  {v1alpha1.Controls{HostNetwork: "Never"}, 1, nil, true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			eff := effective(profile("research", v1alpha1.LevelOpen, controls(tc.controls)))
			running := policy.Running{NetworkMode: tc.running}
			req := runRequest(distributed)
			req.Process = tc.process
			d := policy.Decide(eff, running, req, noon)
			want := []string{}
			if tc.refused {
				want = []string{"hostNetwork configuration.nodes"}
			}
			if diff := cmp.Diff(want, fields(d.Reasons)); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			req.Spec = []byte(alone)
			if d := policy.Decide(eff, running, req, noon); !d.Allowed {
				t.Errorf("a run of one node is refused: %s", d.Message)
			}
		})
	}
}

func TestAudit(t *testing.T) {
	dangerous := task(`"privileged":true,"nodes":2,"volumes":[{"instance_path":"/etc","path":"/x"},{"instance_path":"/data","path":"/x"}]`)
	watching := profile("a-watching", v1alpha1.LevelRestricted, audit)

	alone := decide(t, dangerous, watching)
	if !alone.Allowed {
		t.Errorf("a profile in audit mode refuses: %s", alone.Message)
	}
	want := []string{
		"distributedTasks configuration.nodes",
		"instanceVolumes configuration.volumes[0].instance_path", "instanceVolumes configuration.volumes[1].instance_path",
		"privileged configuration.privileged",
	}
	if diff := cmp.Diff(want, fields(alone.Audited)); diff != "" {
		t.Errorf("audited (-want +got):\n%s", diff)
	}

	beside := decide(t, dangerous, watching, profile("b", v1alpha1.LevelBaseline, allowedPaths("/data")))
	want = []string{"instanceVolumes configuration.volumes[0].instance_path", "privileged configuration.privileged"}
	if diff := cmp.Diff(want, fields(beside.Reasons)); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{
		"distributedTasks configuration.nodes", "instanceVolumes configuration.volumes[1].instance_path",
	}, fields(beside.Audited)); diff != "" {
		t.Errorf("audited beside (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"b"}, beside.Reasons[0].Profiles); diff != "" {
		t.Errorf("profiles (-want +got):\n%s", diff)
	}
}

func TestExceptions(t *testing.T) {
	privileged := task(`"privileged":true`)
	deny := controls(v1alpha1.Controls{Privileged: "Denied"})
	a := profile("a", v1alpha1.LevelOpen, deny, exception("x", noon.Add(time.Second), v1alpha1.ControlPrivileged))
	b := profile("b", v1alpha1.LevelOpen, deny)
	bToo := profile("b", v1alpha1.LevelOpen, deny, exception("y", time.Time{}, v1alpha1.ControlPrivileged))
	tests := map[string]struct {
		profiles []v1alpha1.IsolationProfile
		spec     string
		user     string
		now      time.Time
		lifted   []string
		refused  []string // profiles
	}{
		"lifted":                   {[]v1alpha1.IsolationProfile{a}, privileged, "ada", noon, []string{"a/x"}, nil},
		"nothing to lift":          {[]v1alpha1.IsolationProfile{a}, task(""), "ada", noon, nil, nil},
		"other user":               {[]v1alpha1.IsolationProfile{a}, privileged, "Ada", noon, nil, []string{"a"}},
		"ended":                    {[]v1alpha1.IsolationProfile{a}, privileged, "ada", noon.Add(time.Second), nil, []string{"a"}},
		"a moment before":          {[]v1alpha1.IsolationProfile{a}, privileged, "ada", noon.Add(time.Second - 1), []string{"a/x"}, nil},
		"another denies":           {[]v1alpha1.IsolationProfile{a, b}, privileged, "ada", noon, nil, []string{"b"}},
		"another that lifts it":    {[]v1alpha1.IsolationProfile{a, bToo}, privileged, "ada", noon, []string{"a/x", "b/y"}, nil},
		"refused for another case": {[]v1alpha1.IsolationProfile{a, profile("c", v1alpha1.LevelOpen, controls(v1alpha1.Controls{DistributedTasks: "Denied"}))}, task(`"privileged":true,"nodes":2`), "ada", noon, []string{"a/x"}, []string{"c"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			req := runRequest(tc.spec)
			req.User = tc.user
			d := policy.Decide(effective(tc.profiles...), policy.Running{NetworkMode: 3}, req, tc.now)
			checkConsistent(t, d)
			if diff := cmp.Diff(tc.lifted, d.Lifted); diff != "" {
				t.Errorf("lifted (-want +got):\n%s", diff)
			}
			var refused []string
			for _, r := range d.Reasons {
				refused = append(refused, r.Profiles...)
			}
			if diff := cmp.Diff(tc.refused, refused); diff != "" {
				t.Errorf("refused by (-want +got):\n%s", diff)
			}
		})
	}
}

// TestOtherKinds: what cannot be read is refused in every kind.
func TestOtherKinds(t *testing.T) {
	tests := map[string]struct {
		kind dstack.ApplyKind
		spec string
		want string
	}{
		"fleet, a list":       {dstack.KindFleet, `[]`, "this fleet is not understood and so not allowed in project \"research-nlp\": it is a list and not an object"},
		"volume, key twice":   {dstack.KindVolume, `{"a":{"b":1,"b":1}}`, "this volume is not understood and so not allowed in project \"research-nlp\": it has a key twice in one object"},
		"gateway, more after": {dstack.KindGateway, `{}{}`, "this gateway is not understood and so not allowed in project \"research-nlp\": it is followed by something else"},
		"unknown kind":        {"pod", `{}`, "this request is not understood and so not allowed in project \"research-nlp\": it is of a kind that is not known to this release"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			req := &policy.Request{Kind: tc.kind, User: "ada", Project: "research-nlp", Spec: []byte(tc.spec)}
			d := policy.Decide(effective(profile("research", v1alpha1.LevelDedicated)), policy.Running{}, req, noon)
			checkConsistent(t, d)
			got := ""
			if len(d.Reasons) > 0 {
				got = d.Reasons[0].Message
			}
			if got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

// TestKnownTypesOfKeys: keys as ssh-keygen writes them pass.
func TestKnownTypesOfKeys(t *testing.T) {
	rsaPrivate, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	keys := []any{&rsaPrivate.PublicKey}
	for _, curve := range []elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()} {
		private, err := ecdsa.GenerateKey(curve, rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, &private.PublicKey)
	}
	lines := []string{plainKey, securityKey(t)}
	for _, key := range keys {
		public, err := ssh.NewPublicKey(key)
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(public)), "\n"))
	}
	for _, line := range lines {
		for _, end := range []string{"", "\n", " ada@laptop", " dstack\n"} {
			d := decide(t, strings.Replace(task(""), "null", quoteJSON(t, line+end), 1), profile("r", v1alpha1.LevelBaseline))
			if !d.Allowed {
				t.Errorf("%.30s… with %q is refused: %s", line, end, d.Message)
			}
		}
	}
}

// securityKey is the public half of an Ed25519 key on a hardware token.
func securityKey(t *testing.T) string {
	t.Helper()
	plain, _, _, _, err := ssh.ParseAuthorizedKey([]byte(plainKey))
	if err != nil {
		t.Fatal(err)
	}
	point := plain.Marshal()[len(plain.Marshal())-32:]
	blob := ssh.Marshal(struct {
		Type        string
		Point       []byte
		Application string
	}{ssh.KeyAlgoSKED25519, point, "ssh:"})
	return ssh.KeyAlgoSKED25519 + " " + base64.StdEncoding.EncodeToString(blob)
}
