// Package isolation turns the objects of the API into what is decided and what
// is planned: presets, matching, the strictest of all, the settings of the
// whole server, and the revision that names the result.
//
// It is pure: no client, no clock but the one passed in, no log. The manager
// and the policy server call the same Resolve, so that both always agree.
package isolation

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// Input is all that Resolve looks at.
type Input struct {
	// Server is the DstackServer.
	Server *v1alpha1.DstackServer
	// Profiles may hold profiles of other servers too; they are passed over.
	Profiles []v1alpha1.IsolationProfile
	// Previous is an earlier result for the same server, or nil. What it made of a
	// profile is taken over while uid and generation stay the same, and with them
	// the spec; the result is the same as without it.
	Previous *Effective
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

	index index
	// from is the DstackServer that was resolved.
	from identity
	// rest is what a project gets whose name somebody makes up.
	rest Policy
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
	rules      []Rule

	// uid of the object, "" when it has none, and the digest of all of this.
	uid types.UID
	sum [sha256.Size]byte
}

// Problem is one thing that is wrong with a profile.
type Problem struct {
	// Field is the path of the field, such as "spec.exceptions[0].controls[1]".
	Field string
	// Message says what is wrong and what to do.
	Message string
	// Exception is true when the problem is about an exception that cannot work.
	Exception bool
	// Rule is true when the problem is about a rule that refuses all that it is about.
	Rule bool
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
	e.from = identity{in.Server.UID, in.Server.Generation}
	for i := range in.Profiles {
		p := &in.Profiles[i]
		if in.concerns(p) {
			e.Profiles = append(e.Profiles, in.Previous.resolved(p))
		}
	}
	slices.SortFunc(e.Profiles, func(a, b *Profile) int { return cmp.Compare(a.Name, b.Name) })
	e.index = newIndex(e.Profiles)
	e.rest = e.ofNewProjects()
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
	understood := p.setLevel("spec.unmatchedProjects", u.Level, u.LevelVersion, u.Enforcement)
	p.setOverrides("spec.unmatchedProjects.controls", u.Level, u.Controls)
	if !understood {
		p.denyAll()
	}
	p.sum = p.digest()
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
	understood := p.setLevel("spec", obj.Spec.Level, obj.Spec.LevelVersion, obj.Spec.Enforcement)
	p.setOverrides("spec.controls", obj.Spec.Level, obj.Spec.Controls)
	for i := range obj.Spec.Exceptions {
		p.addException(i, &obj.Spec.Exceptions[i])
	}
	for i := range obj.Spec.Rules {
		p.addRule(i, &obj.Spec.Rules[i])
	}
	if !understood {
		// Overrides and exceptions are made for a level whose meaning is not known.
		p.denyAll()
	}
	return p
}

func (p *Profile) problem(field, format string, args ...any) {
	p.Problems = append(p.Problems, Problem{Field: field, Message: fmt.Sprintf(format, args...)})
}

// setLevel gives each control the value of the level. It is false when this
// release does not know the level or its version, so that all is to be denied.
func (p *Profile) setLevel(field string, level v1alpha1.Level, version v1alpha1.LevelVersion, enforcement v1alpha1.Enforcement) bool {
	understood := true
	// The API takes an empty version for the default.
	if version != "" && version != v1alpha1.LevelVersionV1 {
		p.problem(field+".levelVersion", "level version %q is not known to this release, so every control is denied: use v1", version)
		understood = false
	}
	switch enforcement {
	case "", v1alpha1.EnforcementEnforce, v1alpha1.EnforcementAudit:
	default:
		p.problem(field+".enforcement", "enforcement %q is not known to this release, so it is treated as Enforce: use Enforce or Audit", enforcement)
	}
	if !slices.Contains(levels, level) {
		p.problem(field+".level", "level %q is not known to this release, so every control is denied: use Open, Baseline, Restricted or Dedicated", level)
		return false
	}
	for _, c := range AllControls() {
		mode, _ := c.Preset(level)
		p.Values[c] = Value{Mode: mode}
	}
	return understood
}

// denyAll makes of a profile that is not understood one that denies all that
// can be denied, to everybody.
func (p *Profile) denyAll() {
	p.Enforce = true
	p.exceptions = nil
	for _, c := range AllControls() {
		p.Values[c] = c.Strictest()
	}
}

// setOverrides gives each control that field names the value that it has there.
func (p *Profile) setOverrides(field string, level v1alpha1.Level, controls *v1alpha1.Controls) {
	if controls == nil {
		controls = &v1alpha1.Controls{}
	}
	if level == v1alpha1.LevelDedicated && controls.Fleets == nil {
		p.problem(field+".fleets", "level Dedicated needs a list of fleets and there is none, so every fleet is denied: list the fleets that belong to these projects alone")
	}
	for _, c := range AllControls() {
		v, set := table[c].override(controls)
		if !set {
			continue
		}
		at := field + "." + string(c.Name())
		if !slices.Contains(table[c].modes, v.Mode) {
			p.problem(at, "value %q is not known to this release, so it is treated as %s", v.Mode, c.Strictest().Mode)
			v = c.Strictest()
		}
		if v.isList() {
			v = c.listValue(v.Mode, p.validEntries(c, field, v.List))
		}
		p.Values[c] = v
	}
}

// validEntries leaves out entries that are not valid, which allows less.
func (p *Profile) validEntries(c Control, field string, entries []string) []string {
	rule := table[c].entry
	var valid []string
	for i, entry := range entries {
		if rule.valid(entry) {
			valid = append(valid, entry)
			continue
		}
		p.problem(fmt.Sprintf("%s.%s[%d]", field, rule.list, i), "%s %s is not %s, so it is not allowed: %s",
			rule.what, quoted(entry), rule.isNot, rule.remedy)
	}
	return valid
}

// quoted is an entry in a message, of bounded length.
func quoted(entry string) string {
	const most = 100
	if len(entry) > most {
		entry = strings.ToValidUTF8(entry[:most], "") + "…"
	}
	return strconv.Quote(entry)
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
