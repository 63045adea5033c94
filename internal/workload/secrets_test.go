package workload_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/dstack-isolation/operator/internal/workload"
)

func TestSecretCopies(t *testing.T) {
	const of = "isolation-ssh-main-token"
	for name, want := range map[string]struct{ either, copied bool }{
		of:                                  {true, false},
		workload.SecretCopy(of, "0f1e2d3c"): {true, true},
		of + "-0f1e2d3":                     {},
		of + "-0f1e2d3c4":                   {},
		of + "-0F1E2D3C":                    {},
		of + "-0f1e2d3c-token":              {},
		of + "0f1e2d3c":                     {},
		"isolation-ssh-other-token":         {},
		"":                                  {},
	} {
		if got := workload.SecretOrCopy(name, of); got != want.either {
			t.Errorf("SecretOrCopy(%q): got %v", name, got)
		}
		if got := workload.IsSecretCopy(name, of); got != want.copied {
			t.Errorf("IsSecretCopy(%q): got %v", name, got)
		}
	}
}

func TestSecretsOfAPod(t *testing.T) {
	env := func(secret string) []corev1.EnvVar {
		return []corev1.EnvVar{{Name: "A", Value: "a"}, {Name: "B", ValueFrom: &corev1.EnvVarSource{
			SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: secret}, Key: "token"},
		}}, {Name: "C", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}
	}
	named := corev1.LocalObjectReference{Name: "from"}
	got := workload.Secrets(&corev1.PodSpec{
		InitContainers: []corev1.Container{{Env: env("init")}},
		Containers: []corev1.Container{
			{Env: env("env"), EnvFrom: []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: named}}, {ConfigMapRef: &corev1.ConfigMapEnvSource{}}}},
			{Env: env("init")},
		},
		Volumes: []corev1.Volume{
			{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "volume"}}},
			{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{Secret: &corev1.SecretProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "projected"}}},
				{ConfigMap: &corev1.ConfigMapProjection{}},
			}}}},
		},
	})
	if diff := cmp.Diff([]string{"env", "from", "init", "projected", "volume"}, got); diff != "" {
		t.Errorf("Secrets (-want +got):\n%s", diff)
	}
}
