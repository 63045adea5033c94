package isolation

import (
	"fmt"
	"testing"

	"k8s.io/apimachinery/pkg/types"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// manyProfiles are n profiles of different projects: by a beginning, by whole
// names, and by an end; and one that governs all.
func manyProfiles(n int) []v1alpha1.IsolationProfile {
	all := make([]v1alpha1.IsolationProfile, 0, n)
	all = append(all, newProfile("all", "Baseline", allowPaths("/data", "/models")))
	for i := 1; i < n; i++ {
		pattern := []string{"team-%05d-*", "name-%05d", "*-%05d-end"}[i%3]
		all = append(all, newProfile(fmt.Sprintf("p%05d", i), "Restricted",
			include(v1alpha1.ProjectPattern(fmt.Sprintf(pattern, i))),
			override(v1alpha1.Controls{Fleets: &v1alpha1.AllowedFleets{Allowed: []v1alpha1.FleetName{"a100", "h200"}}}),
			except("x", "ada", noon, "privileged")))
	}
	return all
}

var sizes = []int{1, 100, 1000, 10000}

func BenchmarkResolve(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			server, profiles := newServer("Restricted"), manyProfiles(n)
			for b.Loop() {
				resolve(server, profiles...)
			}
		})
	}
}

// BenchmarkResolveOneChanged is what a change of one profile costs.
func BenchmarkResolveOneChanged(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			in := Input{Server: newServer("Restricted"), Profiles: manyProfiles(n), Now: noon}
			for i := range in.Profiles {
				in.Profiles[i].UID = types.UID(in.Profiles[i].Name)
			}
			for b.Loop() {
				in.Profiles[n/2].Generation++
				in.Previous = Resolve(in)
			}
		})
	}
}

// BenchmarkForProject is what a decision asks: who governs, and what holds.
func BenchmarkForProject(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			e := resolve(newServer("Restricted"), manyProfiles(n)...)
			for b.Loop() {
				e.ForProject("team-00501-nlp").Enforced("ada", noon)
			}
		})
	}
}

// BenchmarkAtLeast is what the status of one profile asks.
func BenchmarkAtLeast(b *testing.B) {
	for _, n := range sizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			e := resolve(newServer("Restricted"), manyProfiles(n)...)
			for b.Loop() {
				e.AtLeast(e.Profiles[n/2])
			}
		})
	}
}
