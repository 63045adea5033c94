package manifests

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/workload"
)

// Keys of the ConfigMap of ManualName for a server that runs elsewhere.
const (
	// ReadmeKey says step by step what to do.
	ReadmeKey = "README"
	// EnvKey holds the server's variables but for the secret ones, a line each.
	EnvKey = "server.env"
	// ConfigKey holds the lines for the server's config.yml.
	ConfigKey = dstack.ConfigFile
	// ArchiveKey holds the files of the plugin.
	ArchiveKey = "plugin.tar.gz"
	// RevisionKey is the digest of what must be in place.
	RevisionKey = "revision"
)

// Elsewhere tells of a server that is no workload of its namespace.
func Elsewhere(s *v1alpha1.DstackServer) bool { return s.Spec.API.URL != "" }

// policyURL is where the server reaches the policy server.
func policyURL(s *v1alpha1.DstackServer) string {
	if Elsewhere(s) {
		return s.Spec.PolicyPlugin.URL
	}
	return PolicyURL(s.Namespace, s.Name)
}

// PutInPlace is what every process of a server that runs elsewhere needs.
type PutInPlace struct {
	server *v1alpha1.DstackServer
	env    []*corev1ac.EnvVarApplyConfiguration
	// permissions are what default_permissions of config.yml must say.
	permissions map[string]bool
	files       PluginFiles
	// Revision digests all of it but the version of the plugin.
	Revision string
}

// ForElsewhere builds what a server that runs elsewhere needs: the variables are
// those that the operator would set in a workload of which nothing else is known.
func ForElsewhere(in SettingsInput) PutInPlace {
	in.Workload = &workload.Workload{Meta: &metav1.ObjectMeta{}, Template: &corev1.PodTemplateSpec{}}
	in.Container = &corev1.Container{}
	intent := Settings(in)
	p := PutInPlace{server: in.Server, env: intent.Env(), permissions: in.Permissions, files: in.Files}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%s", p.variables(), p.config(), intent.TokenID, intent.SSHTokenID))
	p.Revision = hex.EncodeToString(sum[:])[:8]
	return p
}

// ConfigMap shows all of it, and no secret.
func (p PutInPlace) ConfigMap() Object {
	name := ManualName(p.server.Name)
	return Object{"ConfigMap", name, corev1ac.ConfigMap(name, p.server.Namespace).
		WithLabels(Labels(p.server)).
		WithData(map[string]string{
			ReadmeKey: p.readme(), EnvKey: p.variables(), ConfigKey: p.config(), RevisionKey: p.Revision,
		}).
		WithBinaryData(map[string][]byte{ArchiveKey: p.files.archive()})}
}

// variables are lines NAME=VALUE, as docker and systemd read them. Instead of a
// secret one stands where it is found.
func (p PutInPlace) variables() string {
	var b strings.Builder
	for _, e := range p.env {
		if e.ValueFrom == nil {
			fmt.Fprintf(&b, "%s=%s\n", *e.Name, *e.Value)
			continue
		}
		fmt.Fprintf(&b, "# %s is a secret: %s prints its line.\n", *e.Name, p.secretLine(e))
	}
	return b.String()
}

// secretLine is the command that prints the line of a secret variable.
func (p PutInPlace) secretLine(e *corev1ac.EnvVarApplyConfiguration) string {
	ref := e.ValueFrom.SecretKeyRef
	return fmt.Sprintf(`kubectl -n %s get secret %s -o go-template='%s={{index .data "%s" | base64decode}}{{"\n"}}'`,
		p.server.Namespace, *ref.Name, *e.Name, *ref.Key)
}

// ShowsSSHProxy tells whether what is shown, the value of EnvKey, tells the server of
// just this SSH proxy, enforced or not. The server may know of it by then.
func ShowsSSHProxy(shown string, s *v1alpha1.DstackServer, proxy workload.SSHProxy) bool {
	proxy.Enforced = false
	p := PutInPlace{server: s, env: sshVariables(&SSHSettings{SSHProxy: proxy})}
	return strings.Contains(shown, p.variables())
}

