package status_test

import (
	"os"
	"path/filepath"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	ours "github.com/dstack-isolation/operator/internal/status"
)

func sample[T any](t *testing.T, name string) *T {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "config", "samples", name))
	if err != nil {
		t.Fatal(err)
	}
	object := new(T)
	if err := yaml.UnmarshalStrict(text, object); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return object
}

// sampleBypasses are what only lists of fleets and backends close, which must name
// those that the reader has: with made-up names every run would be refused. So the
// sample has both lists in a comment, and isolationprofile-lists.yaml shows them.
var sampleBypasses = map[string]string{
	"isolationprofile.yaml sharedInstances": "jobs share nodes on daytona, kubernetes, lium, runpod, slurm and vastai whatever blocks says: allow only other backends in controls.backends",
	"isolationprofile.yaml importedFleets":  "a run that names no fleet may be placed on an imported one: set controls.fleets",
}

// TestSamplesLeaveOnlyTheBypassesThatNeedNames: on a server that runs with all that
// the sample asks for, the profiles of the samples have no bypass but sampleBypasses.
func TestSamplesLeaveOnlyTheBypassesThatNeedNames(t *testing.T) {
	server := sample[v1alpha1.DstackServer](t, "dstackserver.yaml")
	server.Namespace, server.Generation = "dstack", 1
	for _, name := range []string{"isolationprofile.yaml", "isolationprofile-lists.yaml"} {
		profile := sample[v1alpha1.IsolationProfile](t, name)
		profile.Namespace, profile.Generation = "dstack", 1
		view := goodView(resolve(server, profile))
		view.Running.SSHEnforcedPods = view.Running.Pods
		if permissions := server.Spec.DefaultPermissions; permissions != nil && permissions.AllowNonAdminsCreateProjects != nil && !*permissions.AllowNonAdminsCreateProjects {
			view.Running.DefaultPermissions = []string{dstack.PermissionCreateProjects + "=false"}
		}
		enforced := 0
		for _, row := range ours.Profile(profile, view, now).Effective {
			switch at := name + " " + string(row.Control); {
			case row.Standing == v1alpha1.StandingEnforced:
				enforced++
			case row.Standing != v1alpha1.StandingNotDenied && row.Message != sampleBypasses[at]:
				t.Errorf("%s is %s: %s", at, row.Standing, row.Message)
			}
		}
		if enforced < 10 {
			t.Errorf("%s: only %d controls are enforced", name, enforced)
		}
	}
}
