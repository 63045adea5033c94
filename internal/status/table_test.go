package status_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	ours "github.com/dstack-isolation/operator/internal/status"
	"github.com/dstack-isolation/operator/internal/testkit"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares a text with testdata/NAME.txt.
func golden(t *testing.T, name, got string) {
	t.Helper()
	file := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".txt")
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s, -want +got (write it anew with -update):\n%s", file, diff)
	}
}

// text is a profile's whole status as a reader sees it.
func text(s v1alpha1.IsolationProfileStatus) string {
	var b strings.Builder
	for _, c := range s.Conditions {
		fmt.Fprintf(&b, "%s=%s/%s\n  %s\n", c.Type, c.Status, c.Reason, c.Message)
	}
	for _, r := range s.Effective {
		fmt.Fprintf(&b, "%s: asked %s, effective %s, %s\n", r.Control, r.Asked, r.Effective, r.Standing)
		for _, line := range [][2]string{{"because of", r.BecauseOf}, {"enforced by", r.EnforcedBy}, {"", r.Message}} {
			if line[1] != "" {
				fmt.Fprintf(&b, "  %s\n", strings.TrimSpace(line[0]+" "+line[1]))
			}
		}
	}
	for _, l := range s.PlatformLimits {
		fmt.Fprintf(&b, "platform limit %s of %v\n  %s\n", l.Name, l.Controls, l.Message)
	}
	for _, x := range s.Exceptions {
		end := "without end"
		if x.ExpiresAt != nil {
			end = "until " + x.ExpiresAt.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(&b, "exception %s for %d users: %s, %s\n  lifts %v\n", x.Name, x.Users, x.State, end, x.Controls)
	}
	for _, e := range s.Gained {
		fmt.Fprintf(&b, "gained %s\n  %s\n", e.Control, e.Message)
	}
	for _, e := range s.Lost {
		fmt.Fprintf(&b, "lost %s\n  %s\n", e.Control, e.Message)
	}
	return b.String()
}

// profileCase is one profile among others on a server, as it stands.
type profileCase struct {
	server  *testkit.Server
	profile *testkit.Profile
	others  []*testkit.Profile
	change  func(*ours.View)
	// fromStatus reads the view from the server's status.
	fromStatus bool
}

func open(name string) *testkit.Profile { return testkit.MakeProfile(name).Generation(1) }

func restrictedServer() *testkit.Server {
	return testkit.MakeServer("main").Level(v1alpha1.LevelRestricted)
}

var profileCases = map[string]profileCase{
	"restricted on bridge": {server: restrictedServer(), profile: restricted("research")},
	"open":                 {profile: open("research")},
	"elsewhere":            {server: restrictedServer().Elsewhere(), profile: restricted("research"), change: elsewhere},
	"elsewhere audit":      {server: restrictedServer().Elsewhere(), profile: restricted("research").Audit(), change: elsewhere},
	"elsewhere not served": {server: restrictedServer().Elsewhere(), profile: restricted("research"), change: func(v *ours.View) { elsewhere(v); v.Served = "" }},
	"elsewhere with the proxy": {
		server: restrictedServer().Elsewhere().SSHProxy(managed()), profile: testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).Generation(1),
		change: elsewhere,
	},
	"elsewhere without the token": {
		server: restrictedServer().Elsewhere().SSHProxy(managed()), profile: testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).Generation(1),
		change: func(v *ours.View) {
			elsewhere(v)
			v.SSHProxy = ours.Stuck(v1alpha1.ReasonNotEnforced, "the server knows of no SSH proxy")
		},
	},
	"host ssh denied": {server: restrictedServer(), profile: testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).Generation(1)},
	"host ssh denied by the proxy": {
		server: restrictedServer().SSHProxy(managed()), profile: testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).Generation(1),
		change: func(v *ours.View) { v.Running.SSHEnforcedPods = 2 },
	},
	// That it does not answer any more opens nothing.
	"host ssh denied and the proxy is gone": {
		server: restrictedServer().SSHProxy(managed()), profile: testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).Generation(1),
		change: func(v *ours.View) {
			v.Running.SSHEnforcedPods, v.SSHProxy = 2, ours.Waiting(v1alpha1.ReasonUnreachable, "an SSH proxy does not greet as dstack's does")
		},
	},
	"host ssh waits for pods": {
		server: restrictedServer().SSHProxy(managed()), profile: testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).Generation(1),
		change: func(v *ours.View) { v.Running.SSHEnforcedPods = 1 },
	},
	"host ssh waits for the proxy": {
		server: restrictedServer().SSHProxy(managed()), profile: testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).Generation(1),
		change: func(v *ours.View) { v.SSHProxy = ours.Waiting(v1alpha1.ReasonAddressPending, "no address yet") },
	},
	"host ssh waits for somebody": {
		server: restrictedServer().SSHProxy(managed()), profile: testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).Generation(1),
		change: func(v *ours.View) { v.SSHProxy = ours.Stuck(v1alpha1.ReasonSecretInvalid, "mend it") },
	},
	"host ssh not enforced by a pod": {
		server: restrictedServer().SSHProxy(managed()), profile: testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).Generation(1),
		change: func(v *ours.View) {
			v.Running.SSHEnforcedPods, v.SSHProxy = 2, ours.Stuck(v1alpha1.ReasonNotEnforced, "a server pod knows of no SSH proxy")
		},
	},
	"host ssh on mode 2": {
		server: testkit.MakeServer("main").SSHProxy(managed()), profile: open("research").Controls(func(c *v1alpha1.Controls) { c.HostSSH = v1alpha1.Denied }),
		change: func(v *ours.View) { v.Running.SSHEnforcedPods = 2 },
	},
	"host ssh audited": {
		server: testkit.MakeServer("main").SSHProxy(managed()), profile: testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).Audit().Generation(1),
	},
	"baseline is bypassable":         {profile: testkit.MakeProfile("research").Level(v1alpha1.LevelBaseline).AllowHostSSH().Generation(1)},
	"mode 1 and host network denied": {profile: restricted("research")},
	"mode 1 gained and lost": {
		server:  restrictedServer(),
		profile: restricted("research").Controls(func(c *v1alpha1.Controls) { c.DistributedTasks = v1alpha1.Allowed }),
		others:  []*testkit.Profile{open("vision")},
	},
	"gained because of another": {server: restrictedServer(), profile: open("vision"), others: []*testkit.Profile{restricted("research")}},
	"host ssh gained because of another": {
		server: testkit.MakeServer("main").SSHProxy(managed()), profile: open("vision"),
		others: []*testkit.Profile{open("research").Controls(func(c *v1alpha1.Controls) { c.HostSSH = v1alpha1.Denied })},
		change: func(v *ours.View) { v.Running.SSHEnforcedPods = 2 },
	},
	"still on mode 2":          {profile: restricted("research"), change: func(v *ours.View) { v.Running.NetworkMode = 2 }},
	"still on mode 2, stalled": {profile: restricted("research"), change: func(v *ours.View) { v.Running.NetworkMode, v.SettingsStalled = 2, true }},
	"the server itself denies": {
		server: restrictedServer(), profile: restricted("research"),
		change: func(v *ours.View) {
			v.Running.DeniedByServer = []v1alpha1.ControlName{v1alpha1.ControlServerAccess}
		},
	},
	"no user may create a project": {
		profile: restricted("research"),
		change: func(v *ours.View) {
			v.Running.SSHEnforcedPods, v.Running.DefaultPermissions = 2, []string{"allow_non_admins_create_projects=false"}
		},
	},
	"users may create projects": {
		profile: restricted("research"),
		change: func(v *ours.View) {
			v.Running.SSHEnforcedPods, v.Running.DefaultPermissions = 2, []string{"allow_non_admins_create_projects=true"}
		},
	},
	"settings may not hold": {
		server: restrictedServer(), profile: restricted("research"),
		change: func(v *ours.View) {
			s := restrictedServer().Condition(v1alpha1.ConditionSettingsApplied, metav1.ConditionFalse, v1alpha1.ReasonConfigDisabled, "remove the key").Obj()
			seen := ours.ViewOf(s, v.Effective)
			v.Doubt, v.SettingsStalled = seen.Doubt, seen.SettingsStalled
		},
	},
	"one pod does not ask": {profile: restricted("research"), change: func(v *ours.View) { v.Running.PolicyPods = 1 }},
	"one pod is unknown":   {profile: restricted("research"), change: func(v *ours.View) { v.Running.PolicyPods, v.PodsUnknown = 1, true }},
	"not proven":           {profile: restricted("research"), change: func(v *ours.View) { v.Proven = false }},
	"no server pods":       {profile: restricted("research"), change: func(v *ours.View) { v.Running = &v1alpha1.RunningSettings{} }},
	"not served":           {profile: restricted("research"), change: func(v *ours.View) { v.Served = "" }},
	"audit":                {profile: restricted("research").Audit()},
	"audit beside enforce": {
		profile: restricted("research").Audit(),
		others:  []*testkit.Profile{open("all").Include("*").Controls(func(c *v1alpha1.Controls) { c.Privileged = v1alpha1.Denied })},
	},
	"tightened by another": {
		profile: open("research"),
		others:  []*testkit.Profile{restricted("all").Include("*")},
	},
	"paths": {
		server:  restrictedServer(),
		profile: restricted("research").Controls(paths("/data", "/models")),
		others:  []*testkit.Profile{restricted("all").Include("*").Controls(paths("/data/public"))},
	},
	"exception for hostSSH": {
		server:  restrictedServer(),
		profile: restricted("research").Exception("ada", time.Time{}, v1alpha1.ControlHostSSH),
	},
	"exception to the host network": {
		server: restrictedServer(),
		profile: restricted("research").Exception("nlp", now.Add(time.Hour), v1alpha1.ControlHostNetwork, v1alpha1.ControlDistributedTasks).
			Exception("ended", now, v1alpha1.ControlPrivileged),
	},
	"exception to the host network alone": {
		server:  restrictedServer(),
		profile: restricted("research").Exception("nlp", time.Time{}, v1alpha1.ControlHostNetwork),
	},
	"exception for many": {
		server:  restrictedServer(),
		profile: restricted("research").Exception("nlp", time.Time{}, v1alpha1.ControlPrivileged).Users("ada", "bob", "dan", "eve", "tim"),
	},
	"exception that another denies": {
		server:  restrictedServer(),
		profile: restricted("research").Exception("nlp", time.Time{}, v1alpha1.ControlPrivileged),
		others:  []*testkit.Profile{restricted("all").Include("*")},
	},
	"privileged allowed": {
		server:  restrictedServer(),
		profile: restricted("research").Controls(func(c *v1alpha1.Controls) { c.Privileged = v1alpha1.Allowed }),
	},
	"any directory allowed": {
		server: restrictedServer(),
		profile: restricted("research").Controls(func(c *v1alpha1.Controls) {
			c.InstanceVolumes = &v1alpha1.InstanceVolumes{Mode: v1alpha1.InstanceVolumesAllowed}
			c.Registries = &v1alpha1.AllowedRegistries{Allowed: []v1alpha1.RegistryName{"ghcr.io/example"}}
		}),
	},
	"fleet environment allowed": {
		server: restrictedServer(),
		profile: restricted("research").Controls(func(c *v1alpha1.Controls) {
			c.FleetEnvironment, c.SSHFleets = v1alpha1.Allowed, v1alpha1.Allowed
		}),
	},
	"fleet environment allowed, no SSH fleets": {
		server:  restrictedServer(),
		profile: restricted("research").Controls(func(c *v1alpha1.Controls) { c.FleetEnvironment = v1alpha1.Allowed }),
	},
	"backends that isolate less": {
		server: restrictedServer(),
		profile: restricted("research").Controls(func(c *v1alpha1.Controls) {
			c.Backends = &v1alpha1.AllowedBackends{Allowed: []v1alpha1.BackendName{"runpod", "aws", "crusoe", "kubernetes"}}
		}),
	},
	"backends of which one is left": {
		server: restrictedServer(),
		profile: restricted("research").Controls(func(c *v1alpha1.Controls) {
			c.Backends = &v1alpha1.AllowedBackends{Allowed: []v1alpha1.BackendName{"aws", "crusoe", "kubernetes"}}
		}),
		others: []*testkit.Profile{open("all").Include("*").Controls(func(c *v1alpha1.Controls) {
			c.Backends = &v1alpha1.AllowedBackends{Allowed: []v1alpha1.BackendName{"aws", "gcp"}}
		})},
	},
	"dedicated": {
		server:  restrictedServer(),
		profile: restricted("research").Level(v1alpha1.LevelDedicated).Fleets("a100", "h200"),
	},
	"dedicated without a list": {server: restrictedServer(), profile: restricted("research").Level(v1alpha1.LevelDedicated)},
	"fleets with nothing in common": {
		server:  restrictedServer(),
		profile: restricted("research").Fleets("a100"),
		others:  []*testkit.Profile{restricted("all").Include("*").Fleets("h200")},
	},
	"unknown level version with an override": {
		server:  restrictedServer(),
		profile: restricted("research").LevelVersion("v9"),
	},
	"unknown level": {server: restrictedServer(), profile: restricted("research").Level("Paranoid")},
	"server disabled": {
		server: testkit.MakeServer("main").Injection(v1alpha1.InjectionDisabled), profile: restricted("research"), fromStatus: true,
	},
	"server going":         {server: testkit.MakeServer("main").Deleted(now), profile: restricted("research"), fromStatus: true},
	"server not accepted":  {server: testkit.MakeServer("main").Condition(v1alpha1.ConditionAccepted, metav1.ConditionFalse, v1alpha1.ReasonWorkloadNotFound, "there is no Deployment dstack-server in namespace dstack"), profile: restricted("research"), fromStatus: true},
	"server not looked at": {profile: restricted("research"), fromStatus: true},
}

