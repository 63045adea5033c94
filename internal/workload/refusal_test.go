package workload_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/internal/workload"
)

func TestRefusal(t *testing.T) {
	since := time.Unix(1000, 0)
	condition := func(change func(*appsv1.DeploymentCondition)) *appsv1.Deployment {
		d := rolledOut()
		c := appsv1.DeploymentCondition{
			Type: appsv1.DeploymentReplicaFailure, Status: corev1.ConditionTrue, Reason: "FailedCreate",
			Message: `pods "dstack-server-5d6f-x7b2c" is forbidden: exceeded quota: all`, LastTransitionTime: metav1.NewTime(since),
		}
		if change != nil {
			change(&c)
		}
		d.Status.ReadyReplicas, d.Status.Conditions = 0, []appsv1.DeploymentCondition{{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionTrue}, c}
		return d
	}
	quota := workload.Refusal{Message: "exceeded quota: all", Since: since}
	cases := map[string]struct {
		deployment *appsv1.Deployment
		want       workload.Refusal
	}{
		"refused":          {condition(nil), quota},
		"refused for long": {condition(func(c *appsv1.DeploymentCondition) { c.LastUpdateTime = metav1.Now() }), quota},
		"a webhook's words": {
			condition(func(c *appsv1.DeploymentCondition) { c.Message = `admission webhook "a.b" denied the request: no` }),
			workload.Refusal{Message: `admission webhook "a.b" denied the request: no`, Since: since},
		},
		"an invalid pod": {
			condition(func(c *appsv1.DeploymentCondition) { c.Message = `Pod "x-1" is invalid: spec: no` }),
			workload.Refusal{Message: "invalid: spec: no", Since: since},
		},
		"over":              {condition(func(c *appsv1.DeploymentCondition) { c.Status = corev1.ConditionFalse }), workload.Refusal{}},
		"cannot be deleted": {condition(func(c *appsv1.DeploymentCondition) { c.Reason = "FailedDelete" }), workload.Refusal{}},
		"nothing":           {rolledOut(), workload.Refusal{}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := workload.FromDeployment(tc.deployment).ObserveRollout(nil).Refusal
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
	behind := condition(nil)
	behind.Generation++
	if got := workload.FromDeployment(behind).ObserveRollout(nil).Refusal.Message; got != "" {
		t.Errorf("of an earlier template: got %q", got)
	}
}

func TestWritesAfter(t *testing.T) {
	late := func(name string, readOnly bool) corev1.Container {
		return corev1.Container{Name: name, VolumeMounts: []corev1.VolumeMount{{Name: "other"}, {Name: "data", ReadOnly: readOnly}}}
	}
	pod := asking().With(func(t *corev1.PodTemplateSpec) {
		ours := t.Spec.InitContainers[0]
		t.Spec.InitContainers = []corev1.Container{late("before", false), ours, late("reads", true), {Name: "nothing"}, late("writes", false)}
	})
	w := workload.FromDeployment(pod.Deployment("d"))
	if diff := cmp.Diff([]string{"writes"}, w.WritesAfter("data")); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if got := workload.FromDeployment(asking("init container").With(addInit).Deployment("d")).WritesAfter("data"); got != nil {
		t.Errorf("without the operator's own: got %v", got)
	}
}
