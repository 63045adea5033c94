package manifests_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

var update = flag.Bool("update", false, "write the golden files anew")

var options = manifests.Options{
	Image: "registry.example.com/dstack-isolation:v1", ImagePullPolicy: corev1.PullIfNotPresent,
	ServiceAccount: "isolation-policy-server", TokenID: "0f1e2d3c",
}

var files = manifests.PluginFiles{
	"dstack_isolation/__init__.py":                      "# package\n",
	"dstack_isolation-0.1.0.dist-info/METADATA":         "Name: dstack-isolation\n",
	"dstack_isolation-0.1.0.dist-info/entry_points.txt": "[dstack.plugins]\n",
}

// world is one case: a server, its user's pods, and what the planner wants.
type world struct {
	server   *testkit.Server
	pod      *testkit.ServerPod
	stateful bool
	mode     v1alpha1.NetworkMode
	// forbidden and permissions are what dstack itself is told to refuse.
	forbidden   []isolation.Control
	permissions map[string]bool
	// whole adds the policy server and what belongs to it.
	whole bool
	// ssh is what the server is told of an SSH proxy; a managed one is added.
	ssh *manifests.SSHSettings
}

func (w world) obj() *v1alpha1.DstackServer {
	b := w.server
	if b == nil {
		b = testkit.MakeServer("main")
	}
	return b.UID("2b1c").Obj()
}

func (w world) workload() *workload.Workload {
	pod := w.pod
	if pod == nil {
		pod = testkit.MakeServerPod().Data()
	}
	if w.stateful {
		s := pod.StatefulSet(testkit.WorkloadName)
		s.UID, s.ResourceVersion = "9d8e", "42"
		return workload.FromStatefulSet(s)
	}
	d := pod.Deployment(testkit.WorkloadName)
	d.UID, d.ResourceVersion = "9d8e", "42"
	return workload.FromDeployment(d)
}

// input is what the settings of the case depend on.
func (w world) input(t *testing.T) manifests.SettingsInput {
	t.Helper()
	live := w.workload()
	c, err := live.Container(testkit.ServerContainer)
	if err != nil {
		t.Fatal(err)
	}
	mode := w.mode
	if mode == 0 {
		mode = v1alpha1.NetworkModeHostWhenPossible
	}
	return manifests.SettingsInput{Server: w.obj(), Workload: live, Container: c, NetworkMode: mode, Forbidden: w.forbidden, Permissions: w.permissions, SSH: w.ssh, Files: files, Options: options}
}

// objects are all that is applied in the case.
func (w world) objects(t *testing.T) []runtime.ApplyConfiguration {
	t.Helper()
	var all []runtime.ApplyConfiguration
	if s := w.obj(); manifests.Elsewhere(s) {
		for _, o := range manifests.PolicyServer(s, nil, options) {
			all = append(all, o.Config)
		}
	}
	if w.whole {
		s := w.obj()
		own := append(manifests.PolicyServer(s, nil, options), manifests.Plugin(s, files), manifests.State(s, "5e771465"))
		for _, o := range own {
			all = append(all, o.Config)
		}
	}
	if s := w.obj(); s.Spec.SSHProxy != nil && s.Spec.SSHProxy.Managed != nil {
		for _, o := range w.sshProxy() {
			all = append(all, o.Config)
		}
	}
	if manifests.Elsewhere(w.obj()) {
		return append(all, w.shown())
	}
	return append(all, manifests.Settings(w.input(t)).Config())
}

func security(c, pod *bool, cUser, podUser *int64) *testkit.ServerPod {
	return testkit.MakeServerPod().Data().With(func(t *corev1.PodTemplateSpec) {
		t.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: pod, RunAsUser: podUser}
	}).WithServer(func(s *corev1.Container) {
		s.SecurityContext = &corev1.SecurityContext{RunAsNonRoot: c, RunAsUser: cUser}
	})
}

// exactly is a server whose config.yml is a ConfigMap's.
func exactly(subPath string) *testkit.ServerPod {
	return testkit.MakeServerPod().Data().
		Volume("config", corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "dstack"}}}).
		Mount(corev1.VolumeMount{Name: "config", MountPath: "/root/.dstack/server/config.yml", SubPath: subPath})
}

