package workload_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

const networkMode = "DSTACK_SERVER_JOB_NETWORK_MODE"

var endpoint = workload.Endpoint{
	URL: "http://isolation-policy-main.dstack.svc:8080", ServerDir: serverDir,
	ConfigVolume: "config", PluginDir: "/opt/dstack-isolation", PluginVolume: "plugin",
}

// asking is a server pod that asks the policy server by the Python plugin. Each
// without takes one part of that away.
func asking(without ...string) *testkit.ServerPod {
	skip := map[string]bool{}
	for _, w := range without {
		skip[w] = true
	}
	b := testkit.MakeServerPod().Data()
	add := func(part string, change func()) {
		if !skip[part] {
			change()
		}
	}
	add("init container", func() {
		b.With(func(t *corev1.PodTemplateSpec) {
			t.Spec.InitContainers = append(t.Spec.InitContainers, corev1.Container{Name: workload.InjectContainer})
		})
	})
	add("config", func() {
		b.Mount(corev1.VolumeMount{Name: "config", MountPath: serverDir + "/config.yml", SubPath: "config.yml"})
	})
	add("plugin", func() { b.Mount(corev1.VolumeMount{Name: "plugin", MountPath: "/opt/dstack-isolation"}) })
	add("PYTHONPATH", func() { b.Env("PYTHONPATH", "/opt/dstack-isolation") })
	add("URL", func() { b.Env("DSTACK_ISOLATION_POLICY_URL", endpoint.URL) })
	return b
}

// askingByREST is a server pod that asks by dstack's own plugin.
func askingByREST() *testkit.ServerPod {
	return asking("plugin", "PYTHONPATH", "URL").Env("DSTACK_PLUGIN_SERVICE_URI", endpoint.URL)
}

func TestDeliveryOfOnePod(t *testing.T) {
	const python, rest, none = v1alpha1.DeliveryPython, v1alpha1.DeliveryREST, v1alpha1.Delivery("")
	cases := map[string]struct {
		pod  *testkit.ServerPod
		want v1alpha1.Delivery
	}{
		"Python":                          {asking(), python},
		"REST":                            {askingByREST(), rest},
		"a stock server":                  {testkit.MakeServerPod(), none},
		"no init container":               {asking("init container"), none},
		"no merged config.yml":            {asking("config"), none},
		"no plugin":                       {asking("plugin"), none},
		"no PYTHONPATH":                   {asking("PYTHONPATH"), none},
		"no URL":                          {asking("URL"), none},
		"folder beside others":            {asking("PYTHONPATH").Env("PYTHONPATH", "/app:/opt/dstack-isolation"), python},
		"another folder":                  {asking("PYTHONPATH").Env("PYTHONPATH", "/opt/dstack-isolation-2"), none},
		"folder not known":                {asking("PYTHONPATH").EnvFromSecret("PYTHONPATH", "s", "k"), none},
		"folder replaced by a later item": {asking().Env("PYTHONPATH", "/app"), none},
		"URL of another policy server":    {asking("URL").Env("DSTACK_ISOLATION_POLICY_URL", "http://isolation-policy-other.dstack.svc:8080"), none},
		"URL not known":                   {asking("URL").EnvFromSecret("DSTACK_ISOLATION_POLICY_URL", "s", "k"), none},
		"plugin at another folder":        {asking("plugin").Mount(corev1.VolumeMount{Name: "plugin", MountPath: "/opt/other"}), none},
		"another volume at the folder":    {asking("plugin").Mount(corev1.VolumeMount{Name: "mine", MountPath: "/opt/dstack-isolation"}), none},
		"another volume at config.yml":    {asking("config").Mount(corev1.VolumeMount{Name: "mine", MountPath: serverDir + "/config.yml"}), none},
		"config.yml is not read":          {asking().Env("DSTACK_SERVER_CONFIG_DISABLED", ""), none},
		"config.yml is perhaps not read":  {asking().EnvFromSecret("DSTACK_SERVER_CONFIG_DISABLED", "s", "k"), none},
		"REST, URL of another server":     {asking("plugin", "PYTHONPATH", "URL").Env("DSTACK_PLUGIN_SERVICE_URI", "http://other"), none},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pods := []corev1.Pod{*tc.pod.Pod("p")}
			got := workload.Running(pods, testkit.ServerContainer, endpoint)
			want := v1alpha1.RunningSettings{Pods: 1, NetworkMode: 2}
			if tc.want != none {
				want.PolicyPods, want.Deliveries = 1, []v1alpha1.Delivery{tc.want}
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if uses := workload.AnyUses(pods, endpoint); uses != (tc.want != none) {
				t.Errorf("AnyUses says %t", uses)
			}
		})
	}
}