func paths(all ...v1alpha1.InstancePath) func(*v1alpha1.Controls) {
	return func(c *v1alpha1.Controls) {
		c.InstanceVolumes = &v1alpha1.InstanceVolumes{Mode: v1alpha1.InstanceVolumesAllowedPaths, Paths: all}
	}
}

func TestProfileToTheLetter(t *testing.T) {
	used := map[string]bool{"no-server.txt": true, "not-seen.txt": true}
	for name, tc := range profileCases {
		used[strings.ReplaceAll(name, " ", "-")+".txt"] = true
		t.Run(name, func(t *testing.T) {
			server := tc.server
			if server == nil {
				server = testkit.MakeServer("main")
			}
			all := []*v1alpha1.IsolationProfile{tc.profile.Obj()}
			for _, o := range tc.others {
				all = append(all, o.Obj())
			}
			e := resolve(server.Obj(), all...)
			view := goodView(e)
			if tc.fromStatus {
				view = ours.ViewOf(server.Obj(), e)
			}
			if tc.change != nil {
				tc.change(&view)
			}
			got := ours.Profile(tc.profile.Obj(), view, now)
			if !view.Elsewhere { // Of what is not visible, none of the three is True.
				checkConditions(t, got.Conditions, profileConditions, 1)
			}
			golden(t, name, text(got))
		})
	}
	files, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if !used[f.Name()] {
			t.Errorf("testdata/%s belongs to no case", f.Name())
		}
	}
}

