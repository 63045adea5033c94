package manifests_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
)

func sshDeployment(t *testing.T, m v1alpha1.ManagedSSHProxy) appsv1.Deployment {
	t.Helper()
	for _, o := range (world{server: withSSHProxy(m)}).sshProxy() {
		if o.Kind == "Deployment" {
			return decode[appsv1.Deployment](t, o.Config)
		}
	}
	t.Fatal("no Deployment")
	return appsv1.Deployment{}
}

// The Pod Security Standard "restricted", and no way to the API server.
func TestSSHProxyPodIsRestricted(t *testing.T) {
	pod := sshDeployment(t, v1alpha1.ManagedSSHProxy{}).Spec.Template.Spec
	sc := pod.SecurityContext
	if sc == nil || !ptr.Deref(sc.RunAsNonRoot, false) || ptr.Deref(sc.RunAsUser, 0) == 0 || sc.SeccompProfile == nil || sc.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the pod's security context is %v", sc)
	}
	if pod.HostNetwork || pod.HostPID || pod.HostIPC || ptr.Deref(pod.AutomountServiceAccountToken, true) || ptr.Deref(pod.EnableServiceLinks, true) {
		t.Error("the pod shares a namespace of the host, or takes a token or variables of Services")
	}
	for _, c := range pod.Containers {
		mustBeHardened(t, c)
	}
}

// The proxy cuts its sessions when it is told to stop, so it is told late, and
// in time to end by itself.
func TestSSHProxyIsStoppedLate(t *testing.T) {
	for _, seconds := range []int32{10, 600, 86400} {
		pod := sshDeployment(t, v1alpha1.ManagedSSHProxy{TerminationGracePeriodSeconds: seconds}).Spec.Template.Spec
		sleep := pod.Containers[0].Lifecycle.PreStop.Sleep.Seconds
		if grace := *pod.TerminationGracePeriodSeconds; grace != int64(seconds) || sleep <= 0 || grace-sleep != 5 {
			t.Errorf("grace %d, sleep %d, want %d and five less", grace, sleep, seconds)
		}
	}
}

