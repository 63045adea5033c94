package policyserver

import (
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/policy"
)

// Values of the label decision.
const (
	decisionAllowed = "allowed"
	decisionRefused = "refused"
	decisionError   = "error"
)

// controlSeveral is the label control of a refusal for more than one control.
const controlSeveral = "several"

// metrics never carry names of users, projects or runs: those are in the
// decision log. Profiles and exceptions are named by administrators, and their
// series go when the profile goes.
type metrics struct {
	registry *prometheus.Registry

	decisions *prometheus.CounterVec
	refusals  *prometheus.CounterVec
	audited   *prometheus.CounterVec
	failed    *prometheus.CounterVec
	lifted    *prometheus.CounterVec
	filled    *prometheus.CounterVec
	errors    *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	inFlight  prometheus.Gauge
	// Series of what most requests come to, found once.
	allowed map[dstack.ApplyKind]prometheus.Counter
	took    map[dstack.ApplyKind]prometheus.Observer

	policyInfo *prometheus.GaugeVec
	profiles   prometheus.Gauge
	changed    prometheus.Gauge
	stale      *prometheus.GaugeVec
	resolve    prometheus.Histogram
}

const namespace = "dstack_isolation"

func newMetrics() *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		decisions: counter("decisions_total",
			"Requests on the decision endpoints, by kind of object, by decision (allowed, refused, error) and, for a refusal, by its control; \"rules\" for the rules of a profile, \"several\" when there is more than one.",
			"kind", "decision", "control"),
		refusals: counter("refusals_total",
			"Reasons for refusals, by kind of object, control and profile. One refusal can have several.",
			"kind", "control", "profile"),
		audited: counter("audited_total",
			"What profiles in audit mode would have refused, by kind of object, control and profile.",
			"kind", "control", "profile"),
		failed: counter("rule_errors_total",
			"Rules that could not be evaluated for a request, by kind of object and profile. Such a rule refuses; the decision log has the reason.",
			"kind", "profile"),
		lifted: counter("lifted_total",
			"Decisions in which an exception lifted a control, by profile and exception.",
			"profile", "exception"),
		filled: counter("filled_total",
			"Requests that were allowed with a list filled in, by kind of object: the fleets of the list for a run that names none, the backends of the list for an offer that names none.",
			"kind"),
		errors: counter("request_errors_total",
			"Requests on the decision endpoints that were answered with an error, which dstack takes for a refusal, by kind of object and reason.",
			"kind", "reason"),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: "decision_duration_seconds",
			Help:    "Time from the end of a request's header to its decision, by kind of object; reading the body included.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 2.5, 5},
		}, []string{"kind"}),
		inFlight: gauge("requests_in_flight", "Requests on the decision endpoints that are being answered."),
		policyInfo: gaugeVec("policy_info",
			"1 for the policy that is decided by: its revision, its DstackServer and the build of this server.",
			"revision", "server", "version"),
		profiles: gauge("policy_profiles", "Profiles in the policy that is decided by."),
		changed:  gauge("policy_changed_timestamp_seconds", "When the revision of the policy last changed, in seconds since 1970."),
		stale: gaugeVec("policy_stale",
			"1 while decisions are made by the last known policy although its objects changed: the DstackServer is being deleted (ServerDeleted) or gone (ServerGone), or the folder holds something wrong (FolderInvalid).",
			"reason"),
		resolve: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Name: "policy_resolve_duration_seconds",
			Help:    "Time to resolve all profiles into one policy.",
			Buckets: []float64{.0005, .001, .005, .01, .05, .1, .25, .5, 1, 2.5},
		}),
		allowed: map[dstack.ApplyKind]prometheus.Counter{},
		took:    map[dstack.ApplyKind]prometheus.Observer{},
	}
	m.registry.MustRegister(
		m.decisions, m.refusals, m.audited, m.failed, m.lifted, m.filled, m.errors, m.duration, m.inFlight,
		m.policyInfo, m.profiles, m.changed, m.stale, m.resolve,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
	)
	// Rates of what has not happened yet are 0, not absent.
	for _, kind := range dstack.ApplyKinds() {
		m.allowed[kind] = m.decisions.WithLabelValues(string(kind), decisionAllowed, "")
		m.took[kind] = m.duration.WithLabelValues(string(kind))
		m.decisions.WithLabelValues(string(kind), decisionError, "")
	}
	for _, reason := range staleReasons() {
		m.stale.WithLabelValues(string(reason))
	}
	return m
}

