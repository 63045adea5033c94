package policy_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
)

// TestFleetThatSharesNodes: on Kubernetes jobs share nodes although blocks is 1.
// Nothing in the fleet tells, so it is allowed, and status calls sharedInstances
// Bypassable there; the list of backends refuses it.
func TestFleetThatSharesNodes(t *testing.T) {
	spec := fleet(`"backends":["kubernetes"],"nodes":{"min":0,"max":2},"blocks":1`)
	if d := decideKind(t, dstack.KindFleet, spec, profile("research", v1alpha1.LevelRestricted)); len(d.Reasons) > 0 {
		t.Errorf("refused: %+v", d.Reasons)
	}
	listed := profile("research", v1alpha1.LevelRestricted, func(p *v1alpha1.IsolationProfileSpec) {
		p.Controls = &v1alpha1.Controls{Backends: &v1alpha1.AllowedBackends{Allowed: []v1alpha1.BackendName{"aws"}}}
	})
	d := decideKind(t, dstack.KindFleet, spec, listed)
	if diff := cmp.Diff([]string{"backends"}, controlsOf(d.Reasons)); diff != "" {
		t.Errorf("with a list of backends (-want +got):\n%s", diff)
	}
}
