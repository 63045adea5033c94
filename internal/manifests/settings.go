package manifests

import (
	"cmp"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/workload"
)

// Variables are all that the operator sets in the server's container.
func Variables() []string {
	return append(ServerWide(), dstack.EnvPythonPath, dstack.EnvPluginServiceURI, dstack.EnvPolicyURL, dstack.EnvToken, dstack.EnvServer)
}

// ServerWide are the variables of settings that hold for all projects of a server.
func ServerWide() []string {
	return []string{
		dstack.EnvJobNetworkMode, dstack.EnvForbidDstackInRuns, dstack.EnvForbidServicesWithoutGateway,
		dstack.EnvSSHProxyAPIToken, dstack.EnvServerSSHProxyAddress, dstack.EnvServerSSHProxyEnforced,
	}
}

// SettingsInput is what the settings of a workload depend on.
type SettingsInput struct {
	Server      *v1alpha1.DstackServer
	Workload    *workload.Workload
	Container   *corev1.Container
	NetworkMode v1alpha1.NetworkMode
	// Forbidden are the controls that dstack itself denies in all projects.
	Forbidden []isolation.Control
	// Permissions are what default_permissions of the server's config.yml must say.
	Permissions map[string]bool
	// SSH is what the server is told of its SSH proxy; nil for nothing.
	SSH     *SSHSettings
	Files   PluginFiles
	Options Options
}

// Settings builds what the operator sets in the user's workload. The image and
// the plugin of an earlier version stay while nothing else changes, because an
// upgrade of the operator must not restart dstack.
func Settings(in SettingsInput) Intent {
	i := Intent{Workload: in.Workload, Container: in.Container.Name, Server: in.Server.Name}
	if in.Server.Spec.PolicyPlugin.Delivery != v1alpha1.DeliveryREST {
		i.TokenID = in.Options.TokenID
	}
	if in.NetworkMode != v1alpha1.NetworkModeHostWhenPossible {
		i.Settings = append(i.Settings, envVar(dstack.EnvJobNetworkMode, strconv.Itoa(int(in.NetworkMode))))
	}
	for _, c := range in.Forbidden {
		if name := workload.Forbidding()[c.Name()]; !forbiddenByUser(in.Container, name) {
			i.Settings = append(i.Settings, envVar(name, "1"))
		}
	}
	if in.SSH != nil {
		i.SSH, i.SSHTokenID = sshVariables(in.SSH), in.SSH.TokenID
	}
	i.Plugin = pluginPart(in, unpinned)
	i.Revision = i.digest()
	i.Plugin = pluginPart(in, in.version(i.Revision))
	return i
}

// version is what settings of a revision are made with: what the workload has, if it
// has them already, else what this build brings.
func (in SettingsInput) version(revision string) pin {
	version := pin{in.Options.Image, PluginConfigMapName(in.Server.Name, in.Files), pluginItems(in.Files)}
	if in.Workload.SettingsRevision() == revision {
		version = livePin(in.Workload, version)
	}
	return version
}

// pin is the version of the operator that a pod template is made with: the
// image, and the plugin's ConfigMap with its files. The revision of the settings
// leaves it out.
type pin struct {
	image, plugin string
	items         []*corev1ac.KeyToPathApplyConfiguration
}

// livePin is what the pod template already has.
func livePin(w *workload.Workload, version pin) pin {
	if c := w.Injected(); c != nil && c.Image != "" {
		version.image = c.Image
	}
	if live := pluginVolume(&w.Template.Spec); live != nil {
		version.plugin, version.items = live.Name, nil
		for _, item := range live.Items {
			version.items = append(version.items, corev1ac.KeyToPath().WithKey(item.Key).WithPath(item.Path))
		}
	}
	return version
}

// LivePlugin names the plugin's ConfigMap that a pod mounts; "" if none.
func LivePlugin(pod *corev1.PodSpec) string {
	if live := pluginVolume(pod); live != nil {
		return live.Name
	}
	return ""
}

func pluginVolume(pod *corev1.PodSpec) *corev1.ConfigMapVolumeSource {
	for i := range pod.Volumes {
		if v := &pod.Volumes[i]; v.Name == PluginVolume && v.ConfigMap != nil {
			return v.ConfigMap
		}
	}
	return nil
}

