package dstack

import (
	"fmt"

	"k8s.io/apimachinery/pkg/util/version"
)

// Releases of dstack that matter to the operator.
const (
	// OldestRelease is the first whose plugin contract is supported.
	OldestRelease = "0.20.16"
	// FirstGuardedRelease is the first in which every way to create a run asks the
	// plugins; before, POST /api/project/NAME/runs/submit did not.
	FirstGuardedRelease = "0.21.0"
)

// Supported tells whether a release is one that the operator supports; the
// error says what to do. An empty release is a development build.
func Supported(release string) error {
	if release == "" {
		return nil
	}
	v, err := version.ParseGeneric(release)
	if err != nil {
		return fmt.Errorf("dstack release %q is not understood", release)
	}
	if v.LessThan(version.MustParseGeneric(OldestRelease)) {
		return fmt.Errorf("dstack %s is older than %s, the oldest release that is supported: upgrade dstack", release, OldestRelease)
	}
	return nil
}

// AsksAlways tells whether every way to create a run asks the plugins in this
// release. What is not understood does not.
func AsksAlways(release string) bool {
	v, err := version.ParseGeneric(release)
	return err == nil && v.AtLeast(version.MustParseGeneric(FirstGuardedRelease))
}

// Older is the older of two releases; what is not understood is the oldest.
func Older(a, b string) string {
	va, errA := version.ParseGeneric(a)
	vb, errB := version.ParseGeneric(b)
	switch {
	case errA != nil:
		return a
	case errB != nil:
		return b
	case va.LessThan(vb):
		return a
	default:
		return b
	}
}
