package isolation

import (
	"regexp"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// TestRevisionDiffers whenever something is decided differently.
func TestRevisionDiffers(t *testing.T) {
	base := func() (*v1alpha1.DstackServer, v1alpha1.IsolationProfile) {
		return newServer("Restricted"), newProfile("p", "Open", allowPaths("/a", "/b"), include("x", "y"), exclude("z"),
			except("e", "ada", noon, "privileged"), func(s *spec) { s.Hint = "Ask." }, ruled("r", "true"), ruled("s", "user == 'a'"))
	}
	type change = func(*v1alpha1.DstackServer, *v1alpha1.IsolationProfile)
	ofSpec := func(f func(*spec)) change {
		return func(_ *v1alpha1.DstackServer, p *v1alpha1.IsolationProfile) { f(&p.Spec) }
	}
	changes := map[string]change{
		"nothing":   func(*v1alpha1.DstackServer, *v1alpha1.IsolationProfile) {},
		"namespace": func(s *v1alpha1.DstackServer, p *v1alpha1.IsolationProfile) { s.Namespace, p.Namespace = "x", "x" },
		"server":    func(s *v1alpha1.DstackServer, p *v1alpha1.IsolationProfile) { s.Name, p.Spec.ServerRef.Name = "x", "x" },
		"unmatched": func(s *v1alpha1.DstackServer, _ *v1alpha1.IsolationProfile) { s.Spec.UnmatchedProjects.Level = "Open" },
		"enforcement": func(s *v1alpha1.DstackServer, _ *v1alpha1.IsolationProfile) {
			s.Spec.UnmatchedProjects.Enforcement = "Audit"
		},
		"unmatched control": func(s *v1alpha1.DstackServer, _ *v1alpha1.IsolationProfile) {
			s.Spec.UnmatchedProjects.Controls = &v1alpha1.Controls{SSHFleets: "Allowed"}
		},
		"unmatched list": func(s *v1alpha1.DstackServer, _ *v1alpha1.IsolationProfile) {
			s.Spec.UnmatchedProjects.Controls = &v1alpha1.Controls{Fleets: &v1alpha1.AllowedFleets{Allowed: []v1alpha1.FleetName{"a"}}}
		},
		"name":    func(_ *v1alpha1.DstackServer, p *v1alpha1.IsolationProfile) { p.Name = "q" },
		"level":   ofSpec(func(s *spec) { s.Level = "Baseline" }),
		"audit":   ofSpec(audited),
		"hint":    ofSpec(func(s *spec) { s.Hint = "Ask me." }),
		"include": ofSpec(include("x")),
		"joined":  ofSpec(include("xy")),
		"moved": ofSpec(func(s *spec) {
			s.Projects.Include, s.Projects.Exclude = s.Projects.Include[:1], []v1alpha1.ProjectPattern{"y", "z"}
		}),
		"exclude":  ofSpec(exclude("z", "w")),
		"paths":    ofSpec(allowPaths("/a")),
		"control":  ofSpec(func(s *spec) { s.Controls.Privileged = "Denied" }),
		"fleets":   ofSpec(func(s *spec) { s.Controls.Fleets = &v1alpha1.AllowedFleets{Allowed: []v1alpha1.FleetName{"a", "b"}} }),
		"fleet":    ofSpec(func(s *spec) { s.Controls.Fleets = &v1alpha1.AllowedFleets{Allowed: []v1alpha1.FleetName{"a"}} }),
		"backends": ofSpec(func(s *spec) { s.Controls.Backends = &v1alpha1.AllowedBackends{Allowed: []v1alpha1.BackendName{"a"}} }),
		"registries": ofSpec(func(s *spec) {
			s.Controls.Registries = &v1alpha1.AllowedRegistries{Allowed: []v1alpha1.RegistryName{"a"}}
		}),
		"unknown fields": ofSpec(func(s *spec) { s.Controls.UnknownFields = "DeniedIfSet" }),
		"exception":      ofSpec(func(s *spec) { s.Exceptions = nil }),
		"its name":       ofSpec(func(s *spec) { s.Exceptions[0].Name = "f" }),
		"user":           ofSpec(func(s *spec) { s.Exceptions[0].Users = []string{"Ada"} }),
		"users":          ofSpec(func(s *spec) { s.Exceptions[0].Users = []string{"a", "da"} }),
		"lifts":          ofSpec(func(s *spec) { s.Exceptions[0].Controls = []v1alpha1.ControlName{"distributedTasks"} }),
		"end":            ofSpec(func(s *spec) { s.Exceptions[0].ExpiresAt.Time = noon.Add(time.Second) }),
		"no end":         ofSpec(func(s *spec) { s.Exceptions[0].ExpiresAt = nil }),
		"rule":           ofSpec(func(s *spec) { s.Rules = s.Rules[:1] }),
		"no rules":       ofSpec(func(s *spec) { s.Rules = nil }),
		"rule name":      ofSpec(func(s *spec) { s.Rules[0].Name = "q" }),
		"rule kind":      ofSpec(func(s *spec) { s.Rules[0].Kind = v1alpha1.RuleKindFleet }),
		"expression":     ofSpec(func(s *spec) { s.Rules[0].Expression = "false" }),
		"broken":         ofSpec(func(s *spec) { s.Rules[0].Expression = "fals" }),
		"broken too":     ofSpec(func(s *spec) { s.Rules[0].Expression = "fal" }),
		"message":        ofSpec(func(s *spec) { s.Rules[0].Message = "never" }),
		"rule hint":      ofSpec(func(s *spec) { s.Rules[0].Hint = "never" }),
	}
	seen := make(map[string]string)
	for name, change := range changes {
		server, p := base()
		change(server, &p)
		revision := resolve(server, p).Revision
		if !regexp.MustCompile(`^[0-9a-f]{8}$`).MatchString(revision) {
			t.Errorf("%s: revision is %q", name, revision)
		}
		if other, found := seen[revision]; found {
			t.Errorf("%s and %s have the same revision", name, other)
		}
		seen[revision] = name
	}
}

// TestRevisionStays the same when nothing is decided differently.
func TestRevisionStays(t *testing.T) {
	p := newProfile("p", "Restricted", include("Team-*"), except("x", "ada", noon, "privileged"),
		override(v1alpha1.Controls{Registries: &v1alpha1.AllowedRegistries{Allowed: []v1alpha1.RegistryName{"a", "b"}}}))
	want := resolve(newServer("Open"), p).Revision
	same := map[string]func(*v1alpha1.IsolationProfile){
		"generation":       func(p *v1alpha1.IsolationProfile) { p.Generation = 7 },
		"labels":           func(p *v1alpha1.IsolationProfile) { p.Labels = map[string]string{"a": "b"} },
		"status":           func(p *v1alpha1.IsolationProfile) { p.Status.ObservedGeneration = 7 },
		"default version":  func(p *v1alpha1.IsolationProfile) { p.Spec.LevelVersion = "v1" },
		"default enforces": func(p *v1alpha1.IsolationProfile) { p.Spec.Enforcement = "Enforce" },
		"case of patterns": func(p *v1alpha1.IsolationProfile) { include("team-*")(&p.Spec) },
		"what it is":       func(p *v1alpha1.IsolationProfile) { p.Spec.Controls.Privileged = "Denied" },
		"time zone": func(p *v1alpha1.IsolationProfile) {
			p.Spec.Exceptions[0].ExpiresAt.Time = noon.In(time.FixedZone("x", 3600))
		},
		"order of a list": func(p *v1alpha1.IsolationProfile) {
			p.Spec.Controls = &v1alpha1.Controls{Registries: &v1alpha1.AllowedRegistries{Allowed: []v1alpha1.RegistryName{"b", "a/c", "a"}}}
		},
		"reason": func(p *v1alpha1.IsolationProfile) { p.Spec.Exceptions[0].Reason = "other" },
	}
	for name, change := range same {
		q := *p.DeepCopy()
		change(&q)
		if got := resolve(newServer("Open"), q).Revision; got != want {
			t.Errorf("%s: %s became %s", name, want, got)
		}
	}
	if got := Resolve(Input{Server: newServer("Open"), Profiles: []v1alpha1.IsolationProfile{p}, Now: noon.Add(time.Hour)}).Revision; got != want {
		t.Errorf("an hour later %s became %s", want, got)
	}
}

// TestEqualRevisionsDecideAlike over made-up policies.
func TestEqualRevisionsDecideAlike(t *testing.T) {
	seen := make(map[string]string)
	rapid.Check(t, func(t *rapid.T) {
		e := resolve(drawServer(t), drawProfiles(t)...)
		all := ""
		for _, d := range decisions(e) {
			all += d + "\n"
		}
		if before, found := seen[e.Revision]; found && before != all {
			t.Fatalf("revision %s decides in two ways", e.Revision)
		}
		seen[e.Revision] = all
	})
}
