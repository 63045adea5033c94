package workload

import (
	"regexp"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// copyID ends the name of a copy of a Secret.
var copyID = regexp.MustCompile(`^-[0-9a-f]{8}$`)

// SecretCopy names the copy of a Secret that has just one of its values. Pods refer
// to copies: a kubelet may serve an earlier value of a Secret under the same name, for
// as long as a pod on its node refers to it, and under another name it cannot.
func SecretCopy(of, id string) string { return of + "-" + id }

// SecretOrCopy tells whether a name is that of a Secret or of a copy of it.
func SecretOrCopy(name, of string) bool { return name == of || IsSecretCopy(name, of) }

// IsSecretCopy tells whether a name is that of a copy of a Secret.
func IsSecretCopy(name, of string) bool {
	return len(name) > len(of) && name[:len(of)] == of && copyID.MatchString(name[len(of):])
}

// Secrets names every Secret that a pod reads, each once, sorted.
func Secrets(pod *corev1.PodSpec) []string {
	var names []string
	for _, c := range slices.Concat(pod.InitContainers, pod.Containers) {
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				names = append(names, e.ValueFrom.SecretKeyRef.Name)
			}
		}
		for _, e := range c.EnvFrom {
			if e.SecretRef != nil {
				names = append(names, e.SecretRef.Name)
			}
		}
	}
	for _, v := range pod.Volumes {
		if v.Secret != nil {
			names = append(names, v.Secret.SecretName)
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.Secret != nil {
				names = append(names, s.Secret.Name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
