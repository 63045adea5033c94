package status_test

import (
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/testkit"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func resolve(s *v1alpha1.DstackServer, profiles ...*v1alpha1.IsolationProfile) *isolation.Effective {
	in := isolation.Input{Server: s, Now: now}
	for _, p := range profiles {
		in.Profiles = append(in.Profiles, *p)
	}
	return isolation.Resolve(in)
}

// running is two server pods that ask, in a network mode.
func running(mode v1alpha1.NetworkMode) *v1alpha1.RunningSettings {
	return &v1alpha1.RunningSettings{Pods: 2, PolicyPods: 2, NetworkMode: mode, Deliveries: []v1alpha1.Delivery{v1alpha1.DeliveryPython}}
}

// goodFacts are those of a server on which everything is in force.
func goodFacts(e *isolation.Effective) status.ServerFacts {
	return status.ServerFacts{
		Effective:    e,
		Accepted:     status.OK(v1alpha1.ReasonAccepted, "accepted"),
		PolicyPlugin: status.OK(v1alpha1.ReasonServing, "serving"),
		SSHProxy:     status.OK(v1alpha1.ReasonAnswering, "answering"),
		Settings:     status.OK(v1alpha1.ReasonApplied, "applied"),
		Pods:         status.OK(v1alpha1.ReasonOwned, "owned"),
		Connected:    status.OK(v1alpha1.ReasonConnected, "connected"),
		Served:       e.Revision,
		Running:      running(e.Plan.NetworkMode),
		Version:      status.Version{Release: "0.22.5"},
		Revisions:    v1alpha1.SettingsRevisions{Applied: "5e771465", Proven: "5e771465"},
	}
}

// goodView is what a profile sees of such a server.
func goodView(e *isolation.Effective) status.View {
	return status.View{Effective: e, Served: e.Revision, Running: running(e.Plan.NetworkMode), Proven: true, Version: goodFacts(e).Version, SSHProxy: goodFacts(e).SSHProxy}
}

// managed is an SSH proxy that the operator runs.
func managed() v1alpha1.SSHProxy {
	return v1alpha1.SSHProxy{Managed: &v1alpha1.ManagedSSHProxy{Address: "ssh.example.com"}}
}

// restricted is a profile that denies all that this release can enforce.
func restricted(name string) *testkit.Profile {
	return testkit.MakeProfile(name).Level(v1alpha1.LevelRestricted).AllowHostSSH().Generation(1)
}

// short is a condition without time, such as "Ready=False/Pending stalled: …".
func short(conditions []metav1.Condition, kind string) string {
	c := meta.FindStatusCondition(conditions, kind)
	if c == nil {
		return kind + " is missing"
	}
	return c.Type + "=" + string(c.Status) + "/" + c.Reason + ": " + c.Message
}

func mustBe(t *testing.T, conditions []metav1.Condition, kind, want string) {
	t.Helper()
	if got := short(conditions, kind); got != want {
		t.Errorf("\ngot  %s\nwant %s", got, want)
	}
}

func withRevision(text, revision string) string {
	return strings.ReplaceAll(text, "REVISION", revision)
}

// without is a view without what holds for the server, which is long.
func without(v status.View) status.View {
	v.Effective = nil
	return v
}
