package manifests

import (
	"fmt"
	"path"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	appsv1ac "k8s.io/client-go/applyconfigurations/apps/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	metav1ac "k8s.io/client-go/applyconfigurations/meta/v1"
	networkingv1ac "k8s.io/client-go/applyconfigurations/networking/v1"
	policyv1ac "k8s.io/client-go/applyconfigurations/policy/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// nonRootID is the user and group of the operator's image.
const nonRootID = 65532

// Options are the facts, beyond the DstackServer, that the objects depend on.
type Options struct {
	// Image is the operator's own image.
	Image string
	// ImagePullPolicy of the policy server and of the init container; empty leaves
	// it to Kubernetes.
	ImagePullPolicy corev1.PullPolicy
	// ServiceAccount of the policy server. It is shipped by the chart.
	ServiceAccount string
	// TokenID changes with the policy server's token.
	TokenID string
	// TokenSecret names the Secret from which pods take that token. Empty means the one
	// of TokenSecretName, for what no pod reads.
	TokenSecret string
	// EarlierTokens name Secrets with tokens that the policy server accepts too.
	EarlierTokens []string
}

// Object is one object of the operator's own, applied with force.
type Object struct {
	// Kind and Name say what it is, in messages.
	Kind, Name string
	// Config is the whole desired object.
	Config runtime.ApplyConfiguration
}

// PolicyServer builds the policy server and what belongs to it. Pods with the label of
// the server may ask it, and those that unlabelled selects, if it is not nil.
func PolicyServer(s *v1alpha1.DstackServer, unlabelled *metav1.LabelSelector, o Options) []Object {
	name := PolicyServerName(s.Name)
	return []Object{
		{"Service", name, policyService(s)},
		{"NetworkPolicy", name, policyNetworkPolicy(s, unlabelled)},
		{"PodDisruptionBudget", name, policyDisruptionBudget(s)},
		{"Deployment", name, policyDeployment(s, o)},
	}
}

func policyService(s *v1alpha1.DstackServer) *corev1ac.ServiceApplyConfiguration {
	return corev1ac.Service(PolicyServerName(s.Name), s.Namespace).
		WithLabels(Labels(s)).
		WithSpec(corev1ac.ServiceSpec().
			WithType(corev1.ServiceTypeClusterIP).
			WithSelector(SelectorLabels(s.Name)).
			WithPorts(corev1ac.ServicePort().
				WithName("http").WithProtocol(corev1.ProtocolTCP).
				WithPort(PortDecisions).WithTargetPort(intstr.FromString("decisions"))))
}

func policyDisruptionBudget(s *v1alpha1.DstackServer) *policyv1ac.PodDisruptionBudgetApplyConfiguration {
	return policyv1ac.PodDisruptionBudget(PolicyServerName(s.Name), s.Namespace).
		WithLabels(Labels(s)).
		WithSpec(policyv1ac.PodDisruptionBudgetSpec().
			WithMaxUnavailable(intstr.FromInt32(1)).
			WithSelector(metav1ac.LabelSelector().WithMatchLabels(SelectorLabels(s.Name))))
}

// policyNetworkPolicy lets the server's pods and the manager ask for decisions.
// Health and metrics hold no secrets and stay open to probes and scrapers. Where a
// server elsewhere comes from nobody knows here, so that anybody may ask for its
// policy server, which answers nothing without the token.
func policyNetworkPolicy(s *v1alpha1.DstackServer, unlabelled *metav1.LabelSelector) *networkingv1ac.NetworkPolicyApplyConfiguration {
	managerPods := metav1ac.LabelSelector().WithMatchLabels(map[string]string{
		LabelName: AppName, LabelComponent: ComponentManager,
	})
	asked := networkingv1ac.NetworkPolicyIngressRule().WithPorts(networkingv1ac.NetworkPolicyPort().
		WithProtocol(corev1.ProtocolTCP).WithPort(intstr.FromString("decisions")))
	if !Elsewhere(s) {
		serverPods := metav1ac.LabelSelector().WithMatchLabels(ServerPodLabels(s.Name))
		asked.WithFrom(
			networkingv1ac.NetworkPolicyPeer().WithPodSelector(serverPods),
			networkingv1ac.NetworkPolicyPeer().WithPodSelector(managerPods))
		if unlabelled != nil {
			asked.WithFrom(networkingv1ac.NetworkPolicyPeer().WithPodSelector(selector(unlabelled)))
		}
	}
	return networkingv1ac.NetworkPolicy(PolicyServerName(s.Name), s.Namespace).
		WithLabels(Labels(s)).
		WithSpec(networkingv1ac.NetworkPolicySpec().
			WithPodSelector(metav1ac.LabelSelector().WithMatchLabels(SelectorLabels(s.Name))).
			WithPolicyTypes("Ingress").
			WithIngress(asked,
				networkingv1ac.NetworkPolicyIngressRule().
					WithPorts(networkingv1ac.NetworkPolicyPort().
						WithProtocol(corev1.ProtocolTCP).WithPort(intstr.FromString("health")))))
}

func selector(s *metav1.LabelSelector) *metav1ac.LabelSelectorApplyConfiguration {
	ac := metav1ac.LabelSelector()
	if len(s.MatchLabels) > 0 {
		ac.WithMatchLabels(s.MatchLabels)
	}
	for _, e := range s.MatchExpressions {
		ac.WithMatchExpressions(metav1ac.LabelSelectorRequirement().
			WithKey(e.Key).WithOperator(e.Operator).WithValues(e.Values...))
	}
	return ac
}

func policyDeployment(s *v1alpha1.DstackServer, o Options) *appsv1ac.DeploymentApplyConfiguration {
	plugin := s.Spec.PolicyPlugin
	labels := metav1ac.LabelSelector().WithMatchLabels(SelectorLabels(s.Name))
	volumes := []*corev1ac.VolumeApplyConfiguration{corev1ac.Volume().WithName("token").
		WithSecret(corev1ac.SecretVolumeSource().WithSecretName(o.tokenSecret(s)).WithDefaultMode(0o440))}
	if len(o.EarlierTokens) > 0 {
		volumes = append(volumes, earlierTokens(o.EarlierTokens))
	}
	pod := corev1ac.PodSpec().
		WithServiceAccountName(o.ServiceAccount).
		WithEnableServiceLinks(false).
		WithTerminationGracePeriodSeconds(30).
		WithSecurityContext(nonRootPod()).
		WithTopologySpreadConstraints(corev1ac.TopologySpreadConstraint().
			WithMaxSkew(1).WithTopologyKey(corev1.LabelHostname).
			WithWhenUnsatisfiable(corev1.ScheduleAnyway).WithLabelSelector(labels)).
		WithVolumes(volumes...).
		WithContainers(policyContainer(s, o))
	for _, ref := range plugin.ImagePullSecrets {
		pod.WithImagePullSecrets(corev1ac.LocalObjectReference().WithName(ref.Name))
	}
	return appsv1ac.Deployment(PolicyServerName(s.Name), s.Namespace).
		WithLabels(Labels(s)).
		WithSpec(appsv1ac.DeploymentSpec().
			WithReplicas(plugin.Replicas).
			WithSelector(labels).
			WithStrategy(oneByOne()).
			WithTemplate(corev1ac.PodTemplateSpec().
				WithLabels(SelectorLabels(s.Name)).
				WithAnnotations(map[string]string{AnnotationTokenID: o.TokenID}).
				WithSpec(pod)))
}

// nonRootPod is the identity of every pod of the operator's own.
func nonRootPod() *corev1ac.PodSecurityContextApplyConfiguration {
	return corev1ac.PodSecurityContext().
		WithRunAsNonRoot(true).WithRunAsUser(nonRootID).WithRunAsGroup(nonRootID).WithFSGroup(nonRootID).
		WithSeccompProfile(corev1ac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))
}