func TestRunningIsTheWeakestOfAllPods(t *testing.T) {
	mode := func(value string) *testkit.ServerPod { return asking().Env(networkMode, value) }
	gone := func(b *testkit.ServerPod, name string) corev1.Pod {
		pod := b.Pod(name)
		pod.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
		return *pod
	}
	both := []v1alpha1.Delivery{v1alpha1.DeliveryPython, v1alpha1.DeliveryREST}
	cases := map[string]struct {
		pods []corev1.Pod
		want v1alpha1.RunningSettings
	}{
		"no pod":                       {want: v1alpha1.RunningSettings{}},
		"one":                          {[]corev1.Pod{*mode("3").Pod("a")}, running(1, 1, 3)},
		"1 is weaker than 3":           {[]corev1.Pod{*mode("3").Pod("a"), *mode("1").Pod("b")}, running(2, 2, 1)},
		"2 is weaker than 1":           {[]corev1.Pod{*mode("2").Pod("a"), *mode("1").Pod("b")}, running(2, 2, 2)},
		"unset is 2":                   {[]corev1.Pod{*asking().Pod("a"), *mode("3").Pod("b")}, running(2, 2, 2)},
		"a Secret's value counts as 2": {[]corev1.Pod{*asking().EnvFromSecret(networkMode, "s", "k").Pod("a")}, running(1, 1, 2)},
		"perhaps by envFrom: 2":        {[]corev1.Pod{*asking().EnvFrom("settings").Pod("a")}, running(1, 1, 2)},
		"envFrom beside a value":       {[]corev1.Pod{*mode("3").EnvFrom("settings").Pod("a")}, running(1, 1, 3)},
		"no number counts as 2":        {[]corev1.Pod{*mode("bridge").Pod("a")}, running(1, 1, 2)},
		"a number out of range: 2":     {[]corev1.Pod{*mode("4").Pod("a")}, running(1, 1, 2)},
		"zero counts as 2":             {[]corev1.Pod{*mode("0").Pod("a")}, running(1, 1, 2)},
		"the last of two items":        {[]corev1.Pod{*mode("3").Env(networkMode, "1").Pod("a")}, running(1, 1, 1)},
		"terminating ones count":       {[]corev1.Pod{*mode("3").Pod("a"), gone(testkit.MakeServerPod(), "b")}, running(2, 1, 2)},
		"a pod without the container":  {[]corev1.Pod{*mode("3").WithServer(func(c *corev1.Container) { c.Name = "renamed" }).Pod("a")}, running(1, 0, 2)},
		"both deliveries, named once":  {[]corev1.Pod{*askingByREST().Env(networkMode, "3").Pod("a"), *mode("3").Pod("b"), *mode("3").Pod("c")}, v1alpha1.RunningSettings{Pods: 3, PolicyPods: 3, NetworkMode: 3, Deliveries: both}},
		"a stock one beside an asking": {[]corev1.Pod{*mode("3").Pod("a"), *testkit.MakeServerPod().Env(networkMode, "3").Pod("b")}, running(2, 1, 3)},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := workload.Running(tc.pods, testkit.ServerContainer, endpoint)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func running(pods, asking int32, mode v1alpha1.NetworkMode) v1alpha1.RunningSettings {
	r := v1alpha1.RunningSettings{Pods: pods, PolicyPods: asking, NetworkMode: mode}
	if asking > 0 {
		r.Deliveries = []v1alpha1.Delivery{v1alpha1.DeliveryPython}
	}
	return r
}

func TestLive(t *testing.T) {
	var pods []corev1.Pod
	for _, phase := range []corev1.PodPhase{corev1.PodPending, corev1.PodRunning, corev1.PodSucceeded, corev1.PodFailed, corev1.PodUnknown, ""} {
		pod := testkit.MakeServerPod().Pod("p-" + string(phase))
		pod.Status.Phase = phase
		pods = append(pods, *pod)
	}
	var got []string
	for _, p := range workload.Live(pods) {
		got = append(got, p.Name)
	}
	if diff := cmp.Diff([]string{"p-Pending", "p-Running", "p-Unknown", "p-"}, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if pods[2].Name != "p-Succeeded" {
		t.Error("Live changed the slice that it was given")
	}
}

// A pod still asks whatever its container is called by now: the policy server
// must stay until it is gone.
func TestAnyUsesLooksAtEveryContainerOfEveryPod(t *testing.T) {
	renamed := asking().WithServer(func(c *corev1.Container) { c.Name = "renamed" }).Pod("a")
	foreign := testkit.MakeServerPod().With(func(t *corev1.PodTemplateSpec) { t.Labels = map[string]string{"app": "other"} }).Pod("b")
	if !workload.AnyUses([]corev1.Pod{*foreign, *renamed}, endpoint) {
		t.Error("got false, want true for a pod whose container was renamed")
	}
	if workload.AnyUses([]corev1.Pod{*foreign}, endpoint) || workload.AnyUses(nil, endpoint) {
		t.Error("got true, want false where no pod asks")
	}
}

func TestReady(t *testing.T) {
	pod := testkit.MakeServerPod().Pod("a")
	if workload.Ready(pod) {
		t.Error("a pending pod is ready")
	}
	if !workload.Ready(testkit.SetReady(pod, "10.0.0.7")) {
		t.Error("a ready pod is not ready")
	}
	pod.Status.Conditions[0].Status = corev1.ConditionUnknown
	if workload.Ready(pod) {
		t.Error("a pod whose readiness is unknown is ready")
	}
}

func TestAnyUnlabelled(t *testing.T) {
	labelled := func(b *testkit.ServerPod, server string) *testkit.ServerPod {
		return b.With(func(t *corev1.PodTemplateSpec) {
			t.Labels = map[string]string{"app": "dstack", workload.LabelServerPod: server}
		})
	}
	told := func() *testkit.ServerPod {
		return testkit.MakeServerPod().EnvFromSecret("DSTACK_SSHPROXY_API_TOKEN", "s", "k").Env("DSTACK_SERVER_SSHPROXY_ADDRESS", "ssh.example.com")
	}
	cases := map[string]struct {
		pod  *testkit.ServerPod
		want bool
	}{
		"asks, with the label":               {labelled(asking(), "main"), false},
		"asks, without it":                   {asking(), true},
		"asks, with the label of another":    {labelled(asking(), "other"), true},
		"asks by REST, without it":           {askingByREST(), true},
		"told of a proxy, without it":        {told(), true},
		"told of a proxy, with it":           {labelled(told(), "main"), false},
		"runs as without the operator":       {testkit.MakeServerPod(), false},
		"has only the annotation, as of old": {testkit.MakeServerPod().Annotation(workload.AnnotationSettings, "5e771465"), false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pods := []corev1.Pod{*tc.pod.Pod("p")}
			if got := workload.AnyUnlabelled(pods, "main", endpoint); got != tc.want {
				t.Errorf("got %t, want %t", got, tc.want)
			}
			if got := workload.NoneLabelled(pods, "main", endpoint); got != tc.want {
				t.Errorf("none labelled: got %t, want %t", got, tc.want)
			}
			if pods = append(pods, *labelled(asking(), "main").Pod("q")); workload.NoneLabelled(pods, "main", endpoint) {
				t.Error("none labelled beside one that is")
			}
		})
	}
}

// The node of a pod that should have ended and does not say that it has may be gone: its
// object stays until somebody deletes it.
func TestLostPods(t *testing.T) {
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	ending := func(ago time.Duration) *corev1.Pod {
		pod := testkit.MakeServerPod().Pod("dstack-server-0")
		pod.DeletionTimestamp = &metav1.Time{Time: now.Add(-ago)}
		return pod
	}
	for name, tc := range map[string]struct {
		pod  *corev1.Pod
		want bool
	}{
		"a pod that runs":                        {pod: testkit.SetReady(testkit.MakeServerPod().Pod("dstack-server-0"), "10.0.0.1")},
		"one that is not ready yet":              {pod: testkit.MakeServerPod().Pod("dstack-server-0")},
		"one that has its time to end":           {pod: ending(-30 * time.Second)},
		"one whose kubelet is about to say so":   {pod: ending(time.Minute)},
		"one that should have ended":             {pod: ending(time.Minute + time.Second), want: true},
		"one that should have, and is Ready yet": {pod: testkit.SetReady(ending(time.Hour), "10.0.0.1")},
	} {
		t.Run(name, func(t *testing.T) {
			if got := workload.Lost(tc.pod, now); got != tc.want {
				t.Errorf("Lost: got %t", got)
			}
			if got := len(workload.WithoutLost([]corev1.Pod{*tc.pod, *testkit.MakeServerPod().Pod("other")}, now)); (got == 1) != tc.want {
				t.Errorf("WithoutLost leaves %d of 2", got)
			}
		})
	}
}
