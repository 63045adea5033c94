package policy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// rules has, for each control, one rule a kind of object that it is about. A
// control without any fails the tests.
var rules = [isolation.ControlCount]ruleSet{
	isolation.HostSSH:                {run: hostSSH},
	isolation.Privileged:             {run: privileged, fleet: privileged, volume: privileged, gateway: privileged},
	isolation.InstanceVolumes:        {run: instanceVolumes},
	isolation.HostNetwork:            {run: hostNetwork},
	isolation.DistributedTasks:       {run: distributedTasks},
	isolation.ServiceRouters:         {run: serviceRouters},
	isolation.FleetEnvironment:       {fleet: fleetEnvironment},
	isolation.SSHFleets:              {fleet: sshFleets},
	isolation.SharedInstances:        {fleet: sharedInstances},
	isolation.ImportedFleets:         {run: importedFleets},
	isolation.ImportedGateways:       {run: importedGateways},
	isolation.ExistingVolumes:        {volume: existingVolumes},
	isolation.ServerAccess:           {run: serverAccess},
	isolation.ServicesWithoutGateway: {run: servicesWithoutGateway},
	isolation.Services:               {run: services},
	isolation.Tags:                   {run: tags, fleet: tags, volume: tags, gateway: tags},
	isolation.Fleets:                 {run: fleets},
	isolation.Backends:               {run: backends, fleet: fleetBackends, volume: objectBackend, gateway: objectBackend},
	isolation.Registries:             {run: registries},
	isolation.UnknownFields:          {run: unknownFields, fleet: unknownFields, volume: unknownFields, gateway: unknownFields},
}

// ruleSet are the rules of one control. A kind that the control is not about
// has none.
type ruleSet struct {
	run, fleet, volume, gateway rule
}

// judge asks the rule for the subject's kind.
func (r ruleSet) judge(v isolation.Value, s *subject) []finding {
	var ask rule
	switch s.kind {
	case dstack.KindRun:
		ask = r.run
	case dstack.KindFleet:
		ask = r.fleet
	case dstack.KindVolume:
		ask = r.volume
	case dstack.KindGateway:
		ask = r.gateway
	}
	if ask == nil {
		return nil
	}
	return ask(v, s)
}

// rule finds what a value of its control refuses in a specification. It is
// asked with every value, the loosest included, and must refuse under a value
// that it does not know.
type rule func(isolation.Value, *subject) []finding

// subject is a specification and what a rule may know of its surroundings.
type subject struct {
	facts
	kind    dstack.ApplyKind
	project projectName
	// networkMode is the weakest that may hold; 0 if it is not known.
	networkMode v1alpha1.NetworkMode
	// release is the asking process's of dstack; empty when it did not say.
	release string
	// noImported tells whether importedFleets refuses anything in the policy that
	// is being judged by.
	noImported bool
}

// projectName is quoted only when it is printed.
type projectName string

func (n projectName) String() string { return quote(string(n)) }

// finding is one thing that a rule refuses.
type finding struct {
	field, message string
}

// verdict is a reason with the profiles that ask for it.
type verdict struct {
	Reason
	by []*isolation.Profile
	// with is another control for which the same sentence holds, if any.
	with string
}

func (v verdict) same(w verdict) bool { return v.Control == w.Control && v.Field == w.Field }

// Decide tells what becomes of a request under the policy. It is pure and
// deterministic, and does not depend on the order of keys. eff must not be nil.
func Decide(eff *isolation.Effective, running Running, req *Request, now time.Time) Decision {
	d := decider{
		project: eff.ForProject(req.Project), user: req.User, now: now,
		subject: subject{project: projectName(req.Project)},
	}
	var problems []problem
	kind := req.Kind
	if slices.Contains(dstack.ApplyKinds(), kind) {
		d.subject.kind = kind
		d.subject.facts, problems, d.readable = readSpec(kind, req.Spec)
	} else {
		kind, problems = "request", []problem{{whole, "is of a kind that is not known to this release"}}
	}
	d.subject.networkMode = networkMode(running, req.Process)
	if req.Process != nil {
		d.subject.release = req.Process.DstackVersion
	}

	enforced := d.project.Enforced(req.User, now)
	refused, audited := d.judgeRules(req)
	reasons := slices.Concat(d.notUnderstood(kind, problems), d.judge(&enforced), refused)
	decision := Decision{
		Allowed:  len(reasons) == 0,
		Reasons:  plain(reasons),
		Lifted:   d.lifted(&enforced, reasons),
		Revision: d.project.Revision,
	}
	if decision.Allowed {
		decision.Filled = d.subject.fill(&enforced, req.Spec)
	}
	if d.project.HasAudit() {
		counted := d.project.Counted(req.User, now)
		decision.Audited = plain(append(without(d.judge(&counted), reasons), audited...))
	}
	if !decision.Allowed {
		decision.Message = d.message(reasons)
	}
	return decision
}