// oneByOne replaces pods so that there is never one less.
func oneByOne() *appsv1ac.DeploymentStrategyApplyConfiguration {
	return appsv1ac.DeploymentStrategy().
		WithType("RollingUpdate").
		WithRollingUpdate(appsv1ac.RollingUpdateDeployment().
			WithMaxUnavailable(intstr.FromInt32(0)).WithMaxSurge(intstr.FromInt32(1)))
}

func policyContainer(s *v1alpha1.DstackServer, o Options) *corev1ac.ContainerApplyConfiguration {
	c := corev1ac.Container().
		WithName("policy-server").
		WithImage(o.Image).
		WithArgs("policy-server",
			"--namespace="+s.Namespace,
			"--server="+s.Name,
			fmt.Sprintf("--listen=:%d", PortDecisions),
			fmt.Sprintf("--health-listen=:%d", PortHealth),
			"--token-file="+path.Join(tokenDir, TokenKey)).
		WithPorts(
			corev1ac.ContainerPort().WithName("decisions").WithContainerPort(PortDecisions).WithProtocol(corev1.ProtocolTCP),
			corev1ac.ContainerPort().WithName("health").WithContainerPort(PortHealth).WithProtocol(corev1.ProtocolTCP)).
		WithReadinessProbe(probe("/readyz").WithPeriodSeconds(2).WithFailureThreshold(2)).
		WithLivenessProbe(probe("/healthz").WithPeriodSeconds(10).WithFailureThreshold(6).WithInitialDelaySeconds(5)).
		WithResources(resourcesOr(s.Spec.PolicyPlugin.Resources, policyRequests, policyMemory)).
		WithSecurityContext(hardened().WithReadOnlyRootFilesystem(true)).
		WithVolumeMounts(corev1ac.VolumeMount().WithName("token").WithMountPath(tokenDir).WithReadOnly(true))
	if len(o.EarlierTokens) > 0 {
		c.WithArgs("--earlier-tokens=" + earlierDir).
			WithVolumeMounts(corev1ac.VolumeMount().WithName("earlier-tokens").WithMountPath(earlierDir).WithReadOnly(true))
	}
	if o.ImagePullPolicy != "" {
		c.WithImagePullPolicy(o.ImagePullPolicy)
	}
	return c
}

