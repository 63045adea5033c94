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

func TestAnyHasOtherSSHToken(t *testing.T) {
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
		if got := workload.AnyHasOtherSSHToken(tc.pods, "main", tc.but); got != tc.want {
			t.Errorf("%s: got %t, want %t", name, got, tc.want)
		}
	}
}

func TestReliesOn(t *testing.T) {
	const own = "isolation-ssh-main-token"
	tell := func(id, secret, address string) corev1.PodTemplateSpec {
		var told corev1.PodTemplateSpec
		if id != "" {
			metav1.SetMetaDataAnnotation(&told.ObjectMeta, workload.AnnotationSSHToken, id)
		}
		c := corev1.Container{Name: "server"}
		if secret != "" {
			c.Env = []corev1.EnvVar{
				{Name: dstack.EnvSSHProxyAPIToken, ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
					LocalObjectReference: corev1.LocalObjectReference{Name: secret}, Key: "token",
				}}},
				{Name: dstack.EnvServerSSHProxyAddress, Value: address},
			}
		}
		told.Spec.Containers = []corev1.Container{{Name: "sidecar"}, c}
		return told
	}
	managed := workload.ReliesOn{Server: "main", Secret: own}
	switching := managed
	switching.But = &workload.SSHProxy{Token: v1alpha1.SecretKeyReference{Name: "theirs", Key: "token"}, Address: "theirs:22"}
	for name, tc := range map[string]struct {
		on   workload.ReliesOn
		told corev1.PodTemplateSpec
		want bool
	}{
		"told of nothing":                            {managed, tell("", "", ""), false},
		"told by the operator":                       {managed, tell("main/0f1e2d3c", "users", "ours:22"), true},
		"told by another DstackServer":               {managed, tell("main-2/0f1e2d3c", "users", "ours:22"), false},
		"with the operator's Secret, unannotated":    {managed, tell("", own, "ours:22"), true},
		"with a user's Secret, unannotated":          {managed, tell("", "users", "ours:22"), false},
		"told of the other proxy":                    {switching, tell("main/0f1e2d3c", "theirs", "theirs:22"), false},
		"told of the other's address with our token": {switching, tell("main/0f1e2d3c", own, "theirs:22"), true},
		"told of our address with the other's token": {switching, tell("main/0f1e2d3c", "theirs", "ours:22"), true},
		"annotated, and the variables are gone":      {switching, tell("main/0f1e2d3c", "", ""), true},
		"only the Secret counts without a server":    {workload.ReliesOn{Secret: own}, tell("main/0f1e2d3c", "users", "ours:22"), false},
	} {
		pod := corev1.Pod{ObjectMeta: tc.told.ObjectMeta, Spec: tc.told.Spec}
		if template, pods := tc.on.Template(&tc.told), tc.on.Any([]corev1.Pod{{}, pod}); template != tc.want || pods != tc.want {
			t.Errorf("%s: got %t of the template and %t of pods, want %t", name, template, pods, tc.want)
		}
	}
}