func asksFor(requests, limits corev1.ResourceList) *testkit.ServerPod {
	return testkit.MakeServerPod().Data().WithServer(func(c *corev1.Container) {
		c.Resources = corev1.ResourceRequirements{Requests: requests, Limits: limits}
	})
}

func claimAt(m corev1.VolumeMount) *testkit.ServerPod {
	m.Name = "home"
	return testkit.MakeServerPod().Volume("home", corev1.VolumeSource{
		PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "home"},
	}).Mount(m)
}

var worlds = map[string]world{
	"told-to-refuse": {
		mode: 3, forbidden: []isolation.Control{isolation.ServerAccess, isolation.ServicesWithoutGateway},
		permissions: map[string]bool{dstack.PermissionCreateProjects: false, dstack.PermissionManageSSHFleets: true},
	},
	"python": {whole: true, mode: 3},
	"elsewhere": {
		server: testkit.MakeServer("main").Elsewhere().SSHProxy(v1alpha1.SSHProxy{Managed: &v1alpha1.ManagedSSHProxy{}}), ssh: told(true), mode: 3,
		forbidden:   []isolation.Control{isolation.ServerAccess},
		permissions: map[string]bool{dstack.PermissionCreateProjects: false, dstack.PermissionManageSecrets: true},
	},
	"elsewhere-at-least": {server: testkit.MakeServer("main").Elsewhere(), mode: 2},
	"rest":               {whole: true, server: testkit.MakeServer("main").Delivery(v1alpha1.DeliveryREST)},
	"policy-server-options": {whole: true, server: withPlugin(v1alpha1.PolicyPlugin{
		Replicas: 5, ImagePullSecrets: []v1alpha1.LocalObjectReference{{Name: "registry"}},
		Resources: &v1alpha1.ResourceRequirements{Requests: quantities("cpu", "1"), Limits: quantities("memory", "1Gi")},
	})},
	"ssh-proxy": {server: withSSHProxy(v1alpha1.ManagedSSHProxy{}), ssh: told(true)},
	"ssh-proxy-options": {server: withSSHProxy(v1alpha1.ManagedSSHProxy{
		Image: "registry.example.com/sshproxy:1", ImagePullSecrets: []v1alpha1.LocalObjectReference{{Name: "registry"}}, Replicas: 3,
		Address: "ssh.example.com:2222",
		Service: v1alpha1.SSHProxyService{
			Type: v1alpha1.SSHProxyLoadBalancer, Port: 2222, NodePort: 30222, LoadBalancerClass: "example.com/internal",
			Annotations: map[string]string{"example.com/scheme": "internal"},
		},
		HostKeysSecretRef: &v1alpha1.SecretKeyReference{Name: "ssh-keys", Key: "all"},
		TokenSecretRef:    &v1alpha1.SecretKeyReference{Name: "ssh", Key: "api"},
		Resources:         &v1alpha1.ResourceRequirements{Limits: quantities("memory", "1Gi")}, TerminationGracePeriodSeconds: 3600,
		NodeSelector: map[string]string{"kubernetes.io/arch": "arm64", "pool": "edge"},
	}).Port(8000), ssh: told(true)},
	"ssh-proxy-node-port":                     {server: withSSHProxy(v1alpha1.ManagedSSHProxy{Service: v1alpha1.SSHProxyService{Type: v1alpha1.SSHProxyNodePort, NodePort: 30022}}), ssh: told(false)},
	"ssh-proxy-external":                      {server: testkit.MakeServer("main").SSHProxy(v1alpha1.SSHProxy{External: &v1alpha1.ExternalSSHProxy{}}), ssh: told(true)},
	"statefulset":                             {stateful: true, mode: 1},
	"read-only-mount-with-subpath":            {pod: claimAt(corev1.VolumeMount{MountPath: "/root", SubPath: "home/dstack", ReadOnly: true})},
	"no-volume":                               {pod: testkit.MakeServerPod()},
	"config-mounted-exactly":                  {pod: exactly("config.yml")},
	"config-mounted-exactly-rest":             {server: testkit.MakeServer("main").Delivery(v1alpha1.DeliveryREST), stateful: true, pod: exactly("etc/dstack.yml")},
	"fewer-resources":                         {pod: asksFor(corev1.ResourceList{"cpu": resource.MustParse("5m")}, corev1.ResourceList{"cpu": resource.MustParse("200m"), "memory": resource.MustParse("100Mi")})},
	"another-server-dir":                      {server: testkit.MakeServer("main").ServerDir("/srv/dstack"), pod: claimAt(corev1.VolumeMount{MountPath: "/srv"})},
	"network-mode-1":                          {mode: 1},
	"network-mode-2":                          {mode: 2},
	"network-mode-3":                          {mode: 3},
	"users-pythonpath":                        {pod: testkit.MakeServerPod().Data().Env("PYTHONPATH", "/app:/opt/dstack-isolation")},
	"run-as-spec":                             {server: testkit.MakeServer("main").RunAsUser(3000), pod: security(nil, nil, ptr.To[int64](1000), ptr.To[int64](2000)).Env("DSTACK_SERVER_DIR", "/root/.dstack/server")},
	"run-as-container":                        {pod: security(nil, nil, ptr.To[int64](1000), ptr.To[int64](2000)).Env("DSTACK_SERVER_DIR", "/root/.dstack/server")},
	"run-as-pod":                              {pod: security(nil, nil, nil, ptr.To[int64](2000)).Env("DSTACK_SERVER_DIR", "/root/.dstack/server")},
	"run-as-pod-non-root":                     {pod: security(nil, ptr.To(true), nil, nil)},
	"run-as-container-root-in-a-non-root-pod": {pod: security(ptr.To(false), ptr.To(true), ptr.To[int64](0), nil)},
}

