package testkit

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// ServerContainer is the name of the container that runs dstack in what
// MakeServerPod builds.
const ServerContainer = "server"

// ServerLabels are the labels of the pods that MakeServerPod builds, and the
// selector of their workload.
func ServerLabels() map[string]string { return map[string]string{"app": WorkloadName} }

// ServerPod builds the pod template of a user's dstack server, and from it a
// Deployment, a StatefulSet or a pod. Each method changes it and returns it.
type ServerPod struct {
	namespace string
	claims    []string
	t         corev1.PodTemplateSpec
}

// MakeServerPod begins a pod template as a user may write it: one container
// "server", no volume.
func MakeServerPod() *ServerPod {
	return &ServerPod{namespace: Namespace, t: corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: ServerLabels()},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{
				Name: ServerContainer, Image: "dstack-server:0.22.5",
				Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 3000}},
			}},
		},
	}}
}

// Template is the built pod template.
func (b *ServerPod) Template() corev1.PodTemplateSpec { return *b.t.DeepCopy() }

// Namespace is where the Deployment, StatefulSet or pod will be.
func (b *ServerPod) Namespace(ns string) *ServerPod { b.namespace = ns; return b }

// With lets change alter the template.
func (b *ServerPod) With(change func(*corev1.PodTemplateSpec)) *ServerPod { change(&b.t); return b }

// WithServer lets change alter the server's container.
func (b *ServerPod) WithServer(change func(*corev1.Container)) *ServerPod {
	change(&b.t.Spec.Containers[0])
	return b
}

// Annotation sets an annotation of the template.
func (b *ServerPod) Annotation(key, value string) *ServerPod {
	metav1.SetMetaDataAnnotation(&b.t.ObjectMeta, key, value)
	return b
}

// Env adds a variable with a literal value to the server's container.
func (b *ServerPod) Env(name, value string) *ServerPod {
	return b.EnvVar(corev1.EnvVar{Name: name, Value: value})
}

// EnvVar adds a variable to the server's container.
func (b *ServerPod) EnvVar(v corev1.EnvVar) *ServerPod {
	return b.WithServer(func(c *corev1.Container) { c.Env = append(c.Env, v) })
}

// EnvFromSecret adds a variable to the server's container that refers to a
// Secret.
func (b *ServerPod) EnvFromSecret(name, secret, key string) *ServerPod {
	return b.EnvVar(corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{
		SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: secret}, Key: key},
	}})
}

// EnvFrom lets the server's container take all variables of a ConfigMap.
func (b *ServerPod) EnvFrom(configMap string) *ServerPod {
	return b.WithServer(func(c *corev1.Container) {
		c.EnvFrom = append(c.EnvFrom, corev1.EnvFromSource{
			ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: configMap}},
		})
	})
}

// Volume adds a volume.
func (b *ServerPod) Volume(name string, source corev1.VolumeSource) *ServerPod {
	b.t.Spec.Volumes = append(b.t.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: source})
	return b
}

// Mount mounts a volume in the server's container.
func (b *ServerPod) Mount(m corev1.VolumeMount) *ServerPod {
	return b.WithServer(func(c *corev1.Container) { c.VolumeMounts = append(c.VolumeMounts, m) })
}

// Data keeps the server directory on a PersistentVolumeClaim.
func (b *ServerPod) Data() *ServerPod {
	return b.Volume("data", corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "dstack-data"},
	}).Mount(corev1.VolumeMount{Name: "data", MountPath: "/root/.dstack/server"})
}

// ClaimTemplate adds a claim template for StatefulSet.
func (b *ServerPod) ClaimTemplate(name string) *ServerPod {
	b.claims = append(b.claims, name)
	return b
}

// Sidecar adds a container.
func (b *ServerPod) Sidecar(name string) *ServerPod {
	b.t.Spec.Containers = append(b.t.Spec.Containers, corev1.Container{Name: name, Image: "sidecar:1"})
	return b
}

// Deployment is a Deployment of one such pod, with strategy Recreate.
func (b *ServerPod) Deployment(name string) *appsv1.Deployment {
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: b.namespace},
		Spec: appsv1.DeploymentSpec{
			Replicas: ptr.To[int32](1),
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType},
			Selector: &metav1.LabelSelector{MatchLabels: ServerLabels()},
			Template: b.Template(),
		},
	}
}

