package workload_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/workload"
)

// sshToken is the token's item by reference.
func sshToken(optional *bool) corev1.EnvVar {
	return corev1.EnvVar{Name: dstack.EnvSSHProxyAPIToken, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
		LocalObjectReference: corev1.LocalObjectReference{Name: "ssh"}, Key: "token", Optional: optional,
	}}}
}

func sshAddress(value string) corev1.EnvVar {
	return corev1.EnvVar{Name: dstack.EnvServerSSHProxyAddress, Value: value}
}

func TestLiveSSHProxy(t *testing.T) {
	enforced := corev1.EnvVar{Name: dstack.EnvServerSSHProxyEnforced, Value: "1"}
	cases := map[string]struct {
		env  []corev1.EnvVar
		from []corev1.EnvFromSource
		// told and enforced are what is found.
		told, enforced bool
	}{
		"all":                       {env: []corev1.EnvVar{sshToken(nil), sshAddress("ssh.example.com"), enforced}, told: true, enforced: true},
		"said to be needed":         {env: []corev1.EnvVar{sshToken(ptr.To(false)), sshAddress("ssh.example.com"), enforced}, told: true, enforced: true},
		"any value enforces":        {env: []corev1.EnvVar{sshToken(nil), sshAddress("h"), {Name: dstack.EnvServerSSHProxyEnforced}}, told: true, enforced: true},
		"not enforced":              {env: []corev1.EnvVar{sshToken(nil), sshAddress("ssh.example.com")}, told: true},
		"a token that may be empty": {env: []corev1.EnvVar{sshToken(ptr.To(true)), sshAddress("ssh.example.com"), enforced}},
		"a token that is written out": {
			env: []corev1.EnvVar{{Name: dstack.EnvSSHProxyAPIToken, Value: "tok"}, sshAddress("ssh.example.com"), enforced},
		},
		"an empty address":      {env: []corev1.EnvVar{sshToken(nil), sshAddress(""), enforced}},
		"an unknown address":    {env: []corev1.EnvVar{sshToken(nil), sshAddress("$(HOST)"), enforced}},
		"no address":            {env: []corev1.EnvVar{sshToken(nil), enforced}},
		"no token":              {env: []corev1.EnvVar{sshAddress("ssh.example.com"), enforced}},
		"only from elsewhere":   {from: []corev1.EnvFromSource{{}}},
		"enforced from nowhere": {env: []corev1.EnvVar{sshToken(nil), sshAddress("h")}, from: []corev1.EnvFromSource{{}}, told: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := &corev1.Container{Name: "server", Env: tc.env, EnvFrom: tc.from}
			got, told := workload.LiveSSHProxy(c)
			if told != tc.told || workload.SSHEnforced(c) != tc.enforced {
				t.Errorf("told %t, enforced %t, want %t, %t", told, workload.SSHEnforced(c), tc.told, tc.enforced)
			}
			want := v1alpha1.SecretKeyReference{Name: "ssh", Key: "token"}
			if tc.told {
				if diff := cmp.Diff(want, got.Token); diff != "" {
					t.Error(diff)
				}
			}
			pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{*c}}}
			if got := workload.ToldOfSSHProxy(pod, "server"); got != tc.told {
				t.Errorf("the pod is told: %t, want %t", got, tc.told)
			}
			if workload.ToldOfSSHProxy(pod, "another") {
				t.Error("a container that is not there was told")
			}
		})
	}
}

// One pod without it is one past which users get in.
func TestRunningCountsPodsThatEnforceSSH(t *testing.T) {
	with := corev1.Container{Name: "server", Env: []corev1.EnvVar{sshToken(nil), sshAddress("h"), {Name: dstack.EnvServerSSHProxyEnforced, Value: "1"}}}
	pods := []corev1.Pod{
		{Spec: corev1.PodSpec{Containers: []corev1.Container{with}}},
		{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "server"}}}},
		{Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "another", Env: with.Env}}}},
	}
	if got := workload.Running(pods, "server", workload.Endpoint{}); got.Pods != 3 || got.SSHEnforcedPods != 1 {
		t.Errorf("got %+v, want one of three", got)
	}
}

func TestAnyReliesOnSSHProxy(t *testing.T) {
	told := func(id string) []corev1.Pod {
		pod := corev1.Pod{}
		if id != "" {
			metav1.SetMetaDataAnnotation(&pod.ObjectMeta, workload.AnnotationSSHToken, id)
		}
		return []corev1.Pod{{}, pod}
	}
	for name, tc := range map[string]struct {
		pods []corev1.Pod
		but  string
		want bool
	}{
		"nobody was told":          {told(""), "", false},
		"told":                     {told("main/0f1e2d3c"), "", true},
		"told of another token":    {told("main/0f1e2d3c"), "main/5e771465", true},
		"told of this token":       {told("main/0f1e2d3c"), "main/0f1e2d3c", false},
		"told of another server's": {told("main-2/0f1e2d3c"), "", false},
		"no pods":                  {nil, "", false},
	} {
		if got := workload.AnyReliesOnSSHProxy(tc.pods, "main", tc.but); got != tc.want {
			t.Errorf("%s: got %t, want %t", name, got, tc.want)
		}
	}
}
