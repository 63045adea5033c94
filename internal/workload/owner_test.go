package workload_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

// ownDeployment is a Deployment of a server, with a UID.
func ownDeployment(name string) *appsv1.Deployment {
	d := testkit.MakeServerPod().Deployment(name)
	d.UID = testkit.UIDOf(name)
	return d
}

// stranger is a pod with the labels of a server's workload, as somebody creates it
// who may name and label it.
func stranger(name string) *corev1.Pod {
	pod := testkit.MakeServerPod().Pod(name)
	pod.UID = testkit.UIDOf(name)
	return pod
}

func controlledBy(pod *corev1.Pod, owner metav1.Object, kind string) *corev1.Pod {
	pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(owner, appsv1.SchemeGroupVersion.WithKind(kind))}
	return pod
}

func with[T any](o T, changes ...func(T)) T {
	for _, change := range changes {
		change(o)
	}
	return o
}

func TestPodsOfADeployment(t *testing.T) {
	d := ownDeployment("dstack")
	set := testkit.ReplicaSetOf(d)
	earlier := ownDeployment("dstack")
	earlier.UID = "earlier"
	other := ownDeployment("other")
	made := func(name string, by *appsv1.ReplicaSet) *corev1.Pod { return testkit.MadeBy(stranger(name), by) }
	set2 := func(change func(*appsv1.ReplicaSet)) *appsv1.ReplicaSet { return with(testkit.ReplicaSetOf(d), change) }
	long := set2(func(s *appsv1.ReplicaSet) { s.Name = strings.Repeat("a", 253) })

	cases := map[string]struct {
		pod  *corev1.Pod
		sets []*appsv1.ReplicaSet
		// want is "own", or why not: "foreign: …", "unknown: …".
		want string
	}{
		"made by its ReplicaSet": {pod: made("p", set), sets: []*appsv1.ReplicaSet{set}, want: "own"},
		"of an older ReplicaSet whose container had another name": {
			pod: with(made("p", set), func(p *corev1.Pod) { p.Spec.Containers[0].Name = "old" }),
			sets: []*appsv1.ReplicaSet{set2(func(s *appsv1.ReplicaSet) {
				s.Spec.Template = *s.Spec.Template.DeepCopy()
				s.Spec.Template.Spec.Containers[0].Name = "old"
			})}, want: "own",
		},
		"with what admission webhooks change: images, accounts, containers beside": {
			pod: with(made("p", set), func(p *corev1.Pod) {
				p.Spec.Containers[0].Image, p.Spec.ServiceAccountName = "mirror.example.com/dstack", "other"
				p.Spec.Containers = append([]corev1.Container{{Name: "mesh"}}, p.Spec.Containers...)
			}), sets: []*appsv1.ReplicaSet{set}, want: "own",
		},
		"of a ReplicaSet whose name leaves no place for a dash": {
			pod: with(made("p", long), func(p *corev1.Pod) { p.GenerateName = long.Name }), sets: []*appsv1.ReplicaSet{long}, want: "own",
		},
		"labels alone": {pod: stranger("job"), sets: []*appsv1.ReplicaSet{set}, want: "foreign: no controller"},
		"labels and the hash of the ReplicaSet": {
			pod:  with(stranger("job"), func(p *corev1.Pod) { p.Labels[testkit.HashLabel] = set.Labels[testkit.HashLabel] }),
			sets: []*appsv1.ReplicaSet{set}, want: "foreign: no controller",
		},
		"adopted": {
			pod: controlledBy(stranger("job"), set, "ReplicaSet"), sets: []*appsv1.ReplicaSet{set},
			want: "foreign: adopted by ReplicaSet " + set.Name + ", which did not make it",
		},
		"adopted, with a name like those that it makes": {
			pod: controlledBy(stranger(set.Name+"-abcde"), set, "ReplicaSet"), sets: []*appsv1.ReplicaSet{set},
			want: "foreign: adopted by ReplicaSet " + set.Name + ", which did not make it",
		},
		"adopted, made of another generateName": {
			pod:  with(controlledBy(stranger("job"), set, "ReplicaSet"), func(p *corev1.Pod) { p.GenerateName = "job-" }),
			sets: []*appsv1.ReplicaSet{set}, want: "foreign: adopted by ReplicaSet " + set.Name + ", which did not make it",
		},
		"without the template's container": {
			pod:  with(made("job", set), func(p *corev1.Pod) { p.Spec.Containers[0].Name = "job-container" }),
			sets: []*appsv1.ReplicaSet{set}, want: "foreign: adopted by ReplicaSet " + set.Name + ", which did not make it",
		},
		"of a Job": {pod: controlledBy(stranger("job"), &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "train"}}, "Job"), want: "foreign: controlled by Job train"},
		"of another group's ReplicaSet": {
			pod:  with(made("p", set), func(p *corev1.Pod) { p.OwnerReferences[0].APIVersion = "example.com/v1" }),
			sets: []*appsv1.ReplicaSet{set}, want: "foreign: controlled by ReplicaSet " + set.Name,
		},
		"an owner that is no controller": {
			pod:  with(made("p", set), func(p *corev1.Pod) { p.OwnerReferences[0].Controller = ptr.To(false) }),
			sets: []*appsv1.ReplicaSet{set}, want: "foreign: no controller",
		},
		"of a ReplicaSet of another Deployment": {
			pod: made("p", testkit.ReplicaSetOf(other)), sets: []*appsv1.ReplicaSet{testkit.ReplicaSetOf(other)},
			want: "foreign: controlled by ReplicaSet " + testkit.ReplicaSetOf(other).Name + " of Deployment other",
		},
		"of a ReplicaSet by hand that the Deployment will not adopt": {
			pod:  made("p", set),
			sets: []*appsv1.ReplicaSet{set2(func(s *appsv1.ReplicaSet) { s.OwnerReferences, s.Labels = nil, nil })},
			want: "foreign: controlled by ReplicaSet " + set.Name + ", which has no controller",
		},
		"its ReplicaSet is not there": {pod: made("p", set), want: "unknown: its ReplicaSet " + set.Name + " cannot be read or is gone"},
		"a ReplicaSet of that name, made anew": {
			pod: made("p", set), sets: []*appsv1.ReplicaSet{set2(func(s *appsv1.ReplicaSet) { s.UID = "anew" })},
			want: "unknown: its ReplicaSet " + set.Name + " cannot be read or is gone",
		},
		"its ReplicaSet was left behind and waits to be adopted": {
			pod: made("p", set), sets: []*appsv1.ReplicaSet{set2(func(s *appsv1.ReplicaSet) { s.OwnerReferences = nil })},
			want: "unknown: its ReplicaSet " + set.Name + " has no controller yet",
		},
		"of an earlier Deployment of the same name": {
			pod: made("p", testkit.ReplicaSetOf(earlier)), sets: []*appsv1.ReplicaSet{testkit.ReplicaSetOf(earlier)},
			want: "unknown: its ReplicaSet " + set.Name + " is of an earlier Deployment of this name",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var sets []appsv1.ReplicaSet
			for _, s := range tc.sets {
				sets = append(sets, *s)
			}
			if got := sorted(workload.FromDeployment(d).Sort([]corev1.Pod{*tc.pod}, sets, nil)); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

// sorted is what was made of one pod.
func sorted(s workload.Sorted) string {
	switch {
	case len(s.Own)+len(s.Foreign)+len(s.Unknown) != 1:
		return "not one pod"
	case len(s.Own) == 1:
		return "own"
	case len(s.Foreign) == 1:
		return "foreign: " + s.Foreign[0].Why
	default:
		return "unknown: " + s.Unknown[0].Why
	}
}

func TestPodsOfAStatefulSet(t *testing.T) {
	s := testkit.MakeServerPod().StatefulSet("dstack")
	s.UID = testkit.UIDOf("dstack")
	other := testkit.MakeServerPod().StatefulSet("other")
	other.UID = testkit.UIDOf("other")
	earlier := testkit.MakeServerPod().StatefulSet("dstack")
	earlier.UID = "earlier"
	const adopted = "foreign: adopted by StatefulSet dstack, which did not make it"
	cases := map[string]struct {
		pod  *corev1.Pod
		want string
	}{
		"made by it":            {testkit.MadeBy(stranger("dstack-0"), s), "own"},
		"the eleventh":          {testkit.MadeBy(stranger("dstack-10"), s), "own"},
		"labels alone":          {stranger("dstack-0"), "foreign: no controller"},
		"of another":            {testkit.MadeBy(stranger("other-0"), other), "foreign: controlled by StatefulSet other"},
		"of an earlier one":     {testkit.MadeBy(stranger("dstack-0"), earlier), "unknown: it is of an earlier StatefulSet of this name"},
		"of a ReplicaSet":       {testkit.MadeBy(stranger("p"), testkit.ReplicaSetOf(ownDeployment("dstack"))), "foreign: controlled by ReplicaSet " + testkit.ReplicaSetOf(ownDeployment("dstack")).Name},
		"adopted":               {controlledBy(stranger("dstack-1"), s, "StatefulSet"), adopted},
		"no ordinal":            {testkit.MadeBy(stranger("dstack-0-1"), s), adopted},
		"an ordinal and a sign": {testkit.MadeBy(stranger("dstack-+1"), s), adopted},
		"adopted and labelled": {
			// The controller gives the label to what it adopts.
			with(testkit.MadeBy(stranger("dstack-1"), s), func(p *corev1.Pod) { p.GenerateName = "" }), adopted,
		},
		"without the label": {
			with(testkit.MadeBy(stranger("dstack-1"), s), func(p *corev1.Pod) { delete(p.Labels, appsv1.StatefulSetPodNameLabel) }), adopted,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := sorted(workload.FromStatefulSet(s).Sort([]corev1.Pod{*tc.pod}, nil, nil)); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func TestPodsThatWereOwnStaySoWithoutTheirReplicaSet(t *testing.T) {
	d := ownDeployment("dstack")
	ours, theirs := *testkit.MadeBy(stranger("ours"), testkit.ReplicaSetOf(d)), *stranger("theirs")
	got := workload.FromDeployment(d).Sort([]corev1.Pod{ours, theirs}, nil, map[types.UID]bool{ours.UID: true, theirs.UID: true})
	if len(got.Own) != 1 || got.Own[0].Name != "ours" || len(got.Foreign) != 1 || len(got.Unknown) != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestRunningOfSortedPods(t *testing.T) {
	strict := func() *testkit.ServerPod { return asking().Env(networkMode, "3") }
	ours := []corev1.Pod{*strict().Pod("a")}
	as := func(b *testkit.ServerPod) []workload.Stranger { return []workload.Stranger{{Pod: *b.Pod("b")}} }
	running := func(pods, policy int32, mode v1alpha1.NetworkMode) v1alpha1.RunningSettings {
		return v1alpha1.RunningSettings{Pods: pods, PolicyPods: policy, NetworkMode: mode, Deliveries: []v1alpha1.Delivery{v1alpha1.DeliveryPython}}
	}
	cases := map[string]struct {
		pods workload.Sorted
		want v1alpha1.RunningSettings
	}{
		"a foreign one is not counted":                     {workload.Sorted{Own: ours, Foreign: as(testkit.MakeServerPod())}, running(1, 1, 3)},
		"a foreign one alone":                              {workload.Sorted{Foreign: as(strict())}, v1alpha1.RunningSettings{}},
		"one that an earlier workload left, and that asks": {workload.Sorted{Own: ours, Foreign: as(asking().Env(networkMode, "1"))}, running(1, 1, 1)},
		"an unknown one is the weakest, whatever it has":   {workload.Sorted{Own: ours, Unknown: as(strict())}, running(2, 1, 2)},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, tc.pods.Running(testkit.ServerContainer, endpoint)); diff != "" {
				t.Error(diff)
			}
		})
	}
}
