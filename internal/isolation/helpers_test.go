package isolation

import (
	"time"

	"github.com/google/go-cmp/cmp/cmpopts"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// cmpEmpty takes an empty map for none.
var cmpEmpty = cmpopts.EquateEmpty()

var noon = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)

type spec = v1alpha1.IsolationProfileSpec

// newServer has unmatched projects at the level, enforced.
func newServer(level v1alpha1.Level) *v1alpha1.DstackServer {
	return &v1alpha1.DstackServer{
		ObjectMeta: metav1.ObjectMeta{Namespace: "dstack", Name: "main"},
		Spec: v1alpha1.DstackServerSpec{UnmatchedProjects: v1alpha1.UnmatchedProjects{
			Level: level, Enforcement: v1alpha1.EnforcementEnforce,
		}},
	}
}

// withControls overrides controls of unmatched projects.
func withControls(s *v1alpha1.DstackServer, c v1alpha1.Controls) *v1alpha1.DstackServer {
	s.Spec.UnmatchedProjects.Controls = &c
	return s
}

// newProfile governs all projects.
func newProfile(name string, level v1alpha1.Level, change ...func(*spec)) v1alpha1.IsolationProfile {
	p := v1alpha1.IsolationProfile{
		ObjectMeta: metav1.ObjectMeta{Namespace: "dstack", Name: name},
		Spec: spec{
			ServerRef: v1alpha1.LocalObjectReference{Name: "main"},
			Projects:  v1alpha1.ProjectSelector{Include: []v1alpha1.ProjectPattern{"*"}},
			Level:     level,
		},
	}
	for _, c := range change {
		c(&p.Spec)
	}
	return p
}

func resolve(server *v1alpha1.DstackServer, profiles ...v1alpha1.IsolationProfile) *Effective {
	return Resolve(Input{Server: server, Profiles: profiles, Now: noon})
}

func audited(s *spec) { s.Enforcement = v1alpha1.EnforcementAudit }

func include(patterns ...v1alpha1.ProjectPattern) func(*spec) {
	return func(s *spec) { s.Projects.Include = patterns }
}

func exclude(patterns ...v1alpha1.ProjectPattern) func(*spec) {
	return func(s *spec) { s.Projects.Exclude = patterns }
}

func override(c v1alpha1.Controls) func(*spec) { return func(s *spec) { s.Controls = &c } }

func allowPaths(paths ...v1alpha1.InstancePath) func(*spec) {
	return override(v1alpha1.Controls{InstanceVolumes: &v1alpha1.InstanceVolumes{Mode: ModeAllowedPaths, Paths: paths}})
}

func except(name, user string, until time.Time, controls ...v1alpha1.ControlName) func(*spec) {
	return func(s *spec) {
		x := v1alpha1.Exception{Name: name, Users: []string{user}, Controls: controls, Reason: "test"}
		if !until.IsZero() {
			x.ExpiresAt = &metav1.Time{Time: until}
		}
		s.Exceptions = append(s.Exceptions, x)
	}
}
