package isolation

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

func hostNetwork(mode v1alpha1.HostNetwork) func(*spec) {
	return override(v1alpha1.Controls{HostNetwork: mode})
}

func TestPlan(t *testing.T) {
	open, baseline, restricted := newServer("Open"), newServer("Baseline"), newServer("Restricted")
	watching := newServer("Restricted")
	watching.Spec.UnmatchedProjects.Enforcement = v1alpha1.EnforcementAudit
	const (
		nowhere = "no job gets the host network, because the whole server has one network mode and "
		some    = "jobs get the host network only in tasks of more than one node, because the whole server has one network mode and "
		refused = "tasks of more than one node are refused instead of running on a bridge network, because the whole server has one network mode and "
	)
	distributed := override(v1alpha1.Controls{DistributedTasks: "Allowed"})
	tests := map[string]struct {
		server       *v1alpha1.DstackServer
		profiles     []v1alpha1.IsolationProfile
		want         v1alpha1.NetworkMode
		gained, lost map[string]string
	}{
		"nobody denies":  {server: open, want: 2},
		"all deny":       {server: restricted, want: 3},
		"some":           {server: baseline, want: 1},
		"only auditing":  {server: watching, want: 2},
		"open and audit": {server: open, profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted", audited)}, want: 2},
		"audit cannot loosen": {
			server: restricted, profiles: []v1alpha1.IsolationProfile{newProfile("a", "Open", audited)}, want: 3,
			gained: map[string]string{"a": nowhere + "unmatchedProjects of dstack/main asks for hostNetwork Denied"},
		},
		"one allows": {
			server: restricted, profiles: []v1alpha1.IsolationProfile{newProfile("a", "Open"), newProfile("b", "Dedicated", distributed)}, want: 1,
			gained: map[string]string{"a": some + "profile dstack/b asks for hostNetwork Denied"},
			lost:   map[string]string{"b": refused + "profile dstack/a asks for hostNetwork Allowed"},
		},
		"unmatched allows": {
			server: open, profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted", distributed)}, want: 1,
			gained: map[string]string{"": some + "profile dstack/a asks for hostNetwork Denied"},
			lost:   map[string]string{"a": refused + "unmatchedProjects of dstack/main asks for hostNetwork Allowed"},
		},
		"unmatched allows by a control": {
			server:   withControls(newServer("Restricted"), v1alpha1.Controls{HostNetwork: "Allowed"}),
			profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted", distributed)}, want: 1,
			gained: map[string]string{"": some + "profile dstack/a asks for hostNetwork Denied"},
			lost:   map[string]string{"a": refused + "unmatchedProjects of dstack/main asks for hostNetwork Allowed"},
		},
		"unmatched denies by a control": {
			server: withControls(newServer("Open"), v1alpha1.Controls{HostNetwork: "Denied"}), want: 3,
		},
		"unmatched only audits": {
			server: watching, profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted", distributed)}, want: 1,
			lost: map[string]string{"a": refused + "unmatchedProjects of dstack/main asks for hostNetwork nothing (it only audits)"},
		},
		"distributed only": {
			server: restricted, profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted", hostNetwork("DistributedOnly"))}, want: 1,
		},
		"exception": {
			server: restricted, want: 1,
			profiles: []v1alpha1.IsolationProfile{
				newProfile("a", "Restricted", except("x", "ada", noon.Add(1), "hostNetwork")), newProfile("b", "Restricted", distributed),
			},
			lost: map[string]string{"b": refused + "profile dstack/a asks for hostNetwork Denied with an exception"},
		},
		"exception that ended": {
			server: restricted, want: 3,
			profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted", except("x", "ada", noon, "hostNetwork"))},
		},
		"exception for nobody": {
			server: restricted, want: 3,
			profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted", except("x", "ada", time.Time{}, "hostNetwork"),
				func(s *spec) { s.Exceptions[0].Users = nil })},
		},
		"exception from something else": {
			server: restricted, want: 3,
			profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted", except("x", "ada", time.Time{}, "privileged", "distributedTasks"))},
		},
		"exception of an audited profile": {
			server: restricted, want: 3,
			profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted", audited, except("x", "ada", time.Time{}, "hostNetwork"))},
		},
		"all allow": {server: open, profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted", hostNetwork("Allowed"))}, want: 2},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			e := resolve(tc.server, tc.profiles...)
			if e.Plan.NetworkMode != tc.want {
				t.Errorf("network mode %d, want %d", e.Plan.NetworkMode, tc.want)
			}
			if diff := cmp.Diff(orEmpty(tc.gained), effects(e, HostNetwork, e.Gained)); diff != "" {
				t.Errorf("gained (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(orEmpty(tc.lost), effects(e, HostNetwork, e.Lost)); diff != "" {
				t.Errorf("lost (-want +got):\n%s", diff)
			}
		})
	}
}

