package workload

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
)

// AnnotationSSHToken is set by the operator on the pod template of a server that
// it told of an SSH proxy: the DstackServer's name, a slash, and a digest of the
// token that tells nothing of it.
const AnnotationSSHToken = v1alpha1.Group + "/ssh-token-id"

// SSHProxy is what a server's container is told of its SSH proxy.
type SSHProxy struct {
	// Token names the Secret key with the token.
	Token v1alpha1.SecretKeyReference
	// Address at which users reach the proxy.
	Address string
	// Enforced is true when the proxy is the only way in.
	Enforced bool
}

// LiveSSHProxy is what a container is told of its SSH proxy, if it is told all
// that it needs: dstack ignores a proxy without a token, and one without an
// address. A token that is written out, or may be missing, may be empty.
func LiveSSHProxy(c *corev1.Container) (SSHProxy, bool) {
	token, named := SSHTokenOf(c)
	named = named && !commandOf(c).changes(dstack.EnvSSHProxyAPIToken)
	address := Lookup(c, dstack.EnvServerSSHProxyAddress)
	if !named || !address.Known || address.Value == "" {
		return SSHProxy{}, false
	}
	return SSHProxy{Token: token, Address: address.Value, Enforced: Present(c, dstack.EnvServerSSHProxyEnforced)}, true
}

// AnyHasOtherSSHToken tells whether any of the pods was told of the SSH proxy of a
// DstackServer, with another token than the one whose id is but.
func AnyHasOtherSSHToken(pods []corev1.Pod, server, but string) bool {
	return slices.ContainsFunc(pods, func(pod corev1.Pod) bool {
		id := pod.Annotations[AnnotationSSHToken]
		return id != but && strings.HasPrefix(id, server+"/")
	})
}

// ReliesOn says how to tell the managed SSH proxy of a DstackServer from another.
type ReliesOn struct {
	// Server is the DstackServer's name, Secret that of the Secret which the operator
	// makes for the token, and by which its copies are known. Without a Server only the
	// Secret counts.
	Server, Secret string
	// But is a proxy that pods may be told of instead; nil for none.
	But *SSHProxy
}

// Template tells whether pods that are made of it rely on the proxy: they were told
// of one by the operator, other than the one in But, or take a variable from its
// Secret.
func (r ReliesOn) Template(t *corev1.PodTemplateSpec) bool { return r.relies(t.Annotations, &t.Spec) }

// Any tells whether any of the pods relies on the proxy, as Template does.
func (r ReliesOn) Any(pods []corev1.Pod) bool {
	return slices.ContainsFunc(pods, func(pod corev1.Pod) bool { return r.relies(pod.Annotations, &pod.Spec) })
}

func (r ReliesOn) relies(annotations map[string]string, pod *corev1.PodSpec) bool {
	told := strings.HasPrefix(annotations[AnnotationSSHToken], r.Server+"/")
	for i := range pod.Containers {
		c := &pod.Containers[i]
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && SecretOrCopy(e.ValueFrom.SecretKeyRef.Name, r.Secret) {
				return true
			}
		}
		if live, whole := LiveSSHProxy(c); whole && r.But != nil && live.Token == r.But.Token && live.Address == r.But.Address {
			told = false
		}
	}
	return told
}

// SSHTokenOf names the Secret key from which a container takes the token of an
// SSH proxy.
func SSHTokenOf(c *corev1.Container) (v1alpha1.SecretKeyReference, bool) {
	token := Item(c, dstack.EnvSSHProxyAPIToken)
	if token == nil || token.ValueFrom == nil || token.ValueFrom.SecretKeyRef == nil || ptr.Deref(token.ValueFrom.SecretKeyRef.Optional, false) {
		return v1alpha1.SecretKeyReference{}, false
	}
	ref := token.ValueFrom.SecretKeyRef
	return v1alpha1.SecretKeyReference{Name: ref.Name, Key: ref.Key}, true
}

// ToldOfSSHProxy tells whether a pod's server container is told all that it needs
// of an SSH proxy.
func ToldOfSSHProxy(pod *corev1.Pod, container string) bool {
	c := findContainer(pod.Spec.Containers, container)
	if c == nil {
		return false
	}
	_, told := LiveSSHProxy(c)
	return told
}

// EnforcesSSHProxy tells whether a pod's server container, by its spec, puts no
// user's key on hosts.
func EnforcesSSHProxy(pod *corev1.Pod, container string) bool {
	c := findContainer(pod.Spec.Containers, container)
	return c != nil && SSHEnforced(c)
}

// SSHEnforced tells whether a container puts no user's key on hosts.
func SSHEnforced(c *corev1.Container) bool {
	live, ok := LiveSSHProxy(c)
	return ok && live.Enforced
}
