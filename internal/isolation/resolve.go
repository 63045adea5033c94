// Package isolation turns the objects of the API into what is decided and what
// is planned: presets, matching, the strictest of all, the settings of the
// whole server, and the revision that names the result.
//
// It is pure: no client, no clock but the one passed in, no log. The manager
// and the policy server call the same Resolve, so that both always agree.
package isolation

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// Input is all that Resolve looks at.
type Input struct {
	// Server is the DstackServer.
	Server *v1alpha1.DstackServer
	// Profiles may hold profiles of other servers too; they are passed over.
	Profiles []v1alpha1.IsolationProfile
	// Now decides which exceptions have ended, for the plan only: decisions are
	// made with the time of the request.
	Now time.Time
}

// Effective is what holds for one dstack server. It is immutable and safe for
// concurrent use.
type Effective struct {
	// Namespace and Name are those of the DstackServer.
	Namespace, Name string
	// Revision names what is decided: equal revisions decide alike. Eight
	// hexadecimal digits.
	Revision string
	// Plan is what the settings of the whole server should be.
	Plan Plan
	// Profiles of this server, sorted by name.
	Profiles []*Profile
	// Unmatched is the policy for projects that no profile matches.
	Unmatched *Profile
	// NextExpiry is the end of the first exception that has not ended yet; zero
	// if there is none. Plan may change then.
	NextExpiry time.Time
}

// Profile is a resolved IsolationProfile, or the server's unmatchedProjects.
type Profile struct {
	// Ref names it in messages: "profile NAMESPACE/NAME", or "unmatchedProjects of
	// NAMESPACE/NAME" with the server's name.
	Ref string
	// Name is the object's name; empty for unmatchedProjects.
	Name string
	// Generation of the object that was resolved.
	Generation int64
	// Enforce is false in audit mode.
	Enforce bool
	// Values are the controls as this profile asks for them.
	Values [ControlCount]Value
	// Hint is added to every refusal.
	Hint string
	// Problems are what is wrong with the object. What they are about is treated
	// as denied.
	Problems []Problem

	selector   selector
	exceptions []exception
}

// Problem is one thing that is wrong with a profile.
type Problem struct {
	// Field is the path of the field, such as "spec.exceptions[0].controls[1]".
	Field string
	// Message says what is wrong and what to do.
	Message string
	// Exception is true when the problem is about an exception that cannot work.
	Exception bool
}

func (p Problem) String() string { return p.Field + ": " + p.Message }

type exception struct {
	name      string
	users     []string
	controls  [ControlCount]bool
	expiresAt time.Time // zero: never
}

// Resolve works out what holds for a server. It does not depend on the order
// of the profiles. An unknown value is treated as the strictest one and
// reported as a problem of its profile.
func Resolve(in Input) *Effective {
	e := &Effective{Namespace: in.Server.Namespace, Name: in.Server.Name, Unmatched: resolveUnmatched(in.Server)}
	for i := range in.Profiles {
		p := &in.Profiles[i]
		if p.Namespace == in.Server.Namespace && p.Spec.ServerRef.Name == in.Server.Name {
			e.Profiles = append(e.Profiles, resolveProfile(p))
		}
	}
	slices.SortFunc(e.Profiles, func(a, b *Profile) int { return cmp.Compare(a.Name, b.Name) })
	e.Plan = plan(e, in.Server.Spec.SSHProxy != nil, in.Now)
	e.Revision = revision(e)
	e.NextExpiry = nextExpiry(e.Profiles, in.Now)
	return e
}

// Profile finds a profile of the server by name; nil if there is none.
func (e *Effective) Profile(name string) *Profile {
	i, found := slices.BinarySearchFunc(e.Profiles, name, func(p *Profile, n string) int { return cmp.Compare(p.Name, n) })
	if !found {
		return nil
	}
	return e.Profiles[i]
}

func resolveUnmatched(server *v1alpha1.DstackServer) *Profile {
	u := server.Spec.UnmatchedProjects
	p := &Profile{
		Ref:     fmt.Sprintf("unmatchedProjects of %s/%s", server.Namespace, server.Name),
		Enforce: u.Enforcement != v1alpha1.EnforcementAudit,
	}
	p.checkLevelVersion("spec.unmatchedProjects.levelVersion", u.LevelVersion)
	p.checkEnforcement("spec.unmatchedProjects.enforcement", u.Enforcement)
	p.setPreset("spec.unmatchedProjects.level", u.Level)
	return p
}