func TestProfileWithoutServerToTheLetter(t *testing.T) {
	got := ours.ProfileWithoutServer(restricted("research").Obj(), now)
	checkConditions(t, got.Conditions, profileConditions, 1)
	golden(t, "no server", text(got))
}

// A profile that the cache does not hold yet is pending, never in force.
func TestProfileNotSeenYet(t *testing.T) {
	e := resolve(testkit.MakeServer("main").Obj())
	got := ours.Profile(restricted("research").Obj(), goodView(e), now)
	checkConditions(t, got.Conditions, profileConditions, 1)
	golden(t, "not seen", text(got))
}

// What only an audit denies must not make other controls look better than they
// are: distributed tasks run, and they get the host network.
func TestAuditDoesNotCountAsDenial(t *testing.T) {
	all := open("all").Include("*").Controls(func(c *v1alpha1.Controls) {
		c.Privileged, c.HostNetwork = v1alpha1.Denied, v1alpha1.HostNetworkDistributedOnly
	}).Obj()
	audit := restricted("research").Audit().Obj()
	e := resolve(testkit.MakeServer("main").Obj(), all, audit)
	const want = "tasks of more than one node get the host network, from which they reach the host's agent: deny hostNetwork or distributedTasks"
	for _, row := range ours.Profile(audit, goodView(e), now).Effective {
		if row.Control == v1alpha1.ControlPrivileged && (row.Standing != v1alpha1.StandingBypassable || !strings.Contains(row.Message, want)) {
			t.Errorf("privileged is %s: %s", row.Standing, row.Message)
		}
	}
}