func envVar(name, value string) *corev1ac.EnvVarApplyConfiguration {
	return corev1ac.EnvVar().WithName(name).WithValue(value)
}

func secretEnvVar(name, secret, key string) *corev1ac.EnvVarApplyConfiguration {
	return corev1ac.EnvVar().WithName(name).WithValueFrom(corev1ac.EnvVarSource().
		WithSecretKeyRef(corev1ac.SecretKeySelector().WithName(secret).WithKey(key).WithOptional(false)))
}

// SSHSettings is what the server is told of its SSH proxy.
type SSHSettings struct {
	workload.SSHProxy
	// TokenID changes with the token.
	TokenID string
}

// SSHSettings are what the intent tells the server of its SSH proxy; nil for
// nothing.
func (i Intent) SSHSettings() *SSHSettings {
	told := &SSHSettings{TokenID: i.SSHTokenID}
	for _, e := range i.SSH {
		switch {
		case e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil:
			ref := e.ValueFrom.SecretKeyRef
			told.Token = v1alpha1.SecretKeyReference{Name: ptr.Deref(ref.Name, ""), Key: ptr.Deref(ref.Key, "")}
		case *e.Name == dstack.EnvServerSSHProxyAddress:
			told.Address = ptr.Deref(e.Value, "")
		case *e.Name == dstack.EnvServerSSHProxyEnforced:
			told.Enforced = true
		}
	}
	if told.Token.Name == "" || told.Address == "" {
		return nil
	}
	return told
}

// sshVariables never hold an empty value: dstack does not start with an empty
// address, ignores an empty token, and takes any value of the last one for yes.
func sshVariables(s *SSHSettings) []*corev1ac.EnvVarApplyConfiguration {
	env := []*corev1ac.EnvVarApplyConfiguration{
		secretEnvVar(dstack.EnvSSHProxyAPIToken, s.Token.Name, s.Token.Key),
		envVar(dstack.EnvServerSSHProxyAddress, s.Address),
	}
	if s.Enforced {
		env = append(env, envVar(dstack.EnvServerSSHProxyEnforced, "1"))
	}
	return env
}

// pluginPart builds all that makes the server ask the policy server: only
// together do the parts work.
func pluginPart(in SettingsInput, version pin) *PluginPart {
	s := in.Server
	part := &PluginPart{Init: injectContainer(in, version.image)}
	if !configOf(in).Clash {
		part.Volumes = append(part.Volumes, corev1ac.Volume().WithName(ConfigVolume).
			WithEmptyDir(corev1ac.EmptyDirVolumeSource().WithSizeLimit(resource.MustParse("8Mi"))))
		part.Mounts = append(part.Mounts, corev1ac.VolumeMount().WithName(ConfigVolume).WithReadOnly(true).
			WithMountPath(path.Join(ServerDir(s), dstack.ConfigFile)).WithSubPath(dstack.ConfigFile))
	}
	if s.Spec.PolicyPlugin.Delivery == v1alpha1.DeliveryREST {
		part.Env = append(part.Env, envVar(dstack.EnvPluginServiceURI, PolicyURL(s.Namespace, s.Name)))
		return part
	}
	part.Env = append(part.Env,
		envVar(dstack.EnvPolicyURL, policyURL(s)),
		envVar(dstack.EnvServer, s.Namespace+"/"+s.Name),
		secretEnvVar(dstack.EnvToken, in.Options.tokenSecret(s), TokenKey))
	if !pythonPathIsUsers(in.Container) {
		part.Env = append(part.Env, envVar(dstack.EnvPythonPath, PluginDir))
	}
	part.Volumes = append(part.Volumes, corev1ac.Volume().WithName(PluginVolume).
		WithConfigMap(corev1ac.ConfigMapVolumeSource().WithName(version.plugin).
			WithDefaultMode(0o444).WithItems(version.items...)))
	part.Mounts = append(part.Mounts, corev1ac.VolumeMount().WithName(PluginVolume).
		WithReadOnly(true).WithMountPath(PluginDir))
	return part
}

// forbiddenByUser tells whether the user's own manifest has a variable whose
// presence counts, with another value than ours: that does as well, and to set it
// would be a conflict about nothing.
func forbiddenByUser(c *corev1.Container, name string) bool {
	item := workload.Item(c, name)
	return item != nil && item.ValueFrom == nil && item.Value != "1"
}

