package manifests

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	appsv1ac "k8s.io/client-go/applyconfigurations/apps/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	networkingv1ac "k8s.io/client-go/applyconfigurations/networking/v1"
	policyv1ac "k8s.io/client-go/applyconfigurations/policy/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/workload"
)

const (
	// SSHTokenKey is the key of the SSH proxy's token in the Secret that the
	// operator makes.
	SSHTokenKey = "token"
	// SSHHostKeysKey is the key of its private host keys.
	SSHHostKeysKey = "host-keys"

	hostKeysDir = "/var/run/dstack-isolation/host-keys"

	// stopSeconds is what is left of the time for ending a pod after its sessions
	// had theirs: the proxy ends at once when it is told to.
	stopSeconds = 5
)

// The connections that users forward take memory in the proxy, about a megabyte each at
// most, and the proxy does not limit how many they are: the request is for a hundred,
// and the limit for a thousand.
var (
	sshRequests = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("128Mi"),
	}
	sshMemory = resource.MustParse("1Gi")
)

// SSHProxyName names the SSH proxy's Deployment, Service, PodDisruptionBudget
// and NetworkPolicy.
func SSHProxyName(server string) string { return "isolation-ssh-" + server }

// SSHTokenSecretName names the Secret with the token that the operator makes for
// the SSH proxy.
func SSHTokenSecretName(server string) string { return SSHProxyName(server) + "-token" }

// SSHHostKeysSecretName names the Secret with the host key that the operator
// makes for the SSH proxy.
func SSHHostKeysSecretName(server string) string { return SSHProxyName(server) + "-host-keys" }

// ServerServiceName names the Service by which the SSH proxy asks the dstack
// server: users' own Services may lead elsewhere.
func ServerServiceName(server string) string { return "isolation-server-" + server }

// SSHSelectorLabels select the SSH proxy's pods.
func SSHSelectorLabels(server string) map[string]string {
	return map[string]string{LabelName: AppName, LabelComponent: ComponentSSHProxy, LabelServer: server}
}

// SSHLabels are the labels of every object of a server's SSH proxy.
func SSHLabels(s *v1alpha1.DstackServer) map[string]string {
	labels := Labels(s)
	labels[LabelComponent] = ComponentSSHProxy
	return labels
}

// SSHProxyOptions are the facts, beyond the DstackServer, that the SSH proxy's
// objects depend on.
type SSHProxyOptions struct {
	// Token and HostKeys name Secret keys.
	Token, HostKeys v1alpha1.SecretKeyReference
	// TokenID changes with the token, HostKeysID with the host keys.
	TokenID, HostKeysID string
	// TokenUID is the uid of the user's Secret with the token, if that is immutable;
	// else empty.
	TokenUID types.UID
}

// TokenReplaced tells whether the token is another one in another object under the name
// of an immutable Secret, which the pods of the live Deployment read. A kubelet serves
// the former value under that name for as long as a pod on its node refers to it.
func (o SSHProxyOptions) TokenReplaced(live *appsv1.Deployment) bool {
	uid := live.Annotations[AnnotationImmutableToken]
	if uid == "" || uid == string(o.TokenUID) || live.Spec.Template.Annotations[AnnotationTokenID] == o.TokenID {
		return false
	}
	return slices.Contains(workload.Secrets(&live.Spec.Template.Spec), o.Token.Name)
}

// SSHTokenRef names the Secret key with the SSH proxy's token: the user's, else
// the operator's own.
func SSHTokenRef(s *v1alpha1.DstackServer) v1alpha1.SecretKeyReference {
	own := v1alpha1.SecretKeyReference{Name: SSHTokenSecretName(s.Name), Key: SSHTokenKey}
	if e := s.Spec.SSHProxy.External; e != nil {
		return e.TokenSecretRef
	}
	return refOr(s.Spec.SSHProxy.Managed.TokenSecretRef, own)
}

// IsSSHToken tells whether a Secret key has the SSH proxy's token, be it now or from
// before it was changed in the operator's own Secret.
func IsSSHToken(s *v1alpha1.DstackServer, ref v1alpha1.SecretKeyReference) bool {
	now := SSHTokenRef(s)
	own := now.Name == SSHTokenSecretName(s.Name)
	return ref == now || own && ref.Key == now.Key && workload.IsSecretCopy(ref.Name, now.Name)
}

// SSHHostKeysRef names the Secret key with a managed SSH proxy's host keys.
func SSHHostKeysRef(s *v1alpha1.DstackServer) v1alpha1.SecretKeyReference {
	own := v1alpha1.SecretKeyReference{Name: SSHHostKeysSecretName(s.Name), Key: SSHHostKeysKey}
	return refOr(s.Spec.SSHProxy.Managed.HostKeysSecretRef, own)
}