// effects are what the profiles, and unmatchedProjects under "", gain or lose of one
// control.
func effects(e *Effective, c Control, of func(*Profile) []Effect) map[string]string {
	all := map[string]string{}
	for _, p := range append(e.Profiles, e.Unmatched) {
		for _, effect := range of(p) {
			if effect.Control == c {
				all[p.Name] = effect.Message
			}
		}
	}
	return all
}

func TestForbidden(t *testing.T) {
	restricted, watching := newServer("Restricted"), newServer("Restricted")
	watching.Spec.UnmatchedProjects.Enforcement = v1alpha1.EnforcementAudit
	allowed := override(v1alpha1.Controls{ServerAccess: "Allowed"})
	const because = ", because every policy of the server that enforces denies %, so dstack itself is told to refuse it in all projects"
	access := "runs with dstack: true are refused" + strings.ReplaceAll(because, "%", "serverAccess")
	gateway := "services that need no gateway are refused" + strings.ReplaceAll(because, "%", "servicesWithoutGateway")
	tests := map[string]struct {
		server   *v1alpha1.DstackServer
		profiles []v1alpha1.IsolationProfile
		want     []Control
		// gained by profile "a".
		gained []string
	}{
		"nobody denies":         {server: newServer("Open")},
		"unmatched denies":      {server: restricted, want: []Control{ServerAccess, ServicesWithoutGateway}},
		"unmatched only audits": {server: watching, profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted")}},
		"unmatched allows":      {server: newServer("Baseline"), profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted")}},
		"unmatched denies one":  {server: withControls(newServer("Baseline"), v1alpha1.Controls{ServerAccess: "Denied"}), want: []Control{ServerAccess}},
		"all deny":              {server: restricted, profiles: []v1alpha1.IsolationProfile{newProfile("a", "Dedicated")}, want: []Control{ServerAccess, ServicesWithoutGateway}},
		"one allows one":        {server: restricted, profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted", allowed)}, want: []Control{ServicesWithoutGateway}},
		"one allows all":        {server: restricted, profiles: []v1alpha1.IsolationProfile{newProfile("a", "Baseline")}},
		"an audit has no say":   {server: restricted, profiles: []v1alpha1.IsolationProfile{newProfile("a", "Open", audited)}, want: []Control{ServerAccess, ServicesWithoutGateway}, gained: []string{access, gateway}},
		"an audit that denies":  {server: restricted, profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted", audited)}, want: []Control{ServerAccess, ServicesWithoutGateway}, gained: []string{access, gateway}},
		"exception":             {server: restricted, profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted", except("x", "ada", noon.Add(1), "serverAccess"))}, want: []Control{ServicesWithoutGateway}},
		"exception that ended":  {server: restricted, profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted", except("x", "ada", noon, "serverAccess"))}, want: []Control{ServerAccess, ServicesWithoutGateway}},
		"exception of an audit": {server: restricted, profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted", audited, except("x", "ada", time.Time{}, "serverAccess"))}, want: []Control{ServerAccess, ServicesWithoutGateway}, gained: []string{access, gateway}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			e := resolve(tc.server, tc.profiles...)
			if diff := cmp.Diff(tc.want, e.Plan.Forbidden); diff != "" {
				t.Errorf("forbidden (-want +got):\n%s", diff)
			}
			var gained []string
			if p := e.Profile("a"); p != nil {
				for _, effect := range e.Gained(p) {
					if effect.Control != HostNetwork {
						gained = append(gained, effect.Message)
					}
				}
			}
			if diff := cmp.Diff(tc.gained, gained); diff != "" {
				t.Errorf("gained (-want +got):\n%s", diff)
			}
		})
	}
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func TestWeaker(t *testing.T) {
	order := []v1alpha1.NetworkMode{0, 2, 1, 3} // from weakest
	for i, a := range order {
		for j, b := range order {
			want := order[min(i, j)]
			if got := Weaker(a, b); Strictness(got) != Strictness(want) {
				t.Errorf("the weaker of %d and %d is %d, want %d", a, b, got, want)
			}
		}
	}
	if Weaker(7, 3) != 7 {
		t.Error("a mode that is not known counts as strict")
	}
}

// SSH is enforced where there is a proxy and a policy that enforces denies
// hostSSH; for everybody then.
func TestPlanOfSSH(t *testing.T) {
	allowed := override(v1alpha1.Controls{HostSSH: "Allowed"})
	withProxy := func(level v1alpha1.Level, enforcement v1alpha1.Enforcement) *v1alpha1.DstackServer {
		s := newServer(level)
		s.Spec.UnmatchedProjects.Enforcement = enforcement
		s.Spec.SSHProxy = &v1alpha1.SSHProxy{Managed: &v1alpha1.ManagedSSHProxy{}}
		return s
	}
	const gained = "nobody logs in to hosts, and to jobs only through the SSH proxy, because dstack enforces the proxy for all users alike and "
	tests := map[string]struct {
		server          *v1alpha1.DstackServer
		profiles        []v1alpha1.IsolationProfile
		proxy, enforced bool
		// gained by each profile that can log in to no host because of another.
		gained map[string]string
	}{
		"no proxy":      {server: newServer("Restricted")},
		"nobody denies": {server: withProxy("Open", "Enforce"), profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted", allowed)}, proxy: true},
		"one denies": {
			server: withProxy("Open", "Enforce"), profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted")}, proxy: true, enforced: true,
			gained: map[string]string{"": gained + "profile dstack/a asks for hostSSH Denied"},
		},
		"one audits":       {server: withProxy("Open", "Enforce"), profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted", audited)}, proxy: true},
		"unmatched denies": {server: withProxy("Baseline", "Enforce"), proxy: true, enforced: true},
		"unmatched audits": {server: withProxy("Baseline", "Audit"), proxy: true},
		"unmatched allows by a control": {
			server: withControls(withProxy("Restricted", "Enforce"), v1alpha1.Controls{HostSSH: "Allowed"}), proxy: true,
		},
		"unmatched denies by a control": {
			server: withControls(withProxy("Open", "Enforce"), v1alpha1.Controls{HostSSH: "Denied"}), proxy: true, enforced: true,
		},
		"no exception lifts": {
			server: withProxy("Open", "Enforce"), profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted", except("x", "ada", time.Time{}, "hostSSH"))}, proxy: true, enforced: true,
			gained: map[string]string{"": gained + "profile dstack/a asks for hostSSH Denied"},
		},
		"an unknown level": {server: withProxy("Paranoid", "Enforce"), proxy: true, enforced: true},
		"of two, one enforces": {
			server: withProxy("Open", "Enforce"), profiles: []v1alpha1.IsolationProfile{newProfile("a", "Restricted", audited), newProfile("b", "Baseline")}, proxy: true, enforced: true,
			gained: map[string]string{"a": gained + "profile dstack/b asks for hostSSH Denied", "": gained + "profile dstack/b asks for hostSSH Denied"},
		},
		"of three, the first that enforces": {
			server: withProxy("Baseline", "Enforce"), proxy: true, enforced: true,
			profiles: []v1alpha1.IsolationProfile{newProfile("c", "Restricted"), newProfile("a", "Restricted", allowed), newProfile("b", "Baseline")},
			gained:   map[string]string{"a": gained + "profile dstack/b asks for hostSSH Denied"},
		},
		"unmatched denies what one allows": {
			server: withProxy("Baseline", "Enforce"), profiles: []v1alpha1.IsolationProfile{newProfile("a", "Open")}, proxy: true, enforced: true,
			gained: map[string]string{"a": gained + "unmatchedProjects of dstack/main asks for hostSSH Denied"},
		},
		"without a proxy nobody gains": {server: newServer("Restricted"), profiles: []v1alpha1.IsolationProfile{newProfile("a", "Open")}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			e := resolve(tc.server, tc.profiles...)
			if p := e.Plan; p.SSHProxy != tc.proxy || p.SSHEnforced != tc.enforced {
				t.Errorf("proxy %t, enforced %t, want %t, %t", p.SSHProxy, p.SSHEnforced, tc.proxy, tc.enforced)
			}
			if diff := cmp.Diff(orEmpty(tc.gained), effects(e, HostSSH, e.Gained)); diff != "" {
				t.Errorf("gained (-want +got):\n%s", diff)
			}
		})
	}
}
