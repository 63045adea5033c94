package dstack

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
)

// Releases of dstack that matter to the operator.
const (
	// OldestRelease is the first whose plugin contract is supported.
	OldestRelease = "0.20.16"
	// FirstGuardedRelease is the first in which every way to create a run asks the
	// plugins; before, POST /api/project/NAME/runs/submit did not.
	FirstGuardedRelease = "0.21.0"
	// FirstSecretsPermission is the first that knows PermissionManageSecrets.
	FirstSecretsPermission = "0.20.18"
	// FirstDstackInRuns is the first in which a run may have dstack: true, and the
	// first that knows EnvForbidDstackInRuns.
	FirstDstackInRuns = "0.20.28"
	// FirstContainerSSHRelease is the first in which an enforced SSH proxy also keeps
	// users' keys out of jobs on backends that run containers without dstack's agent,
	// such as kubernetes and runpod.
	FirstContainerSSHRelease = "0.21.4"
)

// releasePattern is a version as PyPI has it: numbers, a suffix that makes it
// one before its release, and suffixes that do not matter here.
var releasePattern = regexp.MustCompile(`^([0-9]{1,9})\.([0-9]{1,9})(?:\.([0-9]{1,9}))?((?:a|b|rc|\.dev)[0-9]{1,9})?(?:\.post[0-9]{1,9})?(?:\+[a-z0-9.]{1,32})?$`)

// parsed is a release as numbers that compare from left to right. The last one
// is 0 before the release and 1 from it on.
type parsed [4]int

func parse(release string) (v parsed, ok bool) {
	m := releasePattern.FindStringSubmatch(release)
	if m == nil {
		return v, false
	}
	for i := range 3 {
		v[i], _ = strconv.Atoi(m[i+1]) // Left out means 0; too many digits do not match.
	}
	if m[4] == "" {
		v[3] = 1
	}
	return v, true
}

func (v parsed) before(release string) bool {
	w, _ := parse(release)
	return slices.Compare(v[:], w[:]) < 0
}

// Supported tells whether a release is one that the operator supports; the
// error says what to do. An empty release is a development build.
func Supported(release string) error {
	if release == "" {
		return nil
	}
	v, ok := parse(release)
	if !ok {
		return fmt.Errorf("dstack release %q is not understood", release)
	}
	if v.before(OldestRelease) {
		return fmt.Errorf("dstack %s is older than %s, the oldest release that is supported: upgrade dstack", release, OldestRelease)
	}
	return nil
}

// Before tells whether a release is certainly older than another one. A
// development build, and what is not understood, is not.
func Before(release, than string) bool {
	v, ok := parse(release)
	return ok && v.before(than)
}

// AsksAlways tells whether every way to create a run asks the plugins in this
// release. What is not understood does not.
func AsksAlways(release string) bool {
	v, ok := parse(release)
	return ok && !v.before(FirstGuardedRelease)
}

// Older is the older of two releases; what is not understood is the oldest.
func Older(a, b string) string {
	va, knownA := parse(a)
	_, knownB := parse(b)
	switch {
	case !knownA:
		return a
	case !knownB, !va.before(b):
		return b
	default:
		return a
	}
}