// No way around a control keeps a profile from being Ready.
func TestBypassableRowsAreReady(t *testing.T) {
	p := restricted("research").Obj()
	got := ours.Profile(p, goodView(resolve(restrictedServer().Obj(), p)), now)
	if !slices.ContainsFunc(got.Effective, func(r v1alpha1.EffectiveControl) bool { return r.Standing == v1alpha1.StandingBypassable }) {
		t.Error("no row is Bypassable, so nothing is tried")
	}
	mustBe(t, got.Conditions, v1alpha1.ConditionReady, "Ready=True/Ready: every policy server decides by this profile and every server pod asks them")
}

// The table never says that anything holds while a fact is missing.
func TestNothingIsEnforcedOnMissingFacts(t *testing.T) {
	p := restricted("research").Obj()
	e := resolve(restrictedServer().Obj(), p)
	for name, change := range map[string]func(*ours.View){
		"not served":         func(v *ours.View) { v.Served = "" },
		"another revision":   func(v *ours.View) { v.Served = "01d00000" },
		"pods not looked at": func(v *ours.View) { v.Running = nil },
		"no pods":            func(v *ours.View) { v.Running = &v1alpha1.RunningSettings{} },
		"pods that only run": func(v *ours.View) { v.Running = &v1alpha1.RunningSettings{Pods: 1, NetworkMode: 3} },
		"not proven":         func(v *ours.View) { v.Proven = false },
		"no version":         func(v *ours.View) { v.Version = ours.Version{} },
		"an old version":     func(v *ours.View) { v.Version.Release = "0.20.28" },
		"a doubt":            func(v *ours.View) { v.Doubt = "it may load no plugin" },
		"elsewhere":          elsewhere,
	} {
		t.Run(name, func(t *testing.T) {
			v := goodView(e)
			change(&v)
			got := ours.Profile(p, v, now)
			if c := condition(got.Conditions, "Ready"); c.Status == metav1.ConditionTrue {
				t.Errorf("Ready is True: %s", c.Message)
			}
			for _, row := range got.Effective {
				if row.Standing == v1alpha1.StandingEnforced {
					t.Errorf("%s is Enforced", row.Control)
				}
			}
		})
	}
}