func refOr(ref *v1alpha1.SecretKeyReference, own v1alpha1.SecretKeyReference) v1alpha1.SecretKeyReference {
	if ref != nil {
		return *ref
	}
	return own
}

// SSHProxy builds a managed SSH proxy and what belongs to it. The proxy sends its token
// to the dstack server's pods that have the operator's label, and to no other: users may
// give their jobs all labels of the server. An external server is queried by its URL.
func SSHProxy(s *v1alpha1.DstackServer, o SSHProxyOptions) []Object {
	name := SSHProxyName(s.Name)
	objects := []Object{
		{"Service", name, sshService(s)},
		{"NetworkPolicy", name, sshNetworkPolicy(s)},
		{"PodDisruptionBudget", name, sshDisruptionBudget(s)},
		{"Deployment", name, sshDeployment(s, o)},
	}
	if Elsewhere(s) {
		return objects
	}
	return append([]Object{{"Service", ServerServiceName(s.Name), serverService(s)}}, objects...)
}

// serverURL is where the SSH proxy asks the dstack server.
func serverURL(s *v1alpha1.DstackServer) string {
	if Elsewhere(s) {
		return s.Spec.API.URL
	}
	return fmt.Sprintf("http://%s.%s.svc:%d", ServerServiceName(s.Name), s.Namespace, cmp.Or(s.Spec.API.Port, dstack.DefaultPort))
}

func serverService(s *v1alpha1.DstackServer) *corev1ac.ServiceApplyConfiguration {
	port := cmp.Or(s.Spec.API.Port, dstack.DefaultPort)
	return corev1ac.Service(ServerServiceName(s.Name), s.Namespace).
		WithLabels(SSHLabels(s)).
		WithSpec(corev1ac.ServiceSpec().
			WithType(corev1.ServiceTypeClusterIP).
			WithSelector(ServerPodLabels(s.Name)).
			WithPorts(corev1ac.ServicePort().
				WithName("http").WithProtocol(corev1.ProtocolTCP).
				WithPort(port).WithTargetPort(intstr.FromInt32(port))))
}

func sshService(s *v1alpha1.DstackServer) *corev1ac.ServiceApplyConfiguration {
	want := s.Spec.SSHProxy.Managed.Service
	port := corev1ac.ServicePort().
		WithName("ssh").WithProtocol(corev1.ProtocolTCP).
		WithPort(want.Port).WithTargetPort(intstr.FromString("ssh"))
	if want.NodePort != 0 && want.Type != v1alpha1.SSHProxyClusterIP {
		port.WithNodePort(want.NodePort)
	}
	spec := corev1ac.ServiceSpec().
		WithType(corev1.ServiceType(want.Type)).
		WithSelector(SSHSelectorLabels(s.Name)).
		WithPorts(port)
	if want.LoadBalancerClass != "" && want.Type == v1alpha1.SSHProxyLoadBalancer {
		spec.WithLoadBalancerClass(want.LoadBalancerClass)
	}
	service := corev1ac.Service(SSHProxyName(s.Name), s.Namespace).WithLabels(SSHLabels(s)).WithSpec(spec)
	if len(want.Annotations) > 0 {
		service.WithAnnotations(want.Annotations)
	}
	return service
}

func sshDisruptionBudget(s *v1alpha1.DstackServer) *policyv1ac.PodDisruptionBudgetApplyConfiguration {
	return policyv1ac.PodDisruptionBudget(SSHProxyName(s.Name), s.Namespace).
		WithLabels(SSHLabels(s)).
		WithSpec(policyv1ac.PodDisruptionBudgetSpec().
			WithMaxUnavailable(intstr.FromInt32(1)).
			WithSelector(metav1ac.LabelSelector().WithMatchLabels(SSHSelectorLabels(s.Name))))
}

// sshNetworkPolicy opens the one port to everybody: users come from anywhere,
// and the proxy has no other.
func sshNetworkPolicy(s *v1alpha1.DstackServer) *networkingv1ac.NetworkPolicyApplyConfiguration {
	return networkingv1ac.NetworkPolicy(SSHProxyName(s.Name), s.Namespace).
		WithLabels(SSHLabels(s)).
		WithSpec(networkingv1ac.NetworkPolicySpec().
			WithPodSelector(metav1ac.LabelSelector().WithMatchLabels(SSHSelectorLabels(s.Name))).
			WithPolicyTypes("Ingress").
			WithIngress(networkingv1ac.NetworkPolicyIngressRule().
				WithPorts(networkingv1ac.NetworkPolicyPort().
					WithProtocol(corev1.ProtocolTCP).WithPort(intstr.FromString("ssh")))))
}