// watch lets the registry read how many connections the decision port holds.
func (m *metrics) watch(p *places) {
	open := func(token string, count func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: namespace, Name: "connections",
			Help:        "Open connections on the port for decisions: those on which the token was presented, and others, which end with their answer.",
			ConstLabels: prometheus.Labels{"token": token},
		}, func() float64 { return float64(count()) })
	}
	m.registry.MustRegister(
		open("presented", func() int { kept, _, _ := p.count(); return kept }),
		open("none", func() int { _, strangers, _ := p.count(); return strangers }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Namespace: namespace, Name: "connections_dropped_total",
			Help: "Connections without the token that were closed because there were too many, all together or from one address.",
		}, func() float64 { _, _, dropped := p.count(); return float64(dropped) }),
	)
}

func counter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
}

func gaugeVec(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help}, labels)
}

// observeDecision counts one decision.
func (m *metrics) observeDecision(kind dstack.ApplyKind, d *policy.Decision, took time.Duration) {
	k := string(kind)
	m.took[kind].Observe(took.Seconds())
	if d.Allowed {
		m.allowed[kind].Inc()
	} else {
		m.decisions.WithLabelValues(k, decisionRefused, controlLabel(d.Reasons)).Inc()
		countReasons(m.refusals, k, d.Reasons)
	}
	if d.Filled != nil {
		m.filled.WithLabelValues(k).Inc()
	}
	countReasons(m.audited, k, d.Audited)
	m.countRuleErrors(k, d.Reasons)
	m.countRuleErrors(k, d.Audited)
	for _, name := range d.Lifted {
		profile, exception, _ := strings.Cut(name, "/")
		m.lifted.WithLabelValues(profile, exception).Inc()
	}
}

// observeError counts a request that was answered with an error.
func (m *metrics) observeError(kind dstack.ApplyKind, reason string) {
	m.decisions.WithLabelValues(string(kind), decisionError, "").Inc()
	m.errors.WithLabelValues(string(kind), reason).Inc()
}

// countReasons counts each control and profile once, however often a request
// breaks it.
func countReasons(vec *prometheus.CounterVec, kind string, reasons []policy.Reason) {
	type labels struct{ control, profile string }
	var seen []labels
	count := func(l labels) {
		if !slices.Contains(seen, l) {
			seen = append(seen, l)
			vec.WithLabelValues(kind, l.control, l.profile).Inc()
		}
	}
	for _, r := range reasons {
		for _, profile := range r.Profiles {
			count(labels{label(r.Control), profile})
		}
		if len(r.Profiles) == 0 {
			count(labels{label(r.Control), ""})
		}
	}
}

// countRuleErrors counts each rule that could not be evaluated, under each
// profile that has it.
func (m *metrics) countRuleErrors(kind string, reasons []policy.Reason) {
	for _, r := range reasons {
		if r.Cause == "" {
			continue
		}
		for _, profile := range r.Profiles {
			m.failed.WithLabelValues(kind, profile).Inc()
		}
	}
}

// controls are the names of the controls, each once.
func controls(reasons []policy.Reason) []string {
	var names []string
	for _, r := range reasons {
		if !slices.Contains(names, r.Control) {
			names = append(names, r.Control)
		}
	}
	return names
}

// controlRules is the label control of every rule of a profile: there may be
// many.
const controlRules = "rules"

// label is a control as metrics name it.
func label(control string) string {
	if strings.HasPrefix(control, policy.ControlRules) {
		return controlRules
	}
	return control
}

func controlLabel(reasons []policy.Reason) string {
	one := ""
	for _, r := range reasons {
		switch name := label(r.Control); one {
		case "", name:
			one = name
		default:
			return controlSeveral
		}
	}
	return one
}

// observeSnapshot tells of a new snapshot; before is nil for the first one.
func (m *metrics) observeSnapshot(before, now *Snapshot, version string) {
	if now.ResolveDuration > 0 {
		m.resolve.Observe(now.ResolveDuration.Seconds())
	}
	for _, reason := range staleReasons() {
		value := 0.0
		if reason == now.Stale {
			value = 1
		}
		m.stale.WithLabelValues(string(reason)).Set(value)
	}
	if before != nil && before.revision() == now.revision() {
		return
	}
	m.policyInfo.Reset()
	m.policyInfo.WithLabelValues(now.revision(), now.Server.String(), version).Set(1)
	m.changed.SetToCurrentTime()
	if now.Effective != nil {
		m.profiles.Set(float64(len(now.Effective.Profiles)))
	}
	m.forget(before, now)
}

// forget drops the series of profiles that are gone.
func (m *metrics) forget(before, now *Snapshot) {
	if before == nil || before.Effective == nil || now.Effective == nil {
		return
	}
	for _, p := range before.Effective.Profiles {
		if now.Effective.Profile(p.Name) == nil {
			gone := prometheus.Labels{"profile": p.Name}
			m.refusals.DeletePartialMatch(gone)
			m.audited.DeletePartialMatch(gone)
			m.failed.DeletePartialMatch(gone)
			m.lifted.DeletePartialMatch(gone)
		}
	}
}
