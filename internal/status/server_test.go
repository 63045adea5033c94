package status_test

import (
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	ours "github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/testkit"
)

func TestServerToTheLetter(t *testing.T) {
	audit := func() *testkit.Server {
		return restrictedServer().Enforcement(v1alpha1.EnforcementAudit)
	}
	nothing := func(*ours.ServerFacts) {}
	cases := map[string]struct {
		server    *testkit.Server
		change    func(*ours.ServerFacts)
		ready     string
		unmatched string
	}{
		"all well": {
			testkit.MakeServer("main"), nothing,
			"Ready=True/Ready: all 2 server pods ask the policy server; 1 profiles, policy revision REVISION, network mode 1",
			"UnmatchedProjectsCovered=True/Covered: projects that no profile names are refused what spec.unmatchedProjects denies",
		},
		"audit": {
			audit(), nothing,
			"Ready=True/Ready: all 2 server pods ask the policy server; 1 profiles, policy revision REVISION, network mode 1",
			"UnmatchedProjectsCovered=True/AuditOnly: nothing is refused in projects that no profile names: what spec.unmatchedProjects denies is counted and logged",
		},
		"unmatched projects need the SSH proxy": {
			restrictedServer(), nothing,
			"Ready=False/ControlNotEnforceable: in projects that no profile names, nothing enforces hostSSH Denied: set spec.sshProxy of DstackServer main, or set spec.unmatchedProjects.controls.hostSSH to Allowed",
			"UnmatchedProjectsCovered=False/ControlNotEnforceable: in projects that no profile names, nothing enforces hostSSH Denied: set spec.sshProxy of DstackServer main, or set spec.unmatchedProjects.controls.hostSSH to Allowed",
		},
		"unmatched projects may log in to hosts": {
			restrictedServer().Controls(func(c *v1alpha1.Controls) { c.HostSSH = v1alpha1.Allowed }), nothing,
			"Ready=True/Ready: all 2 server pods ask the policy server; 1 profiles, policy revision REVISION, network mode 3",
			"UnmatchedProjectsCovered=True/Covered: projects that no profile names are refused what spec.unmatchedProjects denies",
		},
		"unmatched projects need the SSH proxy for a control": {
			testkit.MakeServer("main").Controls(func(c *v1alpha1.Controls) { c.HostSSH = v1alpha1.Denied }), nothing,
			"Ready=False/ControlNotEnforceable: in projects that no profile names, nothing enforces hostSSH Denied: set spec.sshProxy of DstackServer main, or set spec.unmatchedProjects.controls.hostSSH to Allowed",
			"UnmatchedProjectsCovered=False/ControlNotEnforceable: in projects that no profile names, nothing enforces hostSSH Denied: set spec.sshProxy of DstackServer main, or set spec.unmatchedProjects.controls.hostSSH to Allowed",
		},
		"unmatched projects have a control that is unknown": {
			testkit.MakeServer("main").Controls(func(c *v1alpha1.Controls) { c.Tags = "Later" }), nothing,
			`Ready=False/InvalidSpec: spec.unmatchedProjects.controls.tags: value "Later" is not known to this release, so it is treated as Denied`,
			`UnmatchedProjectsCovered=False/InvalidSpec: spec.unmatchedProjects.controls.tags: value "Later" is not known to this release, so it is treated as Denied`,
		},
		"unmatched projects have the SSH proxy": {
			restrictedServer().SSHProxy(managed()), func(f *ours.ServerFacts) { f.Running.SSHEnforcedPods = 2 },
			"Ready=True/Ready: all 2 server pods ask the policy server; 1 profiles, policy revision REVISION, network mode 3",
			"UnmatchedProjectsCovered=True/Covered: projects that no profile names are refused what spec.unmatchedProjects denies",
		},
		"unmatched projects wait for the SSH proxy": {
			restrictedServer().SSHProxy(managed()), func(f *ours.ServerFacts) {
				f.SSHProxy = ours.Stuck(v1alpha1.ReasonSecretInvalid, "mend it")
			},
			"Ready=False/SecretInvalid: mend it",
			"UnmatchedProjectsCovered=False/SettingsNotRunning: not every server pod has the SSH proxy as the only way in: see SSHProxyReady of DstackServer main",
		},
		"unknown level": {
			testkit.MakeServer("main").Level("Paranoid").Enforcement(v1alpha1.EnforcementAudit), nothing,
			`Ready=False/InvalidSpec: spec.unmatchedProjects.level: level "Paranoid" is not known to this release, so every control is denied: use Open, Baseline, Restricted or Dedicated`,
			`UnmatchedProjectsCovered=False/InvalidSpec: spec.unmatchedProjects.level: level "Paranoid" is not known to this release, so every control is denied: use Open, Baseline, Restricted or Dedicated`,
		},
		"not served": {
			testkit.MakeServer("main"), func(f *ours.ServerFacts) { f.Served = "" },
			"Ready=False/PolicyServersNotReady: waiting for every policy server to decide by policy revision REVISION",
			"UnmatchedProjectsCovered=False/PolicyServersNotReady: waiting for every policy server to decide by policy revision REVISION",
		},
		"settings wait for somebody": {
			testkit.MakeServer("main"), func(f *ours.ServerFacts) {
				f.Settings = ours.Stuck(v1alpha1.ReasonFieldConflict, "remove it there")
				f.Running.PolicyPods = 0
			},
			"Ready=False/FieldConflict: remove it there",
			"UnmatchedProjectsCovered=False/SettingsNotRunning: 2 of 2 server pods do not ask the policy server: see SettingsApplied of DstackServer main",
		},
		"settings may not hold": {
			testkit.MakeServer("main"), func(f *ours.ServerFacts) {
				f.Settings = ours.Stuck(v1alpha1.ReasonSettingHidden, "remove the key")
			},
			"Ready=False/SettingHidden: remove the key",
			"UnmatchedProjectsCovered=False/SettingsNotRunning: the server may not have a setting as the operator wrote it: see SettingsApplied of DstackServer main",
		},
		"config.yml may have lost the plugin": {
			testkit.MakeServer("main"), func(f *ours.ServerFacts) {
				f.Settings = ours.Stuck(v1alpha1.ReasonConfigMountClash, "write the line")
			},
			"Ready=False/ConfigMountClash: write the line",
			"UnmatchedProjectsCovered=False/SettingsNotRunning: the server's config.yml may not name the plugin: see SettingsApplied of DstackServer main",
		},
		"a doubt that SettingsApplied does not name": {
			testkit.MakeServer("main"), func(f *ours.ServerFacts) {
				f.Settings, f.Doubts = ours.Waiting(v1alpha1.ReasonRolloutInProgress, "wait"), doubting(v1alpha1.ReasonConfigDisabled)
			},
			"Ready=False/RolloutInProgress: wait",
			"UnmatchedProjectsCovered=False/SettingsNotRunning: the server is told to read no config.yml, so it may load no plugin: see SettingsApplied of DstackServer main",
		},
		"a doubt that a read which failed does not clear": {
			testkit.MakeServer("main"), func(f *ours.ServerFacts) {
				f.Settings, f.Doubts = ours.Unknown(v1alpha1.ReasonReconcileError, "etcd is away"), doubting(v1alpha1.ReasonConfigMountClash)
			},
			"Ready=Unknown/ReconcileError: etcd is away",
			"UnmatchedProjectsCovered=False/SettingsNotRunning: the server's config.yml may not name the plugin: see SettingsApplied of DstackServer main",
		},
		"an old version and a rejected token": {
			testkit.MakeServer("main"), func(f *ours.ServerFacts) {
				f.Connected, f.Version = ours.Stuck(v1alpha1.ReasonTokenRejected, "write it"), ours.Version{Release: "0.20.28"}
			},
			"Ready=False/TokenRejected: write it",
			"UnmatchedProjectsCovered=False/SettingsNotRunning: dstack 0.20.28 creates runs by POST /api/project/NAME/runs/submit without asking any plugin: upgrade to 0.21.0 or later: see Connected of DstackServer main",
		},
		"a version that no pod has reported": {
			testkit.MakeServer("main"), func(f *ours.ServerFacts) {
				f.Connected, f.Version = ours.Waiting(v1alpha1.ReasonUnreachable, "no answer"), ours.Version{}
			},
			"Ready=False/Unreachable: no answer",
			"UnmatchedProjectsCovered=False/SettingsNotRunning: no server pod has reported its dstack version yet: see Connected of DstackServer main",
		},
		"a development build that does not answer": {
			testkit.MakeServer("main"), func(f *ours.ServerFacts) {
				f.Connected, f.Version = ours.Waiting(v1alpha1.ReasonUnreachable, "no answer"), ours.Version{Development: true}
			},
			"Ready=False/Unreachable: no answer",
			"UnmatchedProjectsCovered=True/Covered: projects that no profile names are refused what spec.unmatchedProjects denies",
		},
		"a pod of others": {
			testkit.MakeServer("main"), func(f *ours.ServerFacts) {
				f.Pods = ours.Stuck(v1alpha1.ReasonForeignPods, "delete it")
			},
			"Ready=False/ForeignPods: delete it",
			"UnmatchedProjectsCovered=True/Covered: projects that no profile names are refused what spec.unmatchedProjects denies",
		},
		"a pod of which that is not known": {
			testkit.MakeServer("main"), func(f *ours.ServerFacts) {
				f.Pods = ours.Unknown(v1alpha1.ReasonPodsUnknown, "wait")
				f.Running.PolicyPods = 1
			},
			"Ready=Unknown/PodsUnknown: wait",
			"UnmatchedProjectsCovered=False/SettingsNotRunning: the owner of a server pod is not known, so it counts as not isolated: see PodsOwned of DstackServer main",
		},
		"not accepted": {
			testkit.MakeServer("main"), func(f *ours.ServerFacts) {
				*f = ours.ServerFacts{Accepted: ours.Stuck(v1alpha1.ReasonWorkloadNotFound, "create it")}
			},
			"Ready=False/WorkloadNotFound: create it",
			"UnmatchedProjectsCovered=Unknown/Pending: not looked at yet",
		},
		"not accepted, but resolved": {
			testkit.MakeServer("main"), func(f *ours.ServerFacts) {
				*f = ours.ServerFacts{Effective: f.Effective, Accepted: ours.Stuck(v1alpha1.ReasonWorkloadNotFound, "create it")}
			},
			"Ready=False/WorkloadNotFound: create it",
			"UnmatchedProjectsCovered=False/WorkloadNotFound: this DstackServer is not accepted: create it",
		},
		"disabled": {
			testkit.MakeServer("main"), func(f *ours.ServerFacts) {
				f.Served, f.Settings = "", ours.Stuck(v1alpha1.ReasonDisabled, "all settings were given back")
			},
			"Ready=False/Disabled: all settings were given back",
			"UnmatchedProjectsCovered=False/Disabled: all settings were given back",
		},
		"releasing": {
			testkit.MakeServer("main"), func(f *ours.ServerFacts) {
				f.Served, f.Settings = "", ours.Waiting(v1alpha1.ReasonReleasing, "the settings were taken back")
			},
			"Ready=False/Releasing: the settings were taken back",
			"UnmatchedProjectsCovered=False/Releasing: the settings were taken back",
		},
		"nothing known": {
			testkit.MakeServer("main"), func(f *ours.ServerFacts) { *f = ours.ServerFacts{} },
			"Ready=Unknown/Pending: not looked at yet",
			"UnmatchedProjectsCovered=Unknown/Pending: not looked at yet",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := tc.server.Generation(1).Obj()
			e := resolve(s, restricted("research").Obj())
			facts := goodFacts(e)
			tc.change(&facts)
			got := ours.Server(s, facts, now)
			checkConditions(t, got.Conditions, serverConditions, 1)
			mustBe(t, got.Conditions, v1alpha1.ConditionReady, withRevision(tc.ready, e.Revision))
			mustBe(t, got.Conditions, v1alpha1.ConditionUnmatchedProjectsCovered, withRevision(tc.unmatched, e.Revision))
		})
	}
}

