package manifests_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
)

const (
	currentToken = "isolation-policy-main-token-0f1e2d3c"
	formerToken  = "isolation-policy-main-token-5e771465"
)

func presents(secret string) *corev1.PodSpec {
	return &corev1.PodSpec{Containers: []corev1.Container{{Name: "server", Env: []corev1.EnvVar{
		{Name: "DSTACK_ISOLATION_TOKEN", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
			LocalObjectReference: corev1.LocalObjectReference{Name: secret}, Key: "token",
		}}},
	}}}}
}

func TestValueIDNeedsTheSeal(t *testing.T) {
	id := manifests.ValueID([]byte("seal"), "ssh-token", []byte("token"))
	if len(id) != 8 || id != manifests.ValueID([]byte("seal"), "ssh-token", []byte("token")) {
		t.Errorf("got %q, want eight digits that stay", id)
	}
	for name, other := range map[string]string{
		"another seal":  manifests.ValueID([]byte("other"), "ssh-token", []byte("token")),
		"another use":   manifests.ValueID([]byte("seal"), "policy-token", []byte("token")),
		"another value": manifests.ValueID([]byte("seal"), "ssh-token", []byte("other")),
	} {
		if other == id {
			t.Errorf("%s gives the same digest", name)
		}
	}
}

// A name under which somebody else has put another value is not used again.
func TestCopyIDPassesOverTamperedNames(t *testing.T) {
	const of = "isolation-policy-main-token"
	id := func(value string, tampered ...string) string {
		return manifests.CopyID([]byte("seal"), of, "policy-token", []byte(value), tampered)
	}
	name := func(id string) string { return of + "-" + id }
	first := id("token")
	if want := manifests.ValueID([]byte("seal"), "policy-token", []byte("token")); first != want {
		t.Errorf("got %q, want the digest of the value, %q", first, want)
	}
	if got := id("token", name("00000000"), "isolation-ssh-main-token-"+first); got != first {
		t.Errorf("other names were tampered with: got %q, want %q", got, first)
	}
	second := id("token", name(first))
	third := id("token", name(first), name(second))
	if second == first || third == first || third == second || len(third) != len(first) {
		t.Errorf("got %q, %q and %q, want three digests", first, second, third)
	}
	if got := id("other", name(first)); got == second || got != id("other") {
		t.Errorf("another value has %q", got)
	}
}

func TestNoteTampered(t *testing.T) {
	var tampered []string
	for n := range 40 {
		tampered = manifests.NoteTampered(tampered, fmt.Sprint(n))
		if tampered[len(tampered)-1] != fmt.Sprint(n) || len(tampered) != min(n+1, 32) {
			t.Fatalf("after %d: %v", n, tampered)
		}
	}
	if tampered[0] != "8" {
		t.Errorf("the oldest is %s, want the oldest forgotten", tampered[0])
	}
}