// pythonPathIsUsers tells whether the user's own PYTHONPATH already contains the
// plugin's folder beside others.
func pythonPathIsUsers(c *corev1.Container) bool {
	v := workload.Lookup(c, dstack.EnvPythonPath)
	return v.Known && v.Set && v.Value != PluginDir && slices.Contains(strings.Split(v.Value, ":"), PluginDir)
}

func injectContainer(in SettingsInput, image string) *corev1ac.ContainerApplyConfiguration {
	s := in.Server
	file, mounts := configArguments(in)
	args := []string{
		"inject", file[0],
		"--plugin=" + PluginName(s),
		"--policy-url=" + PolicyURL(s.Namespace, s.Name),
		"--proven-env=" + envProven,
	}
	for _, key := range slices.Sorted(maps.Keys(in.Permissions)) {
		args = append(args, fmt.Sprintf("%s%s=%t", workload.PermissionFlag, key, in.Permissions[key]))
	}
	c := corev1ac.Container().
		WithName(workload.InjectContainer).
		WithImage(image).
		WithTerminationMessagePolicy(corev1.TerminationMessageReadFile).
		WithResources(injectResources(in.Container)).
		WithSecurityContext(injectSecurity(in)).
		WithVolumeMounts(mounts...).
		WithEnv(corev1ac.EnvVar().WithName(envProven).WithValueFrom(corev1ac.EnvVarSource().
			WithConfigMapKeyRef(corev1ac.ConfigMapKeySelector().WithName(StateName(s.Name)).WithKey(ProvenKey).WithOptional(true))))
	if in.Options.ImagePullPolicy != "" {
		c.WithImagePullPolicy(in.Options.ImagePullPolicy)
	}
	if s.Spec.PolicyPlugin.Delivery != v1alpha1.DeliveryREST {
		c.WithEnv(secretEnvVar(dstack.EnvToken, in.Options.tokenSecret(s), TokenKey))
	}
	return c.WithArgs(append(args, file[1:]...)...)
}

// PluginName is the plugin that config.yml must name.
func PluginName(s *v1alpha1.DstackServer) string {
	if s.Spec.PolicyPlugin.Delivery == v1alpha1.DeliveryREST {
		return dstack.PluginREST
	}
	return dstack.PluginPython
}

// injectSecurity runs the init container as the user who will read the copy.
// Where the pod must not run as root and names no user, the image's own user is
// left to the kubelet.
func injectSecurity(in SettingsInput) *corev1ac.SecurityContextApplyConfiguration {
	as := runAs(in)
	ac := hardened().WithReadOnlyRootFilesystem(true)
	if as.user != nil {
		ac.WithRunAsUser(*as.user)
	} else if !as.nonRoot {
		ac.WithRunAsUser(0)
	}
	if as.group != nil {
		ac.WithRunAsGroup(*as.group)
	}
	switch pod := in.Workload.Template.Spec.SecurityContext; {
	case as.nonRoot, as.user != nil && *as.user != 0:
		ac.WithRunAsNonRoot(true)
	case pod != nil && pod.RunAsNonRoot != nil:
		ac.WithRunAsNonRoot(false) // The server's container lifts what its pod says.
	}
	return ac
}

// identity is whom a container runs as; nil where nothing says so.
type identity struct {
	user, group *int64
	nonRoot     bool
}

// runAs is the identity of the server's process: the spec's user, the server
// container's own, else its pod's.
func runAs(in SettingsInput) identity {
	var as identity
	if pod := in.Workload.Template.Spec.SecurityContext; pod != nil {
		as = identity{pod.RunAsUser, pod.RunAsGroup, ptr.Deref(pod.RunAsNonRoot, false)}
	}
	if own := in.Container.SecurityContext; own != nil {
		as.user = cmp.Or(own.RunAsUser, as.user)
		as.group = cmp.Or(own.RunAsGroup, as.group)
		as.nonRoot = ptr.Deref(own.RunAsNonRoot, as.nonRoot)
	}
	as.user = cmp.Or(in.Server.Spec.PolicyPlugin.RunAsUser, as.user)
	return as
}