func TestServerStatusBesideConditions(t *testing.T) {
	s := testkit.MakeServer("main").Generation(5).Obj()
	e := resolve(s, restricted("research").Obj(), open("vision").Obj())
	f := goodFacts(e)
	f.Served = ""
	f.Injected = []v1alpha1.InjectedItem{{Name: "PYTHONPATH", State: v1alpha1.InjectedConflict, Manager: "helm"}}
	f.Warnings = []string{"strategy Recreate"}
	f.SSH = &v1alpha1.SSHProxyStatus{Address: "ssh.example.com:22"}
	want := v1alpha1.DstackServerStatus{
		ObservedGeneration: 5, Release: "0.22.5", Build: v1alpha1.BuildRelease, Profiles: 2, PlannedNetworkMode: 1,
		Running:          f.Running,
		SSHProxy:         f.SSH,
		PolicyRevision:   v1alpha1.PolicyRevisions{Desired: e.Revision},
		SettingsRevision: f.Revisions,
		Injected:         f.Injected,
		Warnings:         f.Warnings,
	}
	got := ours.Server(s, f, now)
	got.Conditions = nil
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// ViewOf reads from a server's status exactly what its reconciler wrote.
func TestViewOf(t *testing.T) {
	s := testkit.MakeServer("main").Generation(1).Obj()
	e := resolve(s, restricted("research").Obj())
	s.Status = ours.Server(s, goodFacts(e), now)
	if diff := cmp.Diff(ours.View{Served: e.Revision, Running: running(1), Proven: true, CatchingUp: true, Version: goodFacts(e).Version, SSHProxy: goodFacts(e).SSHProxy}, without(ours.ViewOf(s, e))); diff != "" {
		t.Errorf("all well, -want +got:\n%s", diff)
	}
	stuck := []string{
		v1alpha1.ReasonFieldConflict, v1alpha1.ReasonConfigMountClash, v1alpha1.ReasonWouldLoseDatabase, v1alpha1.ReasonInjectionFailed,
		v1alpha1.ReasonRolloutBlocked, v1alpha1.ReasonProxyInTheWay, v1alpha1.ReasonConfigDisabled, v1alpha1.ReasonInvalidWorkload, v1alpha1.ReasonPodFailing,
		v1alpha1.ReasonPodRefused,
	}
	for _, reason := range stuck {
		f := goodFacts(e)
		f.Settings = ours.Stuck(reason, "somebody must act")
		s.Status = ours.Server(s, f, now)
		if !ours.ViewOf(s, e).SettingsStalled {
			t.Errorf("%s does not stall the profiles", reason)
		}
	}
	for _, reason := range []string{v1alpha1.ReasonRolloutInProgress, v1alpha1.ReasonWaitingForPolicyServers} {
		f := goodFacts(e)
		f.Settings = ours.Waiting(reason, "on its way")
		s.Status = ours.Server(s, f, now)
		if ours.ViewOf(s, e).SettingsStalled {
			t.Errorf("%s stalls the profiles", reason)
		}
	}
	for reason, want := range map[string]bool{
		v1alpha1.ReasonSecretInvalid: true, v1alpha1.ReasonAddressChanged: true, v1alpha1.ReasonInvalidAddress: true,
		v1alpha1.ReasonNotEnforced:   true,
		v1alpha1.ReasonTokenMismatch: false, v1alpha1.ReasonAddressPending: false, v1alpha1.ReasonRollingOut: false, v1alpha1.ReasonUnreachable: false,
	} {
		f := goodFacts(e)
		f.SSHProxy = ours.Finding{Status: metav1.ConditionFalse, Reason: reason, Message: "…", Stalled: want}
		s.Status = ours.Server(s, f, now)
		if got := ours.ViewOf(s, e).SSHProxy; got != f.SSHProxy {
			t.Errorf("%s: got %+v, want %+v", reason, got, f.SSHProxy)
		}
	}
	// Under one reason, somebody must act or not: Stalled of the server tells.
	f := goodFacts(e)
	f.SSHProxy = ours.Stuck(v1alpha1.ReasonTokenMismatch, "restart the pod")
	s.Status = ours.Server(s, f, now)
	if got := ours.ViewOf(s, e).SSHProxy; got != f.SSHProxy {
		t.Errorf("a mismatch that stays: got %+v, want %+v", got, f.SSHProxy)
	}
	f.Pods = ours.Unknown(v1alpha1.ReasonPodsUnknown, "wait")
	s.Status = ours.Server(s, f, now)
	if !ours.ViewOf(s, e).PodsUnknown {
		t.Error("PodsOwned is unknown, and the view does not have it")
	}
	for reason, want := range map[string]bool{v1alpha1.ReasonRevisionBehind: true, v1alpha1.ReasonUpgrading: true, v1alpha1.ReasonRollingOut: false, v1alpha1.ReasonTokenInvalid: false} {
		f := goodFacts(e)
		f.PolicyPlugin, f.Served = ours.Waiting(reason, "…"), ""
		s.Status = ours.Server(s, f, now)
		v := ours.ViewOf(s, e)
		if v.CatchingUp != want || v.Served != "" {
			t.Errorf("%s: catching up %t, served %q, want %t and nothing", reason, v.CatchingUp, v.Served, want)
		}
	}
	s.Status = ours.Server(s, goodFacts(e), now)
	if v := ours.ViewOf(s, resolve(s, restricted("research").Hint("Ask me.").Obj())); v.Served != "" {
		t.Errorf("serving another revision than the present one counts as %q", v.Served)
	}
}

// Going comes before disabled, and both before not accepted.
func TestWhyNothingIsInForce(t *testing.T) {
	s := testkit.MakeServer("main").Condition(v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonWorkloadNotFound, "…")
	e := resolve(s.Obj())
	for _, step := range []struct {
		change func()
		want   string
	}{
		{func() {}, v1alpha1.ReasonServerNotAccepted},
		{func() { s.Injection(v1alpha1.InjectionDisabled) }, v1alpha1.ReasonDisabled},
		{func() { s.Deleted(now) }, v1alpha1.ReasonReleasing},
	} {
		step.change()
		if got := ours.ViewOf(s.Obj(), e).Override.Reason; got != step.want {
			t.Errorf("got %s, want %s", got, step.want)
		}
	}
}
