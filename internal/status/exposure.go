package status

import (
	"fmt"
	"strings"

	"github.com/dstack-isolation/operator/internal/isolation"
)

// Exposed is what one profile refuses no more when the settings are taken out.
type Exposed struct {
	// Profile is the object's name; empty for unmatchedProjects.
	Profile string
	// Message says what is allowed, and where.
	Message string
}

// Exposure says by profile what is allowed once the server asks nobody any more.
// A profile that audits, or denies nothing, is left out.
func Exposure(e *isolation.Effective) []Exposed {
	var all []Exposed
	for _, p := range append([]*isolation.Profile{e.Unmatched}, e.Profiles...) {
		if names := refusedBy(p, e.Plan.SSHProxy); len(names) > 0 && p.Enforce {
			all = append(all, Exposed{p.Name, fmt.Sprintf("%s: not refused any more in %s: %s", p.Ref, p.Projects(), strings.Join(names, ", "))})
		}
	}
	return all
}

func refusedBy(p *isolation.Profile, sshProxy bool) []string {
	var names []string
	for _, c := range isolation.AllControls() {
		if denies(c, p.Values[c]) && (c != isolation.HostSSH || sshProxy) {
			names = append(names, string(c.Name()))
		}
	}
	if p.HasRules() {
		names = append(names, "what its rules refuse")
	}
	return names
}

// maxExposed is how many profiles a status names.
const maxExposed = 10

// ExposureWarnings are the first of them as warnings of the server.
func ExposureWarnings(all []Exposed) []string {
	var warnings []string
	for _, e := range all[:min(len(all), maxExposed)] {
		warnings = append(warnings, e.Message)
	}
	if more := len(all) - maxExposed; more > 0 {
		warnings = append(warnings, fmt.Sprintf("%d more profiles refuse nothing any more", more))
	}
	return warnings
}
