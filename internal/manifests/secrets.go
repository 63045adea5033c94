package manifests

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/workload"
)

const (
	// SealKey is the key of the operator's own secret in the Secret of SealSecretName.
	SealKey = "key"
	// AnnotationCopies on that Secret lists the copies of Secrets that were made, for
	// the operator cannot list Secrets.
	AnnotationCopies = v1alpha1.Group + "/copies"
	// AnnotationTampered on it lists the copies that somebody else has changed, oldest
	// first.
	AnnotationTampered = v1alpha1.Group + "/tampered-copies"
)

// SealSecretName names the Secret with which the operator seals what it keeps and
// makes digests of other secrets. No pod reads it, and it does not change with them.
func SealSecretName(server string) string { return "isolation-seal-" + server }

// ValueID is a digest of a secret value. Nobody can guess the value by it who does not
// have the operator's own secret.
func ValueID(seal []byte, what string, value []byte) string {
	h := hmac.New(sha256.New, seal)
	fmt.Fprintf(h, "%s\x00", what)
	h.Write(value)
	return hex.EncodeToString(h.Sum(nil))[:8]
}

// CopyID is the digest of a value that ends the name of its copy. A kubelet may serve
// what somebody else has put under a name, so a name of tampered is passed over.
func CopyID(seal []byte, of, what string, value []byte, tampered []string) string {
	id := ValueID(seal, what, value)
	for n := 1; slices.Contains(tampered, workload.SecretCopy(of, id)); n++ {
		id = ValueID(seal, fmt.Sprintf("%s %d", what, n), value)
	}
	return id
}

// mostTampered is how many tampered copies are noted. No pod reads those before them.
const mostTampered = 32

// NoteTampered adds a copy to those that somebody else has changed.
func NoteTampered(tampered []string, name string) []string {
	return append(slices.Clone(tampered[max(0, len(tampered)-mostTampered+1):]), name)
}

// EarlierTokens names the copies of the policy server's token, other than the current
// one, that pods of these specs present.
func EarlierTokens(server, current string, pods ...*corev1.PodSpec) []string {
	return secretsOf(pods, func(name string) bool { return name != current && workload.IsSecretCopy(name, TokenSecretName(server)) })
}

// Copies names the copies of the operator's own Secrets that pods of these specs read.
func Copies(server string, pods ...*corev1.PodSpec) []string {
	own := []string{TokenSecretName(server), SSHTokenSecretName(server), SSHHostKeysSecretName(server)}
	return secretsOf(pods, func(name string) bool {
		return slices.ContainsFunc(own, func(of string) bool { return workload.IsSecretCopy(name, of) })
	})
}

// secretsOf names the wanted Secrets of those that pods read.
func secretsOf(pods []*corev1.PodSpec, wanted func(name string) bool) []string {
	var names []string
	for _, pod := range pods {
		for _, name := range workload.Secrets(pod) {
			if wanted(name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// LiveToken names the copy of the policy server's token that a container presents; ""
// if it presents none.
func LiveToken(server string, c *corev1.Container) string {
	e := workload.Item(c, dstack.EnvToken)
	if e == nil || e.ValueFrom == nil || e.ValueFrom.SecretKeyRef == nil {
		return ""
	}
	if name := e.ValueFrom.SecretKeyRef.Name; workload.IsSecretCopy(name, TokenSecretName(server)) {
		return name
	}
	return ""
}

// Secrets names the Secrets that pods with these settings read.
func (i Intent) Secrets() []string {
	env := i.Env()
	if i.Plugin != nil && i.Plugin.Init != nil {
		for n := range i.Plugin.Init.Env {
			env = append(env, &i.Plugin.Init.Env[n])
		}
	}
	var names []string
	for _, e := range env {
		if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil && e.ValueFrom.SecretKeyRef.Name != nil {
			names = append(names, *e.ValueFrom.SecretKeyRef.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// tokenSecret names the Secret from which pods take the policy server's token.
func (o Options) tokenSecret(s *v1alpha1.DstackServer) string {
	if o.TokenSecret != "" {
		return o.TokenSecret
	}
	return TokenSecretName(s.Name)
}
