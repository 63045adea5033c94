package status_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	ours "github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// BenchmarkProfile is the status of one profile among others of its server. A
// change of the server asks it of each.
func BenchmarkProfile(b *testing.B) {
	for _, n := range []int{1, 100, 1000, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			all := []*v1alpha1.IsolationProfile{restricted("all").Include("*").Obj()}
			for i := range n {
				all = append(all, restricted(fmt.Sprintf("team-%05d", i)).Exception("lead", now.Add(time.Hour), v1alpha1.ControlPrivileged).Obj())
			}
			view := goodView(resolve(testkit.MakeServer("main").Obj(), all...))
			for b.Loop() {
				ours.Profile(all[(n+1)/2], view, now)
			}
		})
	}
}