// StatefulSet is a StatefulSet of one such pod.
func (b *ServerPod) StatefulSet(name string) *appsv1.StatefulSet {
	s := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: b.namespace},
		Spec: appsv1.StatefulSetSpec{
			Replicas: ptr.To[int32](1), ServiceName: name,
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType},
			Selector:       &metav1.LabelSelector{MatchLabels: ServerLabels()},
			Template:       b.Template(),
		},
	}
	for _, claim := range b.claims {
		s.Spec.VolumeClaimTemplates = append(s.Spec.VolumeClaimTemplates, corev1.PersistentVolumeClaim{
			ObjectMeta: metav1.ObjectMeta{Name: claim},
			Spec: corev1.PersistentVolumeClaimSpec{
				AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources:   corev1.VolumeResourceRequirements{Requests: oneGibibyte()},
			},
		})
	}
	return s
}

// Pod is one such pod, pending.
func (b *ServerPod) Pod(name string) *corev1.Pod { return PodOf(b.namespace, name, b.t) }

// PodOf is the pod that a controller would make of a template, pending.
func PodOf(namespace, name string, template corev1.PodTemplateSpec) *corev1.Pod {
	t := template.DeepCopy()
	pod := &corev1.Pod{ObjectMeta: t.ObjectMeta, Spec: t.Spec, Status: corev1.PodStatus{Phase: corev1.PodPending}}
	pod.Namespace, pod.Name = namespace, name
	return pod
}

// HashLabel is the label that a Deployment's controller gives to its ReplicaSets and
// their pods.
const HashLabel = appsv1.DefaultDeploymentUniqueLabelKey

// ReplicaSetOf is the ReplicaSet that a Deployment's controller makes of its present
// template.
func ReplicaSetOf(d *appsv1.Deployment) *appsv1.ReplicaSet {
	body, err := json.Marshal(d.Spec.Template)
	if err != nil {
		panic("pod templates always marshal: " + err.Error())
	}
	sum := sha256.Sum256(body)
	hash := hex.EncodeToString(sum[:])[:10]
	template := d.Spec.Template.DeepCopy()
	template.Labels = withHash(template.Labels, hash)
	selector := d.Spec.Selector.DeepCopy()
	selector.MatchLabels = withHash(selector.MatchLabels, hash)
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace, Name: d.Name + "-" + hash, UID: UIDOf(d.Name + "-" + hash), Labels: template.Labels,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, appsv1.SchemeGroupVersion.WithKind("Deployment"))},
		},
		Spec: appsv1.ReplicaSetSpec{Replicas: d.Spec.Replicas, Selector: selector, Template: *template},
	}
}

func withHash(labels map[string]string, hash string) map[string]string {
	out := maps.Clone(labels)
	out[HashLabel] = hash
	return out
}

// MadeBy lets a pod be as the controller of a ReplicaSet or StatefulSet makes it.
func MadeBy(pod *corev1.Pod, controller metav1.Object) *corev1.Pod {
	pod.Labels = maps.Clone(pod.Labels)
	kind := "ReplicaSet"
	if set, ok := controller.(*appsv1.ReplicaSet); ok {
		pod.Labels[HashLabel] = set.Labels[HashLabel]
	} else {
		kind = "StatefulSet"
		pod.Labels[appsv1.StatefulSetPodNameLabel] = pod.Name
	}
	pod.GenerateName = controller.GetName() + "-"
	pod.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(controller, appsv1.SchemeGroupVersion.WithKind(kind))}
	return pod
}

// SetReady makes a pod run, be ready and have an address, as the kubelet would.
func SetReady(pod *corev1.Pod, ip string) *corev1.Pod {
	pod.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
		Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
	}
	for _, c := range pod.Spec.Containers {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: pod.CreationTimestamp}},
		})
	}
	return pod
}

// SetRolledOut makes a Deployment's status say that all its replicas are of the
// current template and ready, as its controller would.
func SetRolledOut(d *appsv1.Deployment) *appsv1.Deployment {
	n := ptr.Deref(d.Spec.Replicas, 1)
	d.Status = appsv1.DeploymentStatus{
		ObservedGeneration: d.Generation, Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n,
	}
	return d
}

// SetStatefulRolledOut is SetRolledOut for a StatefulSet.
func SetStatefulRolledOut(s *appsv1.StatefulSet) *appsv1.StatefulSet {
	n := ptr.Deref(s.Spec.Replicas, 1)
	s.Status = appsv1.StatefulSetStatus{
		ObservedGeneration: s.Generation, Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n,
	}
	return s
}

// SetInitFailed makes an init container of a pod have ended with an exit code
// and a message, as the kubelet would say it.
func SetInitFailed(pod *corev1.Pod, container string, code int32, message string) *corev1.Pod {
	pod.Status.InitContainerStatuses = append(pod.Status.InitContainerStatuses, corev1.ContainerStatus{
		Name: container,
		State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
			ExitCode: code, Reason: "Error", Message: message,
		}},
	})
	return pod
}

// UIDOf is a stable uid for a name, for objects that no API server made.
func UIDOf(name string) types.UID { return types.UID("uid-of-" + name) }

func oneGibibyte() corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
}