func TestSSHProxyKeepsUsersNodeSelector(t *testing.T) {
	got := sshDeployment(t, v1alpha1.ManagedSSHProxy{NodeSelector: map[string]string{"pool": "edge"}}).Spec.Template.Spec.NodeSelector
	if diff := cmp.Diff(map[string]string{"kubernetes.io/arch": "amd64", "pool": "edge"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestSSHProxysObjects(t *testing.T) {
	for _, server := range []string{"main", strings.Repeat("x", 40)} {
		w := world{server: testkit.MakeServer(server).SSHProxy(v1alpha1.SSHProxy{Managed: &v1alpha1.ManagedSSHProxy{}})}
		for _, o := range w.sshProxy() {
			meta := decode[partial](t, o.Config).ObjectMeta
			if meta.Name != o.Name || len(o.Name) > 63 || strings.HasPrefix(o.Name, "dstack") {
				t.Errorf("%s %s is called %s", o.Kind, o.Name, meta.Name)
			}
			if meta.Labels[manifests.LabelServer] != server || meta.Labels[manifests.LabelManagedBy] != "dstack-isolation" || meta.Labels[manifests.LabelComponent] != "ssh-proxy" {
				t.Errorf("%s %s has labels %v", o.Kind, o.Name, meta.Labels)
			}
			if o.Kind != "NetworkPolicy" {
				continue
			}
			np := decode[networkingv1.NetworkPolicy](t, o.Config)
			if diff := cmp.Diff([]networkingv1.PolicyType{networkingv1.PolicyTypeIngress}, np.Spec.PolicyTypes); diff != "" || len(np.Spec.Ingress) != 1 || len(np.Spec.Ingress[0].Ports) != 1 {
				t.Errorf("the NetworkPolicy is %+v, want ingress to one port only", np.Spec)
			}
		}
	}
}

// A change of any of it must restart the server, and nothing else may.
func TestSettingsRevisionOfSSH(t *testing.T) {
	revision := func(change func(*manifests.SSHSettings)) string {
		ssh := told(true)
		change(ssh)
		return manifests.Settings(world{ssh: ssh}.input(t)).Revision
	}
	same := revision(func(*manifests.SSHSettings) {})
	if none := manifests.Settings(world{}.input(t)).Revision; none == same {
		t.Error("without an SSH proxy the revision is the same")
	}
	for name, change := range map[string]func(*manifests.SSHSettings){
		"the token":           func(s *manifests.SSHSettings) { s.TokenID = "main/5e771465" },
		"the token's Secret":  func(s *manifests.SSHSettings) { s.Token.Name = "another" },
		"the token's key":     func(s *manifests.SSHSettings) { s.Token.Key = "another" },
		"the address":         func(s *manifests.SSHSettings) { s.Address = "another:22" },
		"that it is enforced": func(s *manifests.SSHSettings) { s.Enforced = false },
	} {
		if revision(change) == same {
			t.Errorf("%s changes, and the revision does not", name)
		}
	}
}

// Users may give their jobs the labels of the server, and no label whose key has a
// slash.
func TestSSHProxySendsItsTokenByALabelThatNoTagCanBe(t *testing.T) {
	s := testkit.MakeServer("main").SSHProxy(v1alpha1.SSHProxy{Managed: &v1alpha1.ManagedSSHProxy{Address: "ssh.example.com"}}).Obj()
	for _, o := range manifests.SSHProxy(s, manifests.SSHProxyOptions{}) {
		if o.Name != manifests.ServerServiceName("main") {
			continue
		}
		if diff := cmp.Diff(map[string]string{"isolation.dstack.ai/server-pod": "main"}, decode[corev1.Service](t, o.Config).Spec.Selector); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
		return
	}
	t.Fatal("no Service")
}

func TestAnImmutableTokenThatWasReplaced(t *testing.T) {
	options := func(secret, id, uid string) manifests.SSHProxyOptions {
		return manifests.SSHProxyOptions{Token: v1alpha1.SecretKeyReference{Name: secret, Key: "token"}, TokenID: "main/" + id, TokenUID: types.UID(uid)}
	}
	live := func(o manifests.SSHProxyOptions) *appsv1.Deployment {
		for _, object := range manifests.SSHProxy(withSSHProxy(v1alpha1.ManagedSSHProxy{}).Obj(), o) {
			if object.Kind == "Deployment" {
				d := decode[appsv1.Deployment](t, object.Config)
				return &d
			}
		}
		t.Fatal("no Deployment")
		return nil
	}
	immutable := options("ssh", "01d00000", "former")
	for name, tc := range map[string]struct {
		live *appsv1.Deployment
		now  manifests.SSHProxyOptions
		want bool
	}{
		"no proxy yet":                            {live: &appsv1.Deployment{}, now: immutable},
		"the same":                                {live: live(immutable), now: immutable},
		"the same, with digests by another seal":  {live: live(immutable), now: options("ssh", "5e771465", "former")},
		"another with the same token":             {live: live(immutable), now: options("ssh", "01d00000", "new")},
		"another token under another name":        {live: live(immutable), now: options("ssh-2", "5e771465", "new")},
		"another token in a Secret that is not":   {live: live(immutable), now: options("ssh", "5e771465", ""), want: true},
		"another token in another immutable one":  {live: live(immutable), now: options("ssh", "5e771465", "new"), want: true},
		"another token where the former could be": {live: live(options("ssh", "01d00000", "")), now: options("ssh", "5e771465", "new")},
	} {
		if got := tc.now.TokenReplaced(tc.live); got != tc.want {
			t.Errorf("%s: got %t", name, got)
		}
	}
	if got := live(options("ssh", "01d00000", "")).Annotations; len(got) > 0 {
		t.Errorf("a Deployment with a Secret that may change has %v", got)
	}
}