// config are the lines for the server's config.yml.
func (p PutInPlace) config() string {
	var b strings.Builder
	fmt.Fprintf(&b, "plugins: [%s]\n", PluginName(p.server))
	if len(p.permissions) > 0 {
		b.WriteString("default_permissions:\n")
	}
	for _, key := range slices.Sorted(maps.Keys(p.permissions)) {
		fmt.Fprintf(&b, "  %s: %t\n", key, p.permissions[key])
	}
	return b.String()
}

// archive is the plugin as a tar file that is the same each time.
func (f PluginFiles) archive() []byte {
	var out bytes.Buffer
	zipped := gzip.NewWriter(&out)
	packed := tar.NewWriter(zipped)
	for _, name := range slices.Sorted(maps.Keys(f)) {
		header := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(f[name])), Typeflag: tar.TypeReg, Format: tar.FormatUSTAR}
		if err := packed.WriteHeader(header); err != nil {
			panic("the plugin's files have short names: " + err.Error())
		}
		_, _ = packed.Write([]byte(f[name])) // to memory
	}
	_, _ = packed.Close(), zipped.Close()
	return out.Bytes()
}

// readme says what to do. Each line that is indented by four spaces is a command,
// and none of them prints a secret to a terminal.
func (p PutInPlace) readme() string {
	s := p.server
	var secrets strings.Builder
	for _, e := range p.env {
		if e.ValueFrom != nil {
			fmt.Fprintf(&secrets, "    %s >>server.env\n", p.secretLine(e))
		}
	}
	return strings.NewReplacer(
		"NAMESPACE/NAME", s.Namespace+"/"+s.Name,
		"SERVER_URL", s.Spec.API.URL,
		"POLICY_URL", s.Spec.PolicyPlugin.URL,
		"REVISION", p.Revision,
		"PLUGIN_DIR", PluginDir,
		"CONFIG_FILE", path.Join(ServerDir(s), dstack.ConfigFile),
		"CONFIG_DISABLED", dstack.EnvConfigDisabled,
		"CA_FILE", dstack.EnvCAFile,
		"GET", fmt.Sprintf("kubectl -n %s get configmap %s", s.Namespace, ManualName(s.Name)),
		"    SECRETS\n", secrets.String(),
	).Replace(readme)
}

const readme = `What every process of the dstack server at SERVER_URL needs, for DstackServer NAMESPACE/NAME: revision REVISION.

A process that lacks it refuses nothing, and the operator cannot see that. Begin when the DstackServer's condition
PolicyPluginReady is True and POLICY_URL leads to its policy servers. Do the steps on each machine that runs a process.

1. Put the files of the plugin into PLUGIN_DIR, where the server's user may read them:

    mkdir -p PLUGIN_DIR
    GET -o jsonpath='{.binaryData.plugin\.tar\.gz}' | base64 -d | tar -xz -C PLUGIN_DIR

2. Write the variables of the server into a file that nobody else may read, for it holds tokens:

    (umask 077; : >server.env)
    GET -o jsonpath='{.data.server\.env}' >>server.env
    SECRETS

   To a PYTHONPATH of your own append :PLUGIN_DIR instead. CONFIG_DISABLED must not be set, whatever its value.
   Where an authority of your own signs the certificate of POLICY_URL, set CA_FILE to its PEM file as well.

3. Add the lines that this prints to CONFIG_FILE. Where plugins or default_permissions stand there already, add to what
   they have. A new file needs the line "projects: []" as well.

    GET -o jsonpath='{.data.config\.yml}'

4. Restart the server with the variables. dstack's image, beside the options that you have:

    docker run --env-file server.env --volume PLUGIN_DIR:PLUGIN_DIR:ro

   systemd: EnvironmentFile=. In a shell:

    while IFS= read -r line; do case "$line" in ''|'#'*) ;; *) export "$line" ;; esac; done <server.env
    dstack server

5. See that it bites: where a profile denies privileged, a run with "privileged: true" is refused, and the message
   ends with [isolation rev=…]. The server's log says at its start which policy server the plugin asks.

When the revision in condition SettingsApplied changes, do it again from step 2 on; step 1 when the operator was upgraded.

Before you delete the DstackServer or uninstall the operator, take the line of step 3 and the variables out and restart the
server: with the plugin and without policy servers it refuses every run.
`
