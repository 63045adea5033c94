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

var lost = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// minute is a time after the lines were lost.
func minute(n int) time.Time { return lost.Add(time.Duration(n) * time.Minute) }

func gapOf(lostAt time.Time, backAt ...time.Time) *v1alpha1.ConfigFileGap {
	gap := &v1alpha1.ConfigFileGap{LostAt: metav1.NewTime(lostAt)}
	for _, at := range backAt {
		gap.BackAt = &metav1.Time{Time: at}
	}
	return gap
}

// checking is a pod whose config.yml is only checked, as its container was started.
func checking(restarts int32, started time.Time) corev1.Pod {
	p := testkit.SetReady(asking("config").With(func(t *corev1.PodTemplateSpec) {
		t.Spec.InitContainers[0].Args = []string{"inject", "--check=/isolation/source/config.yml"}
	}).Pod("p"), "10.0.0.1")
	p.CreationTimestamp = metav1.NewTime(minute(-60))
	s := &p.Status.ContainerStatuses[0]
	s.RestartCount, s.State.Running.StartedAt = restarts, metav1.NewTime(started)
	return *p
}

func copying(restarts int32, started time.Time) corev1.Pod {
	p := checking(restarts, started)
	p.Spec.InitContainers[0].Args = []string{"inject", "--source=/isolation/source/config.yml"}
	return p
}

func waiting() corev1.Pod {
	p := checking(1, lost)
	p.Status.ContainerStatuses[0].State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff"}}
	return p
}

func TestFollowConfig(t *testing.T) {
	named := func(at int) *workload.ConfigRead {
		return &workload.ConfigRead{At: minute(at), Named: true, LastNamed: minute(at - 1)}
	}
	lacks := func(at int) *workload.ConfigRead {
		return &workload.ConfigRead{At: minute(at), LastNamed: minute(at - 1)}
	}
	once := checking(0, minute(-60))
	cases := map[string]struct {
		gap  *v1alpha1.ConfigFileGap
		read *workload.ConfigRead
		pod  corev1.Pod
		now  int
		want *v1alpha1.ConfigFileGap
		pods string
	}{
		"always named":                          {nil, named(1), checking(3, minute(0)), 1, nil, ""},
		"just lost":                             {nil, lacks(1), once, 1, gapOf(lost), ""},
		"lost, and nobody knows since when":     {nil, &workload.ConfigRead{At: minute(1)}, once, 1, gapOf(minute(-60)), ""},
		"lost, known by nobody, and restarted":  {nil, &workload.ConfigRead{At: minute(1)}, checking(1, minute(-30)), 1, gapOf(minute(-60)), "p"},
		"still lost":                            {gapOf(lost), lacks(5), once, 5, gapOf(lost), ""},
		"restarted while lost":                  {gapOf(lost), lacks(5), checking(1, minute(1)), 5, gapOf(lost), "p"},
		"restarted at once":                     {gapOf(lost), lacks(5), checking(1, lost), 5, gapOf(lost), "p"},
		"restarted before":                      {gapOf(lost), lacks(5), checking(1, minute(-1)), 5, gapOf(lost), ""},
		"about to restart while lost":           {gapOf(lost), lacks(5), waiting(), 5, gapOf(lost), "p"},
		"back":                                  {gapOf(lost), named(12), once, 12, gapOf(lost, minute(12)), ""},
		"back, and restarted long ago":          {gapOf(lost), named(12), checking(1, minute(1)), 12, gapOf(lost, minute(12)), "p"},
		"back for hours, and restarted in it":   {gapOf(lost, minute(12)), named(600), checking(1, minute(1)), 600, gapOf(lost, minute(12)), "p"},
		"restarted before the node had it":      {gapOf(lost, minute(12)), named(14), checking(1, minute(14)), 14, gapOf(lost, minute(12)), "p"},
		"restarted once the node had it":        {gapOf(lost, minute(12)), named(15), checking(2, minute(15)), 15, gapOf(lost, minute(12)), ""},
		"about to restart before the node has":  {gapOf(lost, minute(12)), named(13), waiting(), 13, gapOf(lost, minute(12)), "p"},
		"about to restart once the node has it": {gapOf(lost, minute(12)), named(15), waiting(), 15, gapOf(lost, minute(12)), ""},
		"a restart may be told late":            {gapOf(lost, minute(12)), named(24), once, 24, gapOf(lost, minute(12)), ""},
		"forgotten":                             {gapOf(lost, minute(12)), named(25), once, 25, nil, ""},
		"lost again":                            {gapOf(lost, minute(12)), lacks(20), once, 20, gapOf(lost), ""},
		"back again":                            {gapOf(lost), named(22), once, 22, gapOf(lost, minute(22)), ""},
		"not read":                              {gapOf(lost), nil, once, 22, gapOf(lost), ""},
		"not read, never lost":                  {nil, nil, checking(1, minute(1)), 22, nil, ""},
		"not read, restarted":                   {gapOf(lost), nil, checking(1, minute(1)), 22, gapOf(lost), "p"},
		"a pod with its own copy":               {gapOf(lost), lacks(5), copying(1, minute(1)), 5, nil, ""},
		"no pod with the settings":              {nil, lacks(5), *testkit.MakeServerPod().Pod("p"), 5, nil, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			before := tc.gap.DeepCopy()
			got, pod := workload.FollowConfig(tc.gap, tc.read, []corev1.Pod{tc.pod}, testkit.ServerContainer, minute(tc.now))
			if diff := cmp.Diff(tc.want, got); diff != "" || pod != tc.pods {
				t.Errorf("restarted %q, want %q; -want +got:\n%s", pod, tc.pods, diff)
			}
			if diff := cmp.Diff(before, tc.gap); diff != "" {
				t.Errorf("it changed what it was given:\n%s", diff)
			}
		})
	}
	if _, pod := workload.FollowConfig(gapOf(lost), lacks(5), []corev1.Pod{checking(1, minute(1))}, "sidecar", minute(5)); pod != "" {
		t.Errorf("another container counts: %q", pod)
	}
}

func TestStartedBefore(t *testing.T) {
	starting := waiting()
	unreported := checking(0, lost)
	unreported.Status.ContainerStatuses = nil
	for name, tc := range map[string]struct {
		pod  corev1.Pod
		want bool
	}{
		"before":                                {checking(0, minute(-1)), true},
		"in the same second":                    {checking(0, lost), true},
		"after":                                 {checking(0, minute(1)), false},
		"restarted in its pod soon after":       {checking(1, minute(1)), true},
		"restarted in its pod long after":       {checking(1, minute(3)), false},
		"not started":                           {starting, false},
		"ready, and nothing of it was reported": {unreported, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := workload.StartedBefore([]corev1.Pod{tc.pod}, testkit.ServerContainer, lost); got != tc.want {
				t.Errorf("got %t", got)
			}
		})
	}
}
