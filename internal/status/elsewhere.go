package status

import (
	"fmt"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// runsElsewhere tells of a server that is no workload of this namespace: how
// many processes it has and what they run with cannot be seen.
func runsElsewhere(s *v1alpha1.DstackServer) bool { return s.Spec.API.URL != "" }

// notVisible says of a policy that every policy server serves how far that can
// be told for a server that runs elsewhere.
func (v View) notVisible() Finding {
	return Unknown(v1alpha1.ReasonNotVisible, fmt.Sprintf(
		"every policy server decides by it, and whether every process of the dstack server asks them cannot be seen from here, since it runs elsewhere: see SettingsApplied of DstackServer %s", v.Effective.Name))
}

// askedByNobodySeen is what is known of a control that is served to a server
// which runs elsewhere.
const askedByNobodySeen = "the policy servers refuse it when they are asked, and it cannot be seen from here that every process of the dstack server asks them"

// networkNotSeen is the way that an unknown network mode leaves open: it counts
// as the weakest.
func networkNotSeen() way {
	return way{
		"the dstack server runs elsewhere, so that its network mode is not known, and a job that fills its instance may get the host network, from which it reaches the host's agent", "", onHost,
	}
}
