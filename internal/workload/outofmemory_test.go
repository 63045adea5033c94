package workload_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/dstack-isolation/operator/internal/workload"
)

func TestOutOfMemory(t *testing.T) {
	at := func(minute int) metav1.Time { return metav1.NewTime(time.Date(2026, 1, 2, 3, minute, 0, 0, time.UTC)) }
	ended := func(reason string, minute int) corev1.ContainerState {
		return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: reason, FinishedAt: at(minute)}}
	}
	running := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	pod := func(statuses ...corev1.ContainerStatus) corev1.Pod {
		return corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: statuses}}
	}
	for name, tc := range map[string]struct {
		pods   []corev1.Pod
		killed int
		last   metav1.Time
	}{
		"no pods":                           {},
		"one that never ended":              {pods: []corev1.Pod{pod(corev1.ContainerStatus{State: running})}},
		"one that ended for another reason": {pods: []corev1.Pod{pod(corev1.ContainerStatus{State: running, LastTerminationState: ended("Error", 1)})}},
		"one that was killed and runs again": {
			pods: []corev1.Pod{pod(corev1.ContainerStatus{State: running, LastTerminationState: ended("OOMKilled", 1)}), pod()}, killed: 1, last: at(1),
		},
		"one that was killed just now":  {pods: []corev1.Pod{pod(corev1.ContainerStatus{State: ended("OOMKilled", 4)})}, killed: 1, last: at(4)},
		"one that was killed two times": {pods: []corev1.Pod{pod(corev1.ContainerStatus{State: ended("OOMKilled", 4), LastTerminationState: ended("OOMKilled", 2)})}, killed: 1, last: at(4)},
		"several, the last one first": {pods: []corev1.Pod{
			pod(corev1.ContainerStatus{State: running, LastTerminationState: ended("OOMKilled", 7)}),
			pod(corev1.ContainerStatus{State: running}, corev1.ContainerStatus{State: running, LastTerminationState: ended("OOMKilled", 5)}),
		}, killed: 2, last: at(7)},
		"a time that is not known": {pods: []corev1.Pod{pod(corev1.ContainerStatus{State: corev1.ContainerState{
			Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled"},
		}})}, killed: 1},
	} {
		killed, last := workload.OutOfMemory(tc.pods)
		if killed != tc.killed || !last.Equal(&tc.last) {
			t.Errorf("%s: got %d at %s, want %d at %s", name, killed, last, tc.killed, tc.last)
		}
	}
}
