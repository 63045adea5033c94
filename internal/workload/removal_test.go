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

func TestLost(t *testing.T) {
	c := &corev1.Container{
		Env: []corev1.EnvVar{
			{Name: "SET", Value: "1"}, {Name: "EMPTY"}, {Name: "TAKEN", ValueFrom: &corev1.EnvVarSource{}},
		},
		VolumeMounts: []corev1.VolumeMount{{Name: "mounted", MountPath: "/a/"}, {Name: "no-volume", MountPath: "/b"}},
	}
	d := &appsv1.Deployment{}
	d.Spec.Template.Annotations = map[string]string{"there": "x"}
	d.Spec.Template.Labels = map[string]string{"there": "x"}
	d.Spec.Template.Spec.InitContainers = []corev1.Container{{Name: "init"}}
	d.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "mounted"}, {Name: "unmounted"}}
	items := []string{
		"SET", "EMPTY", "TAKEN", "MISSING", "volume mounted", "volume unmounted", "volume no-volume", "volume none",
		"volumeMount /a", "volumeMount /c", "initContainer init", "initContainer other", "annotation there", "annotation gone", "label there", "label gone", "later kind",
	}
	want := []string{
		"EMPTY", "MISSING", "volume unmounted", "volume no-volume", "volume none", "volumeMount /c", "initContainer other", "annotation gone", "label gone",
	}
	if diff := cmp.Diff(want, workload.FromDeployment(d).Lost(c, items)); diff != "" {
		t.Errorf("Lost (-want +got):\n%s", diff)
	}
}

func TestLastWriter(t *testing.T) {
	at := func(second int) *metav1.Time {
		return &metav1.Time{Time: time.Date(2026, 1, 1, 0, 0, second, 0, time.UTC)}
	}
	entry := func(manager string, second int) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{Manager: manager, Time: at(second)}
	}
	status := metav1.ManagedFieldsEntry{Manager: "kube-controller-manager", Subresource: "status", Time: at(50)}
	pod := func(second int, settings string) corev1.Pod {
		p := corev1.Pod{}
		p.CreationTimestamp = *at(second)
		p.Annotations = map[string]string{workload.AnnotationSettings: settings}
		return p
	}
	cases := map[string]struct {
		fields []metav1.ManagedFieldsEntry
		pods   []corev1.Pod
		want   string
	}{
		"nobody":                          {nil, nil, ""},
		"before us":                       {[]metav1.ManagedFieldsEntry{entry("helm", 1), entry("ours", 2)}, nil, ""},
		"in the same second":              {[]metav1.ManagedFieldsEntry{entry("helm", 2), entry("ours", 2)}, nil, ""},
		"after us":                        {[]metav1.ManagedFieldsEntry{entry("ours", 2), entry("helm", 3), status}, nil, "helm"},
		"the last of two":                 {[]metav1.ManagedFieldsEntry{entry("kubectl", 4), entry("helm", 3)}, nil, "kubectl"},
		"without a time":                  {[]metav1.ManagedFieldsEntry{{Manager: "helm"}}, nil, ""},
		"it left them in":                 {[]metav1.ManagedFieldsEntry{entry("ours", 2), entry("helm", 3)}, []corev1.Pod{pod(3, "r")}, ""},
		"a pod with them is older":        {[]metav1.ManagedFieldsEntry{entry("ours", 2), entry("helm", 3)}, []corev1.Pod{pod(2, "r")}, "helm"},
		"a pod without them says nothing": {[]metav1.ManagedFieldsEntry{entry("ours", 2), entry("helm", 3)}, []corev1.Pod{pod(5, "")}, "helm"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d := &appsv1.Deployment{}
			d.ManagedFields = tc.fields
			manager, when := workload.FromDeployment(d).LastWriter("ours", tc.pods)
			if manager != tc.want || when.IsZero() != (tc.want == "") {
				t.Errorf("LastWriter = %q, %v; want %q", manager, when, tc.want)
			}
		})
	}
}