func withSSHProxy(m v1alpha1.ManagedSSHProxy) *testkit.Server {
	return testkit.MakeServer("main").SSHProxy(v1alpha1.SSHProxy{Managed: &m})
}

// told is what a server is told of an SSH proxy.
func told(enforced bool) *manifests.SSHSettings {
	return &manifests.SSHSettings{TokenID: "main/0f1e2d3c", SSHProxy: workload.SSHProxy{
		Token: v1alpha1.SecretKeyReference{Name: "ssh", Key: "api"}, Address: "ssh.example.com:2222", Enforced: enforced,
	}}
}

func (w world) sshProxy() []manifests.Object {
	s := w.obj()
	return manifests.SSHProxy(s, manifests.SSHProxyOptions{
		Token: manifests.SSHTokenRef(s), HostKeys: manifests.SSHHostKeysRef(s), TokenID: "main/0f1e2d3c", HostKeysID: "5e771465",
	})
}

func withPlugin(p v1alpha1.PolicyPlugin) *testkit.Server {
	s := testkit.MakeServer("main")
	s.Obj().Spec.PolicyPlugin = p
	return s
}

// Each case is reviewed as the YAML that it becomes: the diff is the review.
func TestGolden(t *testing.T) {
	for name, w := range worlds {
		t.Run(name, func(t *testing.T) {
			var got bytes.Buffer
			for _, o := range w.objects(t) {
				data, err := yaml.Marshal(o)
				if err != nil {
					t.Fatal(err)
				}
				got.WriteString("---\n")
				got.Write(data)
			}
			file := filepath.Join("testdata", name, "objects.yaml")
			if *update {
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(file, got.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got.String()); diff != "" {
				t.Errorf("%s, -want +got (write it anew with -update):\n%s", file, diff)
			}
		})
	}
}

func TestGoldenFilesHoldEveryVariableAndContainer(t *testing.T) {
	var all strings.Builder
	dirs, err := os.ReadDir("testdata")
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range dirs {
		if _, known := worlds[dir.Name()]; !known {
			t.Errorf("testdata/%s belongs to no case", dir.Name())
		}
		data, err := os.ReadFile(filepath.Join("testdata", dir.Name(), "objects.yaml"))
		if err != nil {
			t.Fatal(err)
		}
		all.Write(data)
	}
	names := []string{
		dstack.EnvJobNetworkMode, dstack.EnvPluginServiceURI, dstack.EnvPolicyURL, dstack.EnvToken, dstack.EnvServer, dstack.EnvPythonPath,
		dstack.EnvSSHProxyAPIToken, dstack.EnvSSHProxyAPIURL, dstack.EnvServerSSHProxyAddress, dstack.EnvServerSSHProxyEnforced, "ssh-proxy",
		dstack.EnvForbidDstackInRuns, dstack.EnvForbidServicesWithoutGateway, "ISOLATION_PROVEN", workload.InjectContainer, "policy-server",
	}
	for _, name := range names {
		if !strings.Contains(all.String(), "name: "+name+"\n") {
			t.Errorf("%s is in no golden file", name)
		}
	}
	for _, line := range strings.Split(all.String(), "\n") {
		name, isName := strings.CutPrefix(strings.TrimLeft(line, " -"), "name: ")
		if isName && strings.ToUpper(name) == name && !slices.Contains(names, name) {
			t.Errorf("the variable %s is in a golden file and not in this test", name)
		}
	}
}

// decode reads an apply configuration as the object that it describes.
func decode[T any](t *testing.T, config runtime.ApplyConfiguration) T {
	t.Helper()
	data, err := yaml.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	var o T
	if err := yaml.Unmarshal(data, &o); err != nil {
		t.Fatal(err)
	}
	return o
}

// partial is what all objects have, whatever their spec.
type partial struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata"`
}

