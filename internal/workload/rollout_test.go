package workload_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

const revision = "5e771465"

func injectedPod() *testkit.ServerPod {
	return asking().Annotation(workload.AnnotationSettings, revision)
}

func rolledOut() *appsv1.Deployment {
	return testkit.SetRolledOut(injectedPod().Deployment(testkit.WorkloadName))
}

func TestObserveRolloutOfADeployment(t *testing.T) {
	ours := *testkit.SetReady(injectedPod().Pod("new"), "10.0.0.1")
	old := *testkit.SetReady(testkit.MakeServerPod().Pod("old"), "10.0.0.2")
	earlier := *asking().Annotation(workload.AnnotationSettings, "01d00000").Pod("earlier")
	cases := map[string]struct {
		change      func(*appsv1.Deployment)
		pods        []corev1.Pod
		wantDone    bool
		wantBlocked string
	}{
		"done":                        {pods: []corev1.Pod{ours}, wantDone: true},
		"an old pod is still there":   {pods: []corev1.Pod{ours, old}},
		"one of earlier settings":     {pods: []corev1.Pod{ours, earlier}},
		"not seen by its controller":  {change: func(d *appsv1.Deployment) { d.Generation++ }, pods: []corev1.Pod{ours}},
		"not updated":                 {change: func(d *appsv1.Deployment) { d.Status.UpdatedReplicas = 0 }, pods: []corev1.Pod{ours}},
		"not ready":                   {change: func(d *appsv1.Deployment) { d.Status.ReadyReplicas = 0 }, pods: []corev1.Pod{ours}},
		"one too many":                {change: func(d *appsv1.Deployment) { d.Status.Replicas = 2 }, pods: []corev1.Pod{ours}},
		"scaled to zero":              {change: func(d *appsv1.Deployment) { d.Spec.Replicas = ptr.To[int32](0); testkit.SetRolledOut(d) }, wantDone: true},
		"replicas left out means one": {change: func(d *appsv1.Deployment) { d.Spec.Replicas = nil }, pods: []corev1.Pod{ours}, wantDone: true},
		"paused, with an old pod": {
			change: func(d *appsv1.Deployment) { d.Spec.Paused = true }, pods: []corev1.Pod{old},
			wantBlocked: "Deployment dstack/dstack-server is paused: resume its rollout (kubectl -n dstack rollout resume deployment/dstack-server)",
		},
		"paused, all new": {change: func(d *appsv1.Deployment) { d.Spec.Paused = true }, pods: []corev1.Pod{ours}, wantDone: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d := rolledOut()
			if tc.change != nil {
				tc.change(d)
			}
			got := workload.FromDeployment(d).ObserveRollout(tc.pods)
			if diff := cmp.Diff(workload.Rollout{Done: tc.wantDone, Blocked: tc.wantBlocked}, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestObserveRolloutOfAStatefulSet(t *testing.T) {
	old := []corev1.Pod{*testkit.MakeServerPod().Pod("dstack-0")}
	cases := map[string]struct {
		strategy    appsv1.StatefulSetUpdateStrategy
		wantBlocked string
	}{
		"RollingUpdate": {strategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType}},
		"partition 0": {strategy: appsv1.StatefulSetUpdateStrategy{
			Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To[int32](0)},
		}},
		"partition 1": {
			strategy: appsv1.StatefulSetUpdateStrategy{
				Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To[int32](1)},
			},
			wantBlocked: "StatefulSet dstack/dstack updates only pods from ordinal 1 on (partition): lower the partition to 0",
		},
		"OnDelete": {
			strategy:    appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType},
			wantBlocked: "StatefulSet dstack/dstack has update strategy OnDelete: delete its pods to let them start with the new settings",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := testkit.SetStatefulRolledOut(injectedPod().StatefulSet("dstack"))
			s.Spec.UpdateStrategy = tc.strategy
			got := workload.FromStatefulSet(s).ObserveRollout(old)
			if got.Done || got.Blocked != tc.wantBlocked {
				t.Errorf("got done %t, blocked %q, want %q", got.Done, got.Blocked, tc.wantBlocked)
			}
		})
	}
}

// secretText stands for what a container may have printed.
const secretText = "Traceback: password is hunter2"

