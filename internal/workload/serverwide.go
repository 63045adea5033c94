package workload

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
)

// PermissionFlag begins the arguments by which the init container is told what
// default_permissions must say, each as KEY=true or KEY=false.
const PermissionFlag = "--default-permission="

// permissions are what the init container puts into default_permissions, as
// KEY=true or KEY=false. The container may be nil.
func permissions(inject *corev1.Container) []string {
	if inject == nil {
		return nil
	}
	var all []string
	for _, arg := range inject.Args {
		if permission, found := strings.CutPrefix(arg, PermissionFlag); found {
			all = append(all, permission)
		}
	}
	return all
}

// Permits tells whether the init container puts a key into default_permissions,
// with whatever value. The container may be nil.
func Permits(inject *corev1.Container, key string) bool {
	return slices.ContainsFunc(permissions(inject), func(p string) bool { return strings.HasPrefix(p, key+"=") })
}

// Forbidding are the variables by which dstack itself denies a control in all
// projects. Their presence counts, whatever the value.
func Forbidding() map[v1alpha1.ControlName]string {
	return map[v1alpha1.ControlName]string{
		v1alpha1.ControlServerAccess:           dstack.EnvForbidDstackInRuns,
		v1alpha1.ControlServicesWithoutGateway: dstack.EnvForbidServicesWithoutGateway,
	}
}

// forbidden are the controls that a server with this container denies in all
// projects, in order.
func forbidden(c *corev1.Container) []v1alpha1.ControlName {
	var all []v1alpha1.ControlName
	for control, variable := range Forbidding() {
		if Present(c, variable) {
			all = append(all, control)
		}
	}
	slices.Sort(all)
	return all
}

// Present tells whether a variable is certainly there, with whatever value.
func Present(c *corev1.Container, name string) bool {
	item := Item(c, name)
	return item != nil && !commandOf(c).unsets(name) && (item.ValueFrom == nil || certain(item.ValueFrom))
}

// certain tells whether a pod does not start without what a reference names.
func certain(from *corev1.EnvVarSource) bool {
	switch {
	case from.SecretKeyRef != nil:
		return !ptr.Deref(from.SecretKeyRef.Optional, false)
	case from.ConfigMapKeyRef != nil:
		return !ptr.Deref(from.ConfigMapKeyRef.Optional, false)
	default:
		return from.FieldRef != nil || from.ResourceFieldRef != nil
	}
}

// common are the entries that both lists have.
func common[T comparable](a, b []T) []T {
	return slices.DeleteFunc(slices.Clone(a), func(x T) bool { return !slices.Contains(b, x) })
}
