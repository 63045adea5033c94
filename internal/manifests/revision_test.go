package manifests_test

import (
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

// applied is the case's Deployment with an intent in it, merged as the API
// server merges lists by name.
func applied(t *testing.T, w world, intent manifests.Intent) *workload.Workload {
	t.Helper()
	pod := w.pod
	if pod == nil {
		pod = testkit.MakeServerPod().Data()
	}
	before, err := json.Marshal(pod.Deployment(testkit.WorkloadName))
	if err != nil {
		t.Fatal(err)
	}
	patch, err := json.Marshal(intent.Config())
	if err != nil {
		t.Fatal(err)
	}
	after, err := strategicpatch.StrategicMergePatch(before, patch, appsv1.Deployment{})
	if err != nil {
		t.Fatal(err)
	}
	var d appsv1.Deployment
	if err := json.Unmarshal(after, &d); err != nil {
		t.Fatal(err)
	}
	return workload.FromDeployment(&d)
}

// again computes the settings of a workload that has an intent applied already,
// perhaps by another version.
func again(t *testing.T, w world, live *workload.Workload, change func(*manifests.SettingsInput)) manifests.Intent {
	t.Helper()
	in := w.input(t)
	c, err := live.Container(testkit.ServerContainer)
	if err != nil {
		t.Fatal(err)
	}
	in.Workload, in.Container = live, c
	if change != nil {
		change(&in)
	}
	return manifests.Settings(in)
}

// What is applied twice must be the same twice: else the server restarts for
// ever.
func TestSettingsAreStableOnceApplied(t *testing.T) {
	for name, w := range worlds {
		if w.stateful {
			continue // Their pod templates are the same as Deployments'.
		}
		t.Run(name, func(t *testing.T) {
			first := manifests.Settings(w.input(t))
			live := applied(t, w, first)
			second := again(t, w, live, nil)
			first.Workload = second.Workload
			if diff := cmp.Diff(yamlOf(t, first), yamlOf(t, second)); diff != "" {
				t.Errorf("-first +second:\n%s", diff)
			}
			if got := live.SettingsRevision(); got != first.Revision || len(got) != 8 {
				t.Errorf("the template has revision %q, want %q", got, first.Revision)
			}
		})
	}
}

func yamlOf(t *testing.T, i manifests.Intent) string {
	t.Helper()
	data, err := json.MarshalIndent(i.Config(), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// An upgrade of the operator must not restart dstack: image and plugin stay
// until the settings change.
func TestAnUpgradeKeepsImageAndPlugin(t *testing.T) {
	w := world{mode: 1}
	first := manifests.Settings(w.input(t))
	live := applied(t, w, first)
	upgrade := func(in *manifests.SettingsInput) {
		in.Options.Image = "registry.example.com/dstack-isolation:v2"
		in.Files = manifests.PluginFiles{
			"dstack_isolation/__init__.py":              "# another\n",
			"dstack_isolation/_more.py":                 "# new\n",
			"dstack_isolation-0.2.0.dist-info/METADATA": "Name: dstack-isolation\n",
		}
	}
	after := again(t, w, live, upgrade)
	first.Workload = after.Workload
	if diff := cmp.Diff(yamlOf(t, first), yamlOf(t, after)); diff != "" {
		t.Errorf("the upgrade changes the pod template, -before +after:\n%s", diff)
	}

	moved := again(t, w, live, func(in *manifests.SettingsInput) {
		upgrade(in)
		in.NetworkMode = 3
	})
	if *moved.Plugin.Init.Image != "registry.example.com/dstack-isolation:v2" {
		t.Errorf("with other settings the image stays at %s", *moved.Plugin.Init.Image)
	}
	volume := moved.Plugin.Volumes[1].ConfigMap
	if *volume.Name == *first.Plugin.Volumes[1].ConfigMap.Name || len(volume.Items) != 3 || *volume.Items[0].Path != "dstack_isolation-0.2.0.dist-info/METADATA" {
		t.Errorf("with other settings the plugin stays at %s with %d files", *volume.Name, len(volume.Items))
	}
}

func TestRevisionChangesExactlyWithTheSettings(t *testing.T) {
	base := world{mode: 1}
	want := manifests.Settings(base.input(t)).Revision
	type change = func(*manifests.SettingsInput)
	same := map[string]change{
		"image":                     func(in *manifests.SettingsInput) { in.Options.Image = "other:2" },
		"plugin":                    func(in *manifests.SettingsInput) { in.Files = manifests.PluginFiles{"a.py": "b"} },
		"replicas of policy server": func(in *manifests.SettingsInput) { in.Server.Spec.PolicyPlugin.Replicas = 7 },
		"level":                     func(in *manifests.SettingsInput) { in.Server.Spec.UnmatchedProjects.Level = v1alpha1.LevelDedicated },
		"port":                      func(in *manifests.SettingsInput) { in.Server.Spec.API.Port = 3001 },
		"the user's image":          func(in *manifests.SettingsInput) { in.Container.Image = "dstack-server:0.22.6" },
		"the user's variables":      func(in *manifests.SettingsInput) { in.Container.Env = []corev1.EnvVar{{Name: "X", Value: "1"}} },
		"resourceVersion":           func(in *manifests.SettingsInput) { in.Workload.Meta.ResourceVersion = "43" },
		"service account":           func(in *manifests.SettingsInput) { in.Options.ServiceAccount = "other" },
	}
	different := map[string]change{
		"network mode":     func(in *manifests.SettingsInput) { in.NetworkMode = 3 },
		"no network mode":  func(in *manifests.SettingsInput) { in.NetworkMode = 2 },
		"delivery":         func(in *manifests.SettingsInput) { in.Server.Spec.PolicyPlugin.Delivery = v1alpha1.DeliveryREST },
		"server directory": func(in *manifests.SettingsInput) { in.Server.Spec.ServerDir = "/srv" },
		"user":             func(in *manifests.SettingsInput) { in.Server.Spec.PolicyPlugin.RunAsUser = ptr.To[int64](7) },
		"the user's user": func(in *manifests.SettingsInput) {
			in.Container.SecurityContext = &corev1.SecurityContext{RunAsUser: ptr.To[int64](8)}
		},
		"token":            func(in *manifests.SettingsInput) { in.Options.TokenID = "ffffffff" },
		"name of server":   func(in *manifests.SettingsInput) { in.Server.Name = "other" },
		"the user's mount": func(in *manifests.SettingsInput) { in.Container.VolumeMounts[0].SubPath = "x" },
		"the user's PYTHONPATH": func(in *manifests.SettingsInput) {
			in.Container.Env = []corev1.EnvVar{{Name: "PYTHONPATH", Value: "/app:/opt/dstack-isolation"}}
		},
	}
	seen := map[string]string{want: "base"}
	check := func(cases map[string]change, differs bool) {
		for name, change := range cases {
			in := base.input(t)
			change(&in)
			got := manifests.Settings(in).Revision
			if (got != want) != differs {
				t.Errorf("%s: revision %s, base %s, want different: %t", name, got, want, differs)
			}
			if other, dup := seen[got]; differs && dup {
				t.Errorf("%s and %s have the same revision", name, other)
			}
			seen[got] = name
		}
	}
	check(different, true)
	check(same, false)
}

// With REST delivery no token reaches the server, so a new one needs no
// restart.
func TestRESTDoesNotDependOnTheToken(t *testing.T) {
	w := world{server: testkit.MakeServer("main").Delivery(v1alpha1.DeliveryREST)}
	in := w.input(t)
	want := manifests.Settings(in).Revision
	in.Options.TokenID = "ffffffff"
	if got := manifests.Settings(in).Revision; got != want {
		t.Errorf("got revision %s, want %s", got, want)
	}
}

func TestPartsOfAnIntent(t *testing.T) {
	i := manifests.Settings(world{mode: 3}.input(t))
	if i.Empty() || len(i.Env()) != 5 {
		t.Errorf("got %d variables, empty %t, want 5", len(i.Env()), i.Empty())
	}
	without := i.WithoutSetting("DSTACK_SERVER_JOB_NETWORK_MODE")
	if len(without.Settings) != 0 || len(i.Settings) != 1 || len(without.Env()) != 4 {
		t.Errorf("leaving a setting out left %d, and %d in the original", len(without.Settings), len(i.Settings))
	}
	if bare := i.WithoutPlugin(); bare.Plugin != nil || i.Plugin == nil || bare.Empty() || len(bare.Env()) != 1 {
		t.Error("leaving the plugin out did something else")
	}
	if !without.WithoutPlugin().Empty() {
		t.Error("an intent without anything is not empty")
	}
	for _, e := range i.Env() {
		if e.ValueFrom == nil && (e.Value == nil || *e.Value == "") {
			t.Errorf("%s has an empty value", *e.Name)
		}
	}
}

func TestInitContainerIsHardened(t *testing.T) {
	for name, w := range worlds {
		live := applied(t, world{pod: w.pod}, manifests.Settings(w.input(t)))
		c := live.Injected()
		if c == nil {
			t.Fatalf("%s: no init container", name)
		}
		mustBeHardened(t, *c)
	}
}

// The pods that come of the settings are recognised as asking.
func TestAppliedPodsAreRecognised(t *testing.T) {
	for name, w := range worlds {
		if manifests.Elsewhere(w.obj()) {
			continue // Its processes are in no pod that is seen.
		}
		live := applied(t, world{pod: w.pod}, manifests.Settings(w.input(t)))
		pods := []corev1.Pod{*testkit.PodOf(testkit.Namespace, "p", *live.Template)}
		got := workload.Running(pods, testkit.ServerContainer, manifests.Endpoint(w.obj()))
		if got.PolicyPods != 1 || (w.mode != 0 && got.NetworkMode != w.mode) {
			t.Errorf("%s: got %+v, want a pod that asks", name, got)
		}
	}
}

// Release names the workload and nothing else: then all that we own goes.
func TestRelease(t *testing.T) {
	for _, w := range []world{{}, {stateful: true}} {
		live := w.workload()
		data, err := json.Marshal(manifests.Release(live))
		if err != nil {
			t.Fatal(err)
		}
		want := `{"kind":"` + string(live.Kind) + `","apiVersion":"apps/v1","metadata":{"name":"dstack-server","namespace":"dstack","uid":"9d8e"}}`
		if string(data) != want {
			t.Errorf("got  %s\nwant %s", data, want)
		}
	}
}

func TestPlugin(t *testing.T) {
	s := world{}.obj()
	cm := decode[corev1.ConfigMap](t, manifests.Plugin(s, files).Config)
	if !ptr.Deref(cm.Immutable, false) || len(cm.Data) != len(files) {
		t.Errorf("got immutable %v and %d files", cm.Immutable, len(cm.Data))
	}
	other := manifests.PluginFiles{"a/b": "cd", "e": ""}
	moved := manifests.PluginFiles{"a/b": "c", "de": ""}
	names := map[string]bool{}
	for _, f := range []manifests.PluginFiles{files, other, moved, {}} {
		names[manifests.PluginConfigMapName("main", f)] = true
	}
	if len(names) != 4 {
		t.Errorf("four plugins have %d names", len(names))
	}
	// Keys map back to paths, so two files must never share a key.
	for _, o := range manifests.Settings(world{}.input(t)).Plugin.Volumes[1].ConfigMap.Items {
		if cm.Data[*o.Key] != files[*o.Path] {
			t.Errorf("%s is mounted at %s with another content", *o.Key, *o.Path)
		}
	}
}

// The kubelet starts no container that must not be root and is.
func TestInitContainerIsNoForbiddenRoot(t *testing.T) {
	for name, w := range worlds {
		live := applied(t, world{pod: w.pod}, manifests.Settings(w.input(t)))
		own := live.Injected().SecurityContext
		nonRoot, user := own.RunAsNonRoot, own.RunAsUser
		if pod := live.Template.Spec.SecurityContext; pod != nil {
			if nonRoot == nil {
				nonRoot = pod.RunAsNonRoot
			}
			if user == nil {
				user = pod.RunAsUser
			}
		}
		if ptr.Deref(nonRoot, false) && user != nil && *user == 0 {
			t.Errorf("%s: the init container runs as root and must not", name)
		}
	}
}

// The presence of such a variable counts, so another value of the user's is no
// conflict.
func TestWhatTheUserForbidsIsLeftToThem(t *testing.T) {
	for _, tc := range []struct {
		name string
		pod  *testkit.ServerPod
		want int
	}{
		{"nobody", testkit.MakeServerPod().Data(), 2},
		{"another value", testkit.MakeServerPod().Data().Env(dstack.EnvForbidDstackInRuns, "true"), 1},
		{"our value", testkit.MakeServerPod().Data().Env(dstack.EnvForbidDstackInRuns, "1"), 2},
		{"a reference", testkit.MakeServerPod().Data().EnvFromSecret(dstack.EnvForbidDstackInRuns, "s", "k"), 2},
	} {
		w := world{pod: tc.pod, forbidden: []isolation.Control{isolation.ServerAccess, isolation.ServicesWithoutGateway}}
		if got := len(manifests.Settings(w.input(t)).Settings); got != tc.want {
			t.Errorf("%s: %d variables, want %d", tc.name, got, tc.want)
		}
	}
}