func TestFailure(t *testing.T) {
	ended := func(code int32, reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code, Reason: reason, Message: message}}
	}
	waiting := func(reason, message string) corev1.ContainerState {
		return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
	}
	status := func(name string, now, before corev1.ContainerState) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, State: now, LastTerminationState: before}
	}
	none := corev1.ContainerState{}
	const init = workload.InjectContainer
	cases := map[string]struct {
		init, server *corev1.ContainerStatus
		want         workload.Failure
	}{
		"starting":          {init: ptr.To(status(init, waiting("PodInitializing", ""), none))},
		"ours runs":         {init: ptr.To(status(init, corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}, none))},
		"ours succeeded":    {init: ptr.To(status(init, ended(0, "Completed", ""), none))},
		"server starts":     {server: ptr.To(status("server", waiting("ContainerCreating", ""), none))},
		"server runs again": {server: ptr.To(status("server", corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}, ended(1, "Error", secretText)))},
		"ours failed": {
			init: ptr.To(status(init, ended(1, "Error", "config.yml is not YAML: line 3"), none)),
			want: workload.Failure{Pod: "p", Ours: true, Message: "init container dstack-isolation-inject: ended with exit code 1: config.yml is not YAML: line 3"},
		},
		"ours failed again and again": {
			init: ptr.To(status(init, waiting("CrashLoopBackOff", "back-off 10s restarting failed container"), ended(1, "Error", "no answer"))),
			want: workload.Failure{Pod: "p", Ours: true, Message: "init container dstack-isolation-inject: ended with exit code 1: no answer"},
		},
		"ours failed, and the kubelet forgot how": {
			init: ptr.To(status(init, waiting("CrashLoopBackOff", ""), none)),
			want: workload.Failure{Pod: "p", Ours: true, Message: "init container dstack-isolation-inject: it keeps failing"},
		},
		"ours was killed for memory": {
			init: ptr.To(status(init, ended(137, "OOMKilled", ""), none)),
			want: workload.Failure{Pod: "p", Ours: true, Message: "init container dstack-isolation-inject: ended with exit code 137 (OOMKilled)"},
		},
		"our image, first try": {
			init: ptr.To(status(init, waiting("ErrImagePull", "not found"), none)),
			want: workload.Failure{Pod: "p", Ours: true, Retrying: true, Message: "init container dstack-isolation-inject: ErrImagePull: not found"},
		},
		"our image, later": {
			init: ptr.To(status(init, waiting("ImagePullBackOff", "Back-off pulling image"), none)),
			want: workload.Failure{Pod: "p", Ours: true, Message: "init container dstack-isolation-inject: ImagePullBackOff: Back-off pulling image"},
		},
		"our Secret is missing": {
			init: ptr.To(status(init, waiting("CreateContainerConfigError", `secret "isolation-policy-main-token" not found`), none)),
			want: workload.Failure{Pod: "p", Ours: true, Message: `init container dstack-isolation-inject: CreateContainerConfigError: secret "isolation-policy-main-token" not found`},
		},
		"our Secret is there, and a busy kubelet has not read it yet": {
			init: ptr.To(status(init, waiting("CreateContainerConfigError", "failed to sync secret cache: timed out waiting for the condition"), none)),
			want: workload.Failure{
				Pod: "p", Ours: true, Retrying: true,
				Message: "init container dstack-isolation-inject: CreateContainerConfigError: failed to sync secret cache: timed out waiting for the condition",
			},
		},
		"another init container failed: its message is not repeated": {
			init: ptr.To(status("migrate", ended(2, "Error", secretText), none)),
			want: workload.Failure{Pod: "p", Message: "init container migrate: ended with exit code 2"},
		},
		"the server crashes: its message is not repeated": {
			server: ptr.To(status("server", waiting("CrashLoopBackOff", secretText), ended(1, "Error", secretText))),
			want:   workload.Failure{Pod: "p", Message: "container server: ended with exit code 1"},
		},
		"the server ended": {
			server: ptr.To(status("server", ended(3, "Error", secretText), none)),
			want:   workload.Failure{Pod: "p", Message: "container server: ended with exit code 3"},
		},
		"a hook failed: its message is not repeated": {
			server: ptr.To(status("server", waiting("PostStartHookError", secretText), none)),
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pod := injectedPod().Pod("p")
			if tc.init != nil {
				pod.Status.InitContainerStatuses = []corev1.ContainerStatus{*tc.init}
			}
			if tc.server != nil {
				pod.Status.ContainerStatuses = []corev1.ContainerStatus{*tc.server}
			}
			got := workload.FromDeployment(rolledOut()).ObserveRollout([]corev1.Pod{*pod}).Failure
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			if strings.Contains(got.Message, "hunter2") {
				t.Errorf("%q repeats what a container of the user's printed", got.Message)
			}
		})
	}
}