func TestEarlierTokens(t *testing.T) {
	for name, tc := range map[string]struct {
		pods []*corev1.PodSpec
		want []string
	}{
		"no pods":                     {},
		"all have the current one":    {pods: []*corev1.PodSpec{presents(currentToken)}},
		"one has the former one":      {pods: []*corev1.PodSpec{presents(currentToken), presents(formerToken), presents(formerToken)}, want: []string{formerToken}},
		"of another server":           {pods: []*corev1.PodSpec{presents("isolation-policy-other-token-5e771465")}},
		"of an earlier build":         {pods: []*corev1.PodSpec{presents("isolation-policy-main-token")}},
		"several, in one order":       {pods: []*corev1.PodSpec{presents(formerToken), presents("isolation-policy-main-token-00000000")}, want: []string{"isolation-policy-main-token-00000000", formerToken}},
		"a pod that has no such item": {pods: []*corev1.PodSpec{{}}},
	} {
		if diff := cmp.Diff(tc.want, manifests.EarlierTokens("main", currentToken, tc.pods...)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestCopies(t *testing.T) {
	got := manifests.Copies("main", presents(currentToken), presents("isolation-ssh-main-token-0f1e2d3c"), presents(currentToken),
		presents("isolation-ssh-main-host-keys-0f1e2d3c"), presents("isolation-ssh-main-token"), presents("users-0f1e2d3c"), presents("isolation-ssh-other-token-0f1e2d3c"))
	want := []string{currentToken, "isolation-ssh-main-host-keys-0f1e2d3c", "isolation-ssh-main-token-0f1e2d3c"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Copies (-want +got):\n%s", diff)
	}
}

func TestLiveToken(t *testing.T) {
	for secret, want := range map[string]string{formerToken: formerToken, "isolation-policy-main-token": "", "users": ""} {
		if got := manifests.LiveToken("main", &presents(secret).Containers[0]); got != want {
			t.Errorf("from Secret %s: got %q, want %q", secret, got, want)
		}
	}
	if got := manifests.LiveToken("main", &corev1.Container{Env: []corev1.EnvVar{{Name: "DSTACK_ISOLATION_TOKEN", Value: "written out"}}}); got != "" {
		t.Errorf("got %q of a token that is written out", got)
	}
}

func TestIsSSHToken(t *testing.T) {
	own := testkit.MakeServer("main").SSHProxy(v1alpha1.SSHProxy{Managed: &v1alpha1.ManagedSSHProxy{}}).Obj()
	theirs := testkit.MakeServer("main").SSHProxy(v1alpha1.SSHProxy{Managed: &v1alpha1.ManagedSSHProxy{
		TokenSecretRef: &v1alpha1.SecretKeyReference{Name: "ssh", Key: "api"},
	}}).Obj()
	for name, tc := range map[string]struct {
		server      *v1alpha1.DstackServer
		secret, key string
		want        bool
	}{
		"the operator's":                 {own, "isolation-ssh-main-token", "token", true},
		"a copy of it":                   {own, "isolation-ssh-main-token-0f1e2d3c", "token", true},
		"another key of a copy":          {own, "isolation-ssh-main-token-0f1e2d3c", "other", false},
		"a copy of another server's":     {own, "isolation-ssh-other-token-0f1e2d3c", "token", false},
		"the user's":                     {theirs, "ssh", "api", true},
		"another key of the user's":      {theirs, "ssh", "token", false},
		"like a copy of the user's":      {theirs, "ssh-0f1e2d3c", "api", false},
		"the operator's, not used there": {theirs, "isolation-ssh-main-token-0f1e2d3c", "token", false},
	} {
		if got := manifests.IsSSHToken(tc.server, v1alpha1.SecretKeyReference{Name: tc.secret, Key: tc.key}); got != tc.want {
			t.Errorf("%s: got %t", name, got)
		}
	}
}

// What policy servers and server pods read is one Secret; earlier tokens are read by
// policy servers alone, and one that is gone keeps none from starting.
func TestTokensArePutWhereTheyAreRead(t *testing.T) {
	w := world{ssh: told(true)}
	in := w.input(t)
	in.Options.TokenSecret, in.Options.EarlierTokens = currentToken, []string{formerToken}
	settings := manifests.Settings(in)
	if diff := cmp.Diff([]string{currentToken, "ssh"}, settings.Secrets()); diff != "" {
		t.Errorf("the settings' Secrets (-want +got):\n%s", diff)
	}

	objects := manifests.PolicyServer(w.obj(), in.Workload.Selector, in.Options)
	pod := decode[appsv1.Deployment](t, objects[len(objects)-1].Config).Spec.Template.Spec
	if got := pod.Volumes[0].Secret; got == nil || got.SecretName != currentToken {
		t.Errorf("the policy servers' token comes from %v", got)
	}
	earlier := pod.Volumes[1]
	if earlier.Projected == nil || len(earlier.Projected.Sources) != 1 || earlier.Projected.Sources[0].Secret.Name != formerToken || !ptr.Deref(earlier.Projected.Sources[0].Secret.Optional, false) {
		t.Errorf("the earlier token comes from %v", earlier)
	}
	c := pod.Containers[0]
	mounted := ""
	for _, m := range c.VolumeMounts {
		if m.Name == earlier.Name {
			mounted = m.MountPath
		}
	}
	if mounted == "" || c.Args[len(c.Args)-1] != "--earlier-tokens="+mounted {
		t.Errorf("the policy server is told %v, and the earlier token is at %q", c.Args, mounted)
	}
}