// While an edit of another profile is on its way to the policy servers, a
// profile stays as it is: thousands would be written twice otherwise.
func TestAnotherProfilesEditChangesNoStatus(t *testing.T) {
	server, p := restrictedServer().Obj(), restricted("research").Obj()
	other := restricted("vision").Obj()
	before := goodView(resolve(server, p, other))
	p.Status = ours.Profile(p, before, now)

	other.Generation, other.Spec.Hint = 2, "Ask me."
	e := resolve(server, p, other)
	if e.Revision == before.Served {
		t.Fatal("the edit does not change the revision")
	}
	catchingUp := ours.View{Effective: e, Running: before.Running, Proven: true, Version: before.Version, CatchingUp: true}
	if diff := cmp.Diff(p.Status, ours.Profile(p, catchingUp, now.Add(time.Minute))); diff != "" {
		t.Errorf("while it is on its way:\n%s", diff)
	}
	if diff := cmp.Diff(p.Status, ours.Profile(p, goodView(e), now.Add(time.Minute))); diff != "" {
		t.Errorf("when it has arrived:\n%s", diff)
	}
	for name, change := range map[string]func(*ours.View, *v1alpha1.IsolationProfile){
		"a pod stopped asking": func(v *ours.View, _ *v1alpha1.IsolationProfile) {
			v.Running = &v1alpha1.RunningSettings{Pods: 2, PolicyPods: 1, NetworkMode: 3}
		},
		"a pod runs on a weaker network": func(v *ours.View, _ *v1alpha1.IsolationProfile) { v.Running = running(2) },
		"a doubt came up":                func(v *ours.View, _ *v1alpha1.IsolationProfile) { v.Doubt = "it may load no plugin" },
		"a policy server is silent":      func(v *ours.View, _ *v1alpha1.IsolationProfile) { v.CatchingUp = false },
		"the profile itself changed": func(v *ours.View, o *v1alpha1.IsolationProfile) {
			o.Generation, o.Spec.Hint = 2, "Ask them."
			v.Effective = resolve(server, o, other)
		},
	} {
		t.Run(name, func(t *testing.T) {
			v, o := catchingUp, p.DeepCopy()
			change(&v, o)
			if c := condition(ours.Profile(o, v, now).Conditions, v1alpha1.ConditionProgrammed); c.Status == metav1.ConditionTrue {
				t.Errorf("Programmed stays True: %s", c.Message)
			}
		})
	}
}

// An edit of another profile that changes what this one's projects get is
// shown as enforced only when it is served.
func TestAnotherProfilesTighteningIsPendingUntilServed(t *testing.T) {
	server, p := restrictedServer().Obj(), open("research").Obj()
	before := goodView(resolve(server, p))
	p.Status = ours.Profile(p, before, now)
	e := resolve(server, p, restricted("all").Include("*").Obj())
	got := ours.Profile(p, ours.View{Effective: e, Running: before.Running, Proven: true, Version: before.Version, CatchingUp: true}, now)
	for _, row := range got.Effective {
		if row.Control == v1alpha1.ControlPrivileged && row.Standing != v1alpha1.StandingPending {
			t.Errorf("privileged is %s, want Pending", row.Standing)
		}
	}
}