// A pod of which nothing fails may become ready at any time: it is told of, and who
// knows the time judges it.
func TestSlow(t *testing.T) {
	made := time.Unix(1000, 0)
	waiting := func(name, reason string) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{{Name: name, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: secretText}}}}
	}
	running := []corev1.ContainerStatus{{Name: "server", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}
	unready := func(since time.Time) []corev1.PodCondition {
		return []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionTrue},
			{Type: corev1.PodReady, Status: corev1.ConditionFalse, Message: "containers with unready status: [server]", LastTransitionTime: metav1.NewTime(since)},
		}
	}
	cases := map[string]struct {
		status corev1.PodStatus
		gone   bool
		want   workload.Slow
	}{
		"nothing is said yet":             {want: workload.Slow{Pod: "p", Since: made}},
		"its volumes are not there":       {status: corev1.PodStatus{ContainerStatuses: waiting("server", "ContainerCreating")}, want: workload.Slow{Pod: "p", Since: made, Why: "container server: ContainerCreating"}},
		"and it has init containers":      {status: corev1.PodStatus{InitContainerStatuses: waiting("migrate", "PodInitializing"), ContainerStatuses: waiting("server", "PodInitializing")}, want: workload.Slow{Pod: "p", Since: made, Why: "init container migrate: PodInitializing"}},
		"a hook's message is not told":    {status: corev1.PodStatus{ContainerStatuses: waiting("server", "PostStartHookError")}, want: workload.Slow{Pod: "p", Since: made, Why: "container server: PostStartHookError"}},
		"it runs and does not get ready":  {status: corev1.PodStatus{ContainerStatuses: running, Conditions: unready(made)}, want: workload.Slow{Pod: "p", Since: made, Why: "containers with unready status: [server]"}},
		"it was ready before":             {status: corev1.PodStatus{ContainerStatuses: running, Conditions: unready(made.Add(time.Hour))}, want: workload.Slow{Pod: "p", Since: made.Add(time.Hour), Why: "containers with unready status: [server]"}},
		"it is ready":                     {status: testkit.SetReady(&corev1.Pod{}, "10.0.0.1").Status},
		"it fails, which is another case": {status: corev1.PodStatus{ContainerStatuses: waiting("server", "CrashLoopBackOff")}},
		"it is leaving":                   {gone: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pod := injectedPod().Pod("p")
			pod.CreationTimestamp, pod.Status = metav1.NewTime(made), tc.status
			if tc.gone {
				pod.DeletionTimestamp = &metav1.Time{Time: made}
			}
			got := workload.FromDeployment(injectedPod().Deployment("d")).ObserveRollout([]corev1.Pod{*pod})
			if diff := cmp.Diff(tc.want, got.Slow); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestTimeOfADeployment(t *testing.T) {
	slow := *injectedPod().Pod("slow")
	exceeded := appsv1.DeploymentCondition{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionFalse, Reason: "ProgressDeadlineExceeded"}
	cases := map[string]struct {
		change func(*appsv1.Deployment)
		want   bool
	}{
		"is over":                {want: true},
		"is not over":            {change: func(d *appsv1.Deployment) { d.Status.Conditions[0].Reason = "ReplicaSetUpdated" }},
		"goes on":                {change: func(d *appsv1.Deployment) { d.Status.Conditions[0].Status = corev1.ConditionTrue }},
		"of an earlier template": {change: func(d *appsv1.Deployment) { d.Generation++ }},
		"was enough":             {change: func(d *appsv1.Deployment) { d.Status.ReadyReplicas = 1 }},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d := rolledOut()
			d.Status.ReadyReplicas, d.Status.Conditions = 0, []appsv1.DeploymentCondition{exceeded}
			if tc.change != nil {
				tc.change(d)
			}
			got := workload.FromDeployment(d).ObserveRollout([]corev1.Pod{slow})
			if got.TimedOut != tc.want || got.Slow.Late != tc.want {
				t.Errorf("got timed out %t, late %t, want %t", got.TimedOut, got.Slow.Late, tc.want)
			}
		})
	}
}

func TestCountsTime(t *testing.T) {
	deployment := func(conditions ...appsv1.DeploymentCondition) *workload.Workload {
		d := rolledOut()
		d.Status.Conditions = conditions
		return workload.FromDeployment(d)
	}
	progressing := func(reason string) appsv1.DeploymentCondition {
		return appsv1.DeploymentCondition{Type: appsv1.DeploymentProgressing, Status: corev1.ConditionTrue, Reason: reason}
	}
	cases := map[string]struct {
		workload *workload.Workload
		want     bool
	}{
		"Deployment, rolling out": {deployment(progressing("ReplicaSetUpdated")), true},
		"Deployment, rolled out":  {deployment(progressing("NewReplicaSetAvailable")), false},
		"Deployment, unlimited":   {deployment(), true},
		"StatefulSet":             {workload.FromStatefulSet(injectedPod().StatefulSet("s")), false},
	}
	for name, tc := range cases {
		if got := tc.workload.CountsTime; got != tc.want {
			t.Errorf("%s: got %t, want %t", name, got, tc.want)
		}
	}
}