func sshDeployment(s *v1alpha1.DstackServer, o SSHProxyOptions) *appsv1ac.DeploymentApplyConfiguration {
	m := s.Spec.SSHProxy.Managed
	labels := metav1ac.LabelSelector().WithMatchLabels(SSHSelectorLabels(s.Name))
	nodes := map[string]string{corev1.LabelArchStable: "amd64"}
	maps.Copy(nodes, m.NodeSelector)
	pod := corev1ac.PodSpec().
		WithAutomountServiceAccountToken(false).
		WithEnableServiceLinks(false).
		WithNodeSelector(nodes).
		WithTerminationGracePeriodSeconds(int64(m.TerminationGracePeriodSeconds)).
		WithSecurityContext(nonRootPod()).
		WithAffinity(corev1ac.Affinity().WithPodAntiAffinity(corev1ac.PodAntiAffinity().
			WithPreferredDuringSchedulingIgnoredDuringExecution(corev1ac.WeightedPodAffinityTerm().
				WithWeight(100).
				WithPodAffinityTerm(corev1ac.PodAffinityTerm().
					WithTopologyKey(corev1.LabelHostname).WithLabelSelector(labels))))).
		WithVolumes(corev1ac.Volume().WithName("host-keys").
			WithSecret(corev1ac.SecretVolumeSource().WithSecretName(o.HostKeys.Name).WithDefaultMode(0o440).
				WithItems(corev1ac.KeyToPath().WithKey(o.HostKeys.Key).WithPath(SSHHostKeysKey)))).
		WithContainers(sshContainer(s, o))
	for _, ref := range m.ImagePullSecrets {
		pod.WithImagePullSecrets(corev1ac.LocalObjectReference().WithName(ref.Name))
	}
	d := appsv1ac.Deployment(SSHProxyName(s.Name), s.Namespace)
	if o.TokenUID != "" {
		d.WithAnnotations(map[string]string{AnnotationImmutableToken: string(o.TokenUID)})
	}
	return d.
		WithLabels(SSHLabels(s)).
		WithSpec(appsv1ac.DeploymentSpec().
			WithReplicas(m.Replicas).
			WithSelector(labels).
			WithStrategy(oneByOne()).
			WithTemplate(corev1ac.PodTemplateSpec().
				WithLabels(SSHSelectorLabels(s.Name)).
				WithAnnotations(map[string]string{AnnotationTokenID: o.TokenID, AnnotationHostKeysID: o.HostKeysID}).
				WithSpec(pod)))
}

// sshContainer runs the proxy. It has no shell and cuts its sessions when it is
// told to stop, so Kubernetes itself waits before that, while no new session
// comes any more.
func sshContainer(s *v1alpha1.DstackServer, o SSHProxyOptions) *corev1ac.ContainerApplyConfiguration {
	m := s.Spec.SSHProxy.Managed
	tcp := func() *corev1ac.ProbeApplyConfiguration {
		return corev1ac.Probe().WithTimeoutSeconds(2).
			WithTCPSocket(corev1ac.TCPSocketAction().WithPort(intstr.FromString("ssh")))
	}
	return corev1ac.Container().
		WithName("ssh-proxy").
		WithImage(m.Image).
		WithArgs("--host-key="+path.Join(hostKeysDir, SSHHostKeysKey), fmt.Sprintf("--port=%d", dstack.SSHProxyPort)).
		WithEnv(
			secretEnvVar(dstack.EnvSSHProxyAPIToken, o.Token.Name, o.Token.Key),
			envVar(dstack.EnvSSHProxyAPIURL, serverURL(s))).
		WithPorts(corev1ac.ContainerPort().WithName("ssh").WithContainerPort(dstack.SSHProxyPort).WithProtocol(corev1.ProtocolTCP)).
		WithReadinessProbe(tcp().WithPeriodSeconds(2).WithFailureThreshold(2)).
		WithLivenessProbe(tcp().WithPeriodSeconds(10).WithFailureThreshold(6).WithInitialDelaySeconds(5)).
		WithLifecycle(corev1ac.Lifecycle().WithPreStop(corev1ac.LifecycleHandler().
			WithSleep(corev1ac.SleepAction().WithSeconds(int64(m.TerminationGracePeriodSeconds - stopSeconds))))).
		WithResources(resourcesOr(m.Resources, sshRequests, sshMemory)).
		WithSecurityContext(hardened().WithReadOnlyRootFilesystem(true)).
		WithVolumeMounts(corev1ac.VolumeMount().WithName("host-keys").WithMountPath(hostKeysDir).WithReadOnly(true))
}
