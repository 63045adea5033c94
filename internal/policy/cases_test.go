package policy_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/policy"
)

var noon = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)

// capture is one body that a real dstack server sent; see testdata/cases.
type capture struct {
	Name     string
	Dstack   string
	Path     string
	Request  json.RawMessage
	DeniedBy map[v1alpha1.Level][]string `json:"denied_by"`
}

func (c capture) kind(t testing.TB) dstack.ApplyKind {
	t.Helper()
	for _, kind := range dstack.ApplyKinds() {
		if dstack.ApplyPath(kind) == c.Path {
			return kind
		}
	}
	t.Fatalf("%s: no kind has the path %s", c.Name, c.Path)
	return ""
}

func captures(t testing.TB) []capture {
	t.Helper()
	files, err := filepath.Glob("testdata/cases/*/*.json")
	if err != nil || len(files) < 100 {
		t.Fatalf("found %d captured cases: %v", len(files), err)
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

func captured(t testing.TB, release, name string) capture {
	t.Helper()
	for _, c := range captures(t) {
		if c.Dstack == release && c.Name == name {
			return c
		}
	}
	t.Fatalf("no captured case %s of %s", name, release)
	return capture{}
}

// server is a DstackServer whose unmatched projects are open.
func server() *v1alpha1.DstackServer {
	return &v1alpha1.DstackServer{
		ObjectMeta: metav1.ObjectMeta{Namespace: "dstack", Name: "main"},
		Spec: v1alpha1.DstackServerSpec{UnmatchedProjects: v1alpha1.UnmatchedProjects{
			Level: v1alpha1.LevelOpen, Enforcement: v1alpha1.EnforcementEnforce,
		}},
	}
}

func profile(name string, level v1alpha1.Level, change ...func(*v1alpha1.IsolationProfileSpec)) v1alpha1.IsolationProfile {
	p := v1alpha1.IsolationProfile{
		ObjectMeta: metav1.ObjectMeta{Namespace: "dstack", Name: name},
		Spec: v1alpha1.IsolationProfileSpec{
			ServerRef: v1alpha1.LocalObjectReference{Name: "main"},
			Projects:  v1alpha1.ProjectSelector{Include: []v1alpha1.ProjectPattern{"research-*"}},
			Level:     level,
		},
	}
	for _, c := range change {
		c(&p.Spec)
	}
	return p
}

func effective(profiles ...v1alpha1.IsolationProfile) *isolation.Effective {
	return isolation.Resolve(isolation.Input{Server: server(), Profiles: profiles, Now: noon})
}

func controlsOf(reasons []policy.Reason) []string {
	var names []string
	for _, r := range reasons {
		names = append(names, r.Control)
	}
	return names
}

func isControl(name string) bool {
	_, ok := isolation.ControlByName(v1alpha1.ControlName(name))
	return ok
}

func TestCapturedCases(t *testing.T) {
	for _, c := range captures(t) {
		for _, level := range []v1alpha1.Level{v1alpha1.LevelBaseline, v1alpha1.LevelRestricted} {
			t.Run(c.Dstack+"/"+c.Name+"/"+string(level), func(t *testing.T) {
				req, err := policy.Parse(c.kind(t), c.Request)
				if err != nil {
					t.Fatal(err)
				}
				checkEcho(t, c.Request, req.Spec)
				d := policy.Decide(effective(profile("research", level)), policy.Running{NetworkMode: 3}, req, noon)

				want := slices.DeleteFunc(slices.Clone(c.DeniedBy[level]), func(n string) bool { return !isControl(n) })
				got := slices.Compact(controlsOf(d.Reasons))
				slices.Sort(want)
				slices.Sort(got)
				if !slices.Equal(got, want) {
					t.Errorf("reasons are of the controls %q, want %q\n%s", got, want, d.Message)
				}
				checkConsistent(t, d)
				for _, name := range want {
					if !strings.Contains(d.Message, "control "+name+")") {
						t.Errorf("message does not name %s: %s", name, d.Message)
					}
				}
			})
		}
	}
}

// checkEcho holds that the specification is the very bytes of the body, not a
// copy.
func checkEcho(t *testing.T, body, spec []byte) {
	t.Helper()
	var sent struct{ Spec json.RawMessage }
	if err := json.Unmarshal(body, &sent); err != nil {
		t.Fatal(err)
	}
	if string(sent.Spec) != string(spec) {
		t.Errorf("spec is not what was sent")
	}
	for i := range body {
		if &body[i] == &spec[0] {
			return
		}
	}
	t.Error("spec is a copy")
}

// checkConsistent holds what is true of every decision.
func checkConsistent(t testing.TB, d policy.Decision) {
	t.Helper()
	if d.Allowed != (len(d.Reasons) == 0) || d.Allowed != (d.Message == "") {
		t.Errorf("allowed is %t with %d reasons and the message %q", d.Allowed, len(d.Reasons), d.Message)
	}
	if d.Allowed {
		return
	}
	if !strings.HasSuffix(d.Message, " [isolation rev="+d.Revision+"]") {
		t.Errorf("message does not end with the revision: %s", d.Message)
	}
	if n := len([]rune(d.Message)); n > 2000 {
		t.Errorf("message has %d characters", n)
	}
	for _, r := range d.Reasons {
		if r.Control == "" || r.Field == "" || r.Message == "" || (len(r.Profiles) == 0) != (r.Control == policy.ControlSpec) {
			t.Errorf("incomplete reason %+v", r)
		}
	}
}