// earlierTokens has a file for each of the Secrets. One that is gone must not keep a
// policy server from starting.
func earlierTokens(secrets []string) *corev1ac.VolumeApplyConfiguration {
	all := corev1ac.ProjectedVolumeSource().WithDefaultMode(0o440)
	for _, name := range secrets {
		all.WithSources(corev1ac.VolumeProjection().WithSecret(corev1ac.SecretProjection().WithName(name).WithOptional(true).
			WithItems(corev1ac.KeyToPath().WithKey(TokenKey).WithPath(name))))
	}
	return corev1ac.Volume().WithName("earlier-tokens").WithProjected(all)
}

func probe(at string) *corev1ac.ProbeApplyConfiguration {
	return corev1ac.Probe().WithTimeoutSeconds(2).
		WithHTTPGet(corev1ac.HTTPGetAction().WithPath(at).WithPort(intstr.FromString("health")))
}

func hardened() *corev1ac.SecurityContextApplyConfiguration {
	return corev1ac.SecurityContext().
		WithAllowPrivilegeEscalation(false).
		WithCapabilities(corev1ac.Capabilities().WithDrop("ALL")).
		WithSeccompProfile(corev1ac.SeccompProfile().WithType(corev1.SeccompProfileTypeRuntimeDefault))
}

var (
	policyRequests = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("20m"), corev1.ResourceMemory: resource.MustParse("64Mi"),
	}
	policyMemory = resource.MustParse("256Mi")
)

// resourcesOr are those of the spec, else requests and a limit of memory.
func resourcesOr(r *v1alpha1.ResourceRequirements, requests corev1.ResourceList, memory resource.Quantity) *corev1ac.ResourceRequirementsApplyConfiguration {
	if r == nil {
		return corev1ac.ResourceRequirements().WithRequests(requests).WithLimits(corev1.ResourceList{corev1.ResourceMemory: memory})
	}
	ac := corev1ac.ResourceRequirements()
	if len(r.Requests) > 0 {
		ac.WithRequests(resourceList(r.Requests))
	}
	if len(r.Limits) > 0 {
		ac.WithLimits(resourceList(r.Limits))
	}
	return ac
}

func resourceList(quantities map[string]resource.Quantity) corev1.ResourceList {
	list := corev1.ResourceList{}
	for name, q := range quantities {
		list[corev1.ResourceName(name)] = q
	}
	return list
}

// State builds the ConfigMap that tells the init container that the settings
// have worked before.
func State(s *v1alpha1.DstackServer, proven string) Object {
	return Object{"ConfigMap", StateName(s.Name), corev1ac.ConfigMap(StateName(s.Name), s.Namespace).
		WithLabels(Labels(s)).
		WithData(map[string]string{ProvenKey: proven})}
}

// envProven tells the init container that the settings have worked before.
const envProven = "ISOLATION_PROVEN"