func resolveProfile(obj *v1alpha1.IsolationProfile) *Profile {
	p := &Profile{
		Ref:        "profile " + obj.Namespace + "/" + obj.Name,
		Name:       obj.Name,
		Generation: obj.Generation,
		Enforce:    obj.Spec.Enforcement != v1alpha1.EnforcementAudit,
		Hint:       strings.TrimSpace(obj.Spec.Hint),
		selector:   compileSelector(obj.Spec.Projects),
	}
	p.checkLevelVersion("spec.levelVersion", obj.Spec.LevelVersion)
	p.checkEnforcement("spec.enforcement", obj.Spec.Enforcement)
	p.setPreset("spec.level", obj.Spec.Level)
	if obj.Spec.Controls != nil {
		p.setOverrides(obj.Spec.Controls)
	}
	for i := range obj.Spec.Exceptions {
		p.addException(i, &obj.Spec.Exceptions[i])
	}
	return p
}

func (p *Profile) problem(field, format string, args ...any) {
	p.Problems = append(p.Problems, Problem{Field: field, Message: fmt.Sprintf(format, args...)})
}

// checkLevelVersion takes an empty version for the default, as the API does.
func (p *Profile) checkLevelVersion(field string, version v1alpha1.LevelVersion) {
	if version != "" && version != v1alpha1.LevelVersionV1 {
		p.problem(field, "level version %q is not known to this release, so every control is denied: use v1", version)
		p.Enforce = true
	}
}

func (p *Profile) checkEnforcement(field string, enforcement v1alpha1.Enforcement) {
	switch enforcement {
	case "", v1alpha1.EnforcementEnforce, v1alpha1.EnforcementAudit:
	default:
		p.problem(field, "enforcement %q is not known to this release, so it is treated as Enforce: use Enforce or Audit", enforcement)
	}
}

func (p *Profile) setPreset(field string, level v1alpha1.Level) {
	unknownVersion := len(p.Problems) > 0 && strings.HasSuffix(p.Problems[0].Field, "levelVersion")
	for _, c := range AllControls() {
		mode, known := c.Preset(level)
		if known && !unknownVersion {
			p.Values[c] = Value{Mode: mode}
		} else {
			p.Values[c] = c.Strictest()
		}
	}
	if !slices.Contains(levels, level) {
		p.problem(field, "level %q is not known to this release, so every control is denied: use Open, Baseline, Restricted or Dedicated", level)
	}
}

func (p *Profile) setOverrides(controls *v1alpha1.Controls) {
	for _, c := range AllControls() {
		v, set := table[c].override(controls)
		if !set {
			continue
		}
		field := "spec.controls." + string(c.Name())
		if !slices.Contains(table[c].modes, v.Mode) {
			p.problem(field, "value %q is not known to this release, so it is treated as %s", v.Mode, c.Strictest().Mode)
			v = c.Strictest()
		}
		if v.Mode == ModeAllowedPaths {
			v = p.checkPaths(field+".paths", v.Paths)
		}
		p.Values[c] = v
	}
}

// checkPaths leaves out paths that are not clean, which allows less.
func (p *Profile) checkPaths(field string, paths []string) Value {
	var clean []string
	for i, dir := range paths {
		if isCleanPath(dir) {
			clean = append(clean, dir)
		} else {
			p.problem(fmt.Sprintf("%s[%d]", field, i), "path %q is not absolute and clean, so it is not allowed: write it as /a/b", dir)
		}
	}
	return pathsValue(clean)
}

func (p *Profile) addException(i int, obj *v1alpha1.Exception) {
	x := exception{name: obj.Name, users: slices.Clone(obj.Users)}
	if obj.ExpiresAt != nil {
		x.expiresAt = obj.ExpiresAt.Time
		if x.expiresAt.IsZero() {
			// The zero time means never here, but in the object a moment long ago.
			x.expiresAt = time.Unix(0, 0)
		}
	}
	for j, name := range obj.Controls {
		field := fmt.Sprintf("spec.exceptions[%d].controls[%d]", i, j)
		c, known := ControlByName(name)
		switch {
		case !known:
			p.exceptionProblem(field, fmt.Sprintf("control %q is not known to this release: remove it", name))
		case table[c].serverWide:
			p.exceptionProblem(field, fmt.Sprintf("%s cannot be lifted for single users, because dstack enforces it for the whole server: remove it, or set controls.%s to Allowed", name, name))
		default:
			x.controls[c] = true
		}
	}
	p.exceptions = append(p.exceptions, x)
}

func (p *Profile) exceptionProblem(field, message string) {
	p.Problems = append(p.Problems, Problem{Field: field, Message: message, Exception: true})
}

func nextExpiry(profiles []*Profile, now time.Time) time.Time {
	var next time.Time
	for _, p := range profiles {
		for _, x := range p.exceptions {
			if x.expiresAt.After(now) && (next.IsZero() || x.expiresAt.Before(next)) {
				next = x.expiresAt
			}
		}
	}
	return next
}