// The controller of a StatefulSet waits for a broken pod also when the template has
// changed, unless it makes pods in parallel.
func TestPodThatHoldsAStatefulSetUp(t *testing.T) {
	broken := func(name, settings string) corev1.Pod {
		pod := testkit.SetInitFailed(asking().Annotation(workload.AnnotationSettings, settings).Pod(name), "migrate", 1, secretText)
		return *pod
	}
	leaving := broken("leaving", "01d00000")
	leaving.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	slow := *asking().Annotation(workload.AnnotationSettings, "01d00000").Pod("slow")
	pods := []corev1.Pod{leaving, broken("new", revision), slow, broken("old", "01d00000"), broken("older", "01d00001")}
	want := workload.Trouble{
		Failure: workload.Failure{Pod: "old", Message: "init container migrate: ended with exit code 1"},
		Slow:    workload.Slow{Pod: "slow"},
	}
	s := injectedPod().StatefulSet("dstack")
	got := workload.FromStatefulSet(s).ObserveRollout(pods)
	if diff := cmp.Diff(want, got.Earlier); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got.Failure.Pod != "new" || got.Slow.Pod != "" {
		t.Errorf("of the pods with the settings: got %+v", got.Trouble)
	}
	s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement
	for _, w := range []*workload.Workload{workload.FromStatefulSet(s), workload.FromDeployment(injectedPod().Deployment("dstack"))} {
		if got := w.ObserveRollout(pods).Earlier; got != (workload.Trouble{}) {
			t.Errorf("%s: got %+v, want none: it is replaced", w, got)
		}
	}
}

func TestFailureOfAPodThatNoNodeTakes(t *testing.T) {
	w := workload.FromDeployment(injectedPod().Deployment("dstack"))
	pod := injectedPod().Pod("p")
	scheduled := func(reason, message string) string {
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: message}}
		return w.ObserveRollout([]corev1.Pod{*pod}).Failure.Message
	}
	want := "scheduling: 0/3 nodes are available: 3 node(s) had volume node affinity conflict"
	if got := scheduled(corev1.PodReasonUnschedulable, "0/3 nodes are available: 3 node(s) had volume node affinity conflict"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := scheduled(corev1.PodReasonSchedulingGated, "waiting for a gate"); got != "scheduling: waiting for a gate" {
		t.Errorf("got %q", got)
	}
	pod.Status.Conditions[0].Status = corev1.ConditionTrue
	if f := w.ObserveRollout([]corev1.Pod{*pod}).Failure; f != (workload.Failure{}) {
		t.Errorf("scheduled: got %+v", f)
	}
}

func TestFailureIsOfPodsWithTheSettingsThatStay(t *testing.T) {
	failed := func(b *testkit.ServerPod, name string) corev1.Pod {
		return *testkit.SetInitFailed(b.Pod(name), workload.InjectContainer, 1, "no answer")
	}
	leaving := failed(injectedPod(), "leaving")
	leaving.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	pods := []corev1.Pod{failed(asking(), "old"), leaving, failed(injectedPod(), "first"), failed(injectedPod(), "second")}
	w := workload.FromDeployment(rolledOut())
	if got := w.ObserveRollout(pods).Failure.Pod; got != "first" {
		t.Errorf("got the failure of pod %q, want that of the first pod with the settings", got)
	}
	if got := w.ObserveRollout(pods[:2]).Failure; got.Pod != "" {
		t.Errorf("got %+v, want none: one pod is old and one is leaving", got)
	}
}

func TestWorkloadSaysWhatItIs(t *testing.T) {
	d := workload.FromDeployment(injectedPod().Deployment("a"))
	s := workload.FromStatefulSet(injectedPod().StatefulSet("b"))
	if d.String() != "Deployment dstack/a" || s.String() != "StatefulSet dstack/b" {
		t.Errorf("got %s and %s", d, s)
	}
	for _, w := range []*workload.Workload{d, s} {
		if w.SettingsRevision() != revision || w.Injected() == nil {
			t.Errorf("%s: got revision %q, init container %v, want both", w, w.SettingsRevision(), w.Injected())
		}
	}
	stock := workload.FromDeployment(testkit.MakeServerPod().Deployment("c"))
	if stock.SettingsRevision() != "" || stock.Injected() != nil || stock.Blocked() != "" {
		t.Errorf("a stock workload has revision %q, init container %v, blocked %q", stock.SettingsRevision(), stock.Injected(), stock.Blocked())
	}
}