// A foreground deletion collects what has an owner before the server has its
// settings back.
func TestNothingHasAnOwner(t *testing.T) {
	for name, w := range worlds {
		for _, o := range w.objects(t) {
			meta := decode[partial](t, o).ObjectMeta
			if len(meta.OwnerReferences) > 0 || len(meta.Finalizers) > 0 {
				t.Errorf("%s: %s has an owner or a finalizer", name, meta.Name)
			}
		}
	}
}

func TestOwnObjectsAreFoundByLabels(t *testing.T) {
	w := worlds["python"]
	s := w.obj()
	for _, o := range append(manifests.PolicyServer(s, nil, options), manifests.Plugin(s, files), manifests.State(s, "")) {
		meta := decode[partial](t, o.Config).ObjectMeta
		if meta.Name != o.Name || meta.Namespace != s.Namespace {
			t.Errorf("%s %s is called %s/%s", o.Kind, o.Name, meta.Namespace, meta.Name)
		}
		for key, want := range map[string]string{
			manifests.LabelName: "dstack-isolation", manifests.LabelManagedBy: "dstack-isolation",
			manifests.LabelServer: "main", manifests.LabelServerUID: "2b1c",
		} {
			if meta.Labels[key] != want {
				t.Errorf("%s %s has label %s=%q, want %q", o.Kind, o.Name, key, meta.Labels[key], want)
			}
		}
	}
}

// Kubernetes makes variables of the names of Services, and dstack reads those
// that begin with DSTACK_.
func TestServiceNamesMakeNoVariableOfDstacks(t *testing.T) {
	for _, server := range []string{"main", "dstack", "dstack-server", "a", strings.Repeat("x", 40)} {
		w := world{server: testkit.MakeServer(server)}
		for _, o := range manifests.PolicyServer(w.obj(), nil, options) {
			if o.Kind != "Service" {
				continue
			}
			variable := strings.ToUpper(strings.ReplaceAll(o.Name, "-", "_")) + "_SERVICE_HOST"
			if strings.HasPrefix(variable, "DSTACK_") {
				t.Errorf("Service %s makes the variable %s", o.Name, variable)
			}
			if len(o.Name) > 63 {
				t.Errorf("the name of Service %s has %d characters, more than 63", o.Name, len(o.Name))
			}
		}
	}
}

func policyServer(t *testing.T, w world) (d appsv1.Deployment, np networkingv1.NetworkPolicy) {
	for _, o := range manifests.PolicyServer(w.obj(), nil, options) {
		switch o.Kind {
		case "Deployment":
			d = decode[appsv1.Deployment](t, o.Config)
		case "NetworkPolicy":
			np = decode[networkingv1.NetworkPolicy](t, o.Config)
		}
	}
	return d, np
}

