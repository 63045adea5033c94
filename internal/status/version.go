package status

import (
	"fmt"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
)

// Version is what is known of the dstack versions that a server's processes run. It
// outlives what Connected says: a token that is rejected, or a process that does not
// answer, is no evidence of another version.
type Version struct {
	// Release is the oldest that a process reported; "" while none did.
	Release string
	// Development is true if a process answered and reported none.
	Development bool
}

// VersionOf is what a server's status keeps of its version.
func VersionOf(s *v1alpha1.DstackServer) Version {
	return Version{Release: s.Status.Release, Development: s.Status.Build == v1alpha1.BuildDevelopment}
}

func (v Version) build() v1alpha1.Build {
	switch {
	case v.Development:
		return v1alpha1.BuildDevelopment
	case v.Release != "":
		return v1alpha1.BuildRelease
	}
	return ""
}

// Seen is what is known once processes have reported their releases, "" for a
// development build. Unless these are all processes, another may still run what was
// known before.
func (v Version) Seen(releases []string, all bool) Version {
	if len(releases) == 0 {
		return v
	}
	var seen Version
	if !all {
		seen = v
	}
	for _, release := range releases {
		switch {
		case release == "":
			seen.Development = true
		case seen.Release == "":
			seen.Release = release
		default:
			seen.Release = dstack.Older(seen.Release, release)
		}
	}
	return seen
}

// Judge tells why this version does not query the plugins about every run; an empty
// finding means that nothing says so. A development build reports no version.
func (v Version) Judge() Finding {
	if err := dstack.Supported(v.Release); err != nil {
		return Stuck(v1alpha1.ReasonUnsupportedRelease, err.Error())
	}
	if v.Release != "" && !dstack.AsksAlways(v.Release) {
		return Stuck(v1alpha1.ReasonUnsupportedRelease, fmt.Sprintf(
			"dstack %s creates runs by POST /api/project/NAME/runs/submit without asking any plugin: upgrade to %s or later", v.Release, dstack.FirstGuardedRelease))
	}
	return Finding{}
}

func (v Version) known() bool { return v.Release != "" || v.Development }

// unguarded tells why a server of this version may not query the plugins about every
// run; "" when it does.
func (v Version) unguarded() string {
	if !v.known() {
		return "no server pod has reported its dstack version yet"
	}
	return v.Judge().Message
}

// unguarded is the finding that the server's version may not query the plugins about
// every run.
func (v View) unguarded() Finding {
	message := fmt.Sprintf("%s: see Connected of DstackServer %s", v.Version.unguarded(), v.Effective.Name)
	if !v.Version.known() {
		return Waiting(v1alpha1.ReasonSettingsNotRunning, message)
	}
	return Stuck(v1alpha1.ReasonSettingsNotRunning, message)
}