type decider struct {
	project isolation.Project
	user    string
	now     time.Time
	subject subject
	// readable is false when nothing in the specification can be judged.
	readable bool
}

// networkMode is the weaker of what the pods run with and what the asking
// process says of itself. A process that does not speak at all leaves the word
// to the pods; one that cannot tell counts as the weakest.
func networkMode(running Running, process *Process) v1alpha1.NetworkMode {
	switch {
	case process == nil:
		return running.NetworkMode
	case process.JobNetworkMode == nil:
		return 0
	}
	return isolation.Weaker(running.NetworkMode, v1alpha1.NetworkMode(*process.JobNetworkMode))
}

// notUnderstood turns problems into reasons, which hold under every policy.
func (d *decider) notUnderstood(kind dstack.ApplyKind, problems []problem) []verdict {
	var reasons []verdict
	for _, p := range problems {
		field := p.String()
		subject := field
		if field == "" {
			field, subject = "spec", "it"
		}
		reasons = append(reasons, verdict{Reason: Reason{
			Control: ControlSpec,
			Field:   field,
			Message: fmt.Sprintf("this %s is not understood and so not allowed in project %s: %s %s",
				kind, d.subject.project, subject, p.what),
		}})
	}
	return reasons
}

// judge asks the rule of each control.
func (d *decider) judge(policy *isolation.Policy) []verdict {
	if !d.readable {
		return nil
	}
	var reasons []verdict
	d.subject.noImported = policy[isolation.ImportedFleets].Mode != isolation.ModeAllowed
	for c := range isolation.ControlCount {
		held := &policy[c]
		for _, f := range rules[c].judge(held.Value, &d.subject) {
			reasons = append(reasons, verdict{
				Reason: Reason{Control: string(c.Name()), Field: f.field, Message: f.message, Profiles: names(held.By)},
				by:     held.By,
			})
		}
	}
	return reasons
}

// lifted finds the exceptions whose own profile would have refused something
// that is not refused.
func (d *decider) lifted(policy *isolation.Policy, reasons []verdict) []string {
	if !d.readable {
		return nil
	}
	var lifted []string
	for c := range isolation.ControlCount {
		for _, name := range policy[c].Lifted {
			if d.wouldRefuse(c, name, reasons) && !slices.Contains(lifted, name) {
				lifted = append(lifted, name)
			}
		}
	}
	return lifted
}

// wouldRefuse tells whether the profile of the exception, named
// PROFILE/EXCEPTION, refuses something by the control that is not among reasons.
func (d *decider) wouldRefuse(c isolation.Control, exception string, reasons []verdict) bool {
	profile, _, _ := strings.Cut(exception, "/")
	for _, p := range d.project.Governing {
		if p.Name != profile {
			continue
		}
		for _, f := range rules[c].judge(p.Values[c], &d.subject) {
			v := verdict{Reason: Reason{Control: string(c.Name()), Field: f.field}}
			if !slices.ContainsFunc(reasons, v.same) {
				return true
			}
		}
	}
	return false
}

// without leaves out what is among others.
func without(reasons, others []verdict) []verdict {
	return slices.DeleteFunc(reasons, func(v verdict) bool { return slices.ContainsFunc(others, v.same) })
}

func plain(verdicts []verdict) []Reason {
	if len(verdicts) == 0 {
		return nil
	}
	reasons := make([]Reason, len(verdicts))
	for i, v := range verdicts {
		reasons[i] = v.Reason
	}
	return reasons
}