func quantities(name, value string) map[string]resource.Quantity {
	return map[string]resource.Quantity{name: resource.MustParse(value)}
}

// A policy that also restricts egress would cut the policy server off from the
// API server.
func TestNetworkPolicyIsIngressOnly(t *testing.T) {
	_, np := policyServer(t, world{})
	if diff := cmp.Diff([]networkingv1.PolicyType{networkingv1.PolicyTypeIngress}, np.Spec.PolicyTypes); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if len(np.Spec.Egress) > 0 || len(np.Spec.Ingress) != 2 {
		t.Errorf("got %d egress and %d ingress rules, want none and two", len(np.Spec.Egress), len(np.Spec.Ingress))
	}
	from := np.Spec.Ingress[0].From
	if len(from) != 2 || from[0].PodSelector == nil || cmp.Diff(map[string]string{"isolation.dstack.ai/server-pod": "main"}, from[0].PodSelector.MatchLabels) != "" {
		t.Errorf("decisions are open to %v, want the server's pods and the manager", from)
	}
	for _, peer := range from {
		if peer.NamespaceSelector != nil || peer.IPBlock != nil || len(peer.PodSelector.MatchLabels) == 0 {
			t.Errorf("%v opens decisions to more than pods of this namespace", peer)
		}
	}
}

// Pods of an earlier version have no label, and are not cut off.
func TestNetworkPolicyTakesAnySelectorOfUnlabelledPods(t *testing.T) {
	s := &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: []string{"a", "b"}}}}
	for _, o := range manifests.PolicyServer(world{}.obj(), s, options) {
		if o.Kind != "NetworkPolicy" {
			continue
		}
		got := decode[networkingv1.NetworkPolicy](t, o.Config).Spec.Ingress[0].From[2].PodSelector
		if diff := cmp.Diff(s, got); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
}

// The Pod Security Standard "restricted", field by field.
func TestPolicyServerPodIsRestricted(t *testing.T) {
	d, _ := policyServer(t, world{})
	pod := d.Spec.Template.Spec
	if pod.HostNetwork || pod.HostPID || pod.HostIPC {
		t.Error("the pod shares a namespace of the host")
	}
	for _, v := range pod.Volumes {
		if v.Secret == nil {
			t.Errorf("volume %s is no Secret", v.Name)
		}
	}
	sc := pod.SecurityContext
	if sc == nil || !ptr.Deref(sc.RunAsNonRoot, false) || ptr.Deref(sc.RunAsUser, 0) == 0 || sc.SeccompProfile == nil || sc.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
		t.Errorf("the pod's security context is %v", sc)
	}
	for _, c := range pod.Containers {
		mustBeHardened(t, c)
	}
	if ptr.Deref(pod.EnableServiceLinks, true) {
		t.Error("the pod takes variables of Services")
	}
}

// mustBeHardened checks what holds for every container of ours: no privileges,
// a root that is read-only, and bounded memory.
func mustBeHardened(t *testing.T, c corev1.Container) {
	t.Helper()
	sc := c.SecurityContext
	switch {
	case sc == nil, sc.Capabilities == nil:
		t.Errorf("container %s has no security context", c.Name)
		return
	case ptr.Deref(sc.Privileged, false), ptr.Deref(sc.AllowPrivilegeEscalation, true):
		t.Errorf("container %s may gain privileges", c.Name)
	case len(sc.Capabilities.Add) > 0, !slices.Equal(sc.Capabilities.Drop, []corev1.Capability{"ALL"}):
		t.Errorf("container %s keeps capabilities", c.Name)
	case sc.SeccompProfile == nil, sc.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault:
		t.Errorf("container %s has no seccomp profile", c.Name)
	case !ptr.Deref(sc.ReadOnlyRootFilesystem, false):
		t.Errorf("container %s can write to its root", c.Name)
	case c.Resources.Limits.Memory().IsZero(), c.Resources.Requests.Cpu().IsZero():
		t.Errorf("container %s has no memory limit or no CPU request", c.Name)
	}
}
