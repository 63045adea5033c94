package manifests_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
)

func (w world) forElsewhere() manifests.PutInPlace {
	return manifests.ForElsewhere(manifests.SettingsInput{
		Server: w.obj(), NetworkMode: w.mode, Forbidden: w.forbidden, Permissions: w.permissions, SSH: w.ssh, Files: files, Options: options,
	})
}

// shown is the ConfigMap without the plugin's archive, which is compressed.
func (w world) shown() runtime.ApplyConfiguration {
	config := w.forElsewhere().ConfigMap().Config.(*corev1ac.ConfigMapApplyConfiguration)
	config.BinaryData = nil
	return config
}

func TestArchiveHoldsThePlugin(t *testing.T) {
	w := worlds["elsewhere"]
	first := decode[corev1.ConfigMap](t, w.forElsewhere().ConfigMap().Config).BinaryData[manifests.ArchiveKey]
	if !bytes.Equal(first, decode[corev1.ConfigMap](t, w.forElsewhere().ConfigMap().Config).BinaryData[manifests.ArchiveKey]) {
		t.Error("it is another one each time")
	}
	unzipped, err := gzip.NewReader(bytes.NewReader(first))
	if err != nil {
		t.Fatal(err)
	}
	got := manifests.PluginFiles{}
	for packed := tar.NewReader(unzipped); ; {
		header, err := packed.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(packed)
		if err != nil {
			t.Fatal(err)
		}
		if header.Mode != 0o644 || header.Typeflag != tar.TypeReg {
			t.Errorf("%s has mode %o and type %c", header.Name, header.Mode, header.Typeflag)
		}
		got[header.Name] = string(content)
	}
	if diff := cmp.Diff(files, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// The revision is what people are told to look for, so it changes with all that
// they must do again, and with nothing else.
func TestRevisionOfAServerElsewhere(t *testing.T) {
	revision := func(change func(*manifests.SettingsInput)) string {
		w := worlds["elsewhere"]
		s := w.obj().DeepCopy()
		in := manifests.SettingsInput{
			Server: s, NetworkMode: 3, Forbidden: w.forbidden, Permissions: w.permissions, SSH: told(true), Files: files, Options: options,
		}
		change(&in)
		return manifests.ForElsewhere(in).Revision
	}
	same := revision(func(*manifests.SettingsInput) {})
	for name, tc := range map[string]struct {
		change func(*manifests.SettingsInput)
		same   bool
	}{
		"network mode":  {change: func(in *manifests.SettingsInput) { in.NetworkMode = 1 }},
		"token":         {change: func(in *manifests.SettingsInput) { in.Options.TokenID = "other" }},
		"where it asks": {change: func(in *manifests.SettingsInput) { in.Server.Spec.PolicyPlugin.URL = "https://other.example.com" }},
		"permissions":   {change: func(in *manifests.SettingsInput) { in.Permissions = nil }},
		"a permission": {change: func(in *manifests.SettingsInput) {
			in.Permissions = map[string]bool{dstack.PermissionCreateProjects: true}
		}},
		"forbidden":            {change: func(in *manifests.SettingsInput) { in.Forbidden = nil }},
		"no SSH proxy":         {change: func(in *manifests.SettingsInput) { in.SSH = nil }},
		"not enforced":         {change: func(in *manifests.SettingsInput) { in.SSH = told(false) }},
		"the SSH proxy's":      {change: func(in *manifests.SettingsInput) { in.SSH.TokenID = "main/other" }},
		"image":                {change: func(in *manifests.SettingsInput) { in.Options.Image = "other" }, same: true},
		"plugin":               {change: func(in *manifests.SettingsInput) { in.Files = manifests.PluginFiles{"a": "b"} }, same: true},
		"where it is asked":    {change: func(in *manifests.SettingsInput) { in.Server.Spec.API.URL = "https://other.example.com" }, same: true},
		"policy server's pods": {change: func(in *manifests.SettingsInput) { in.Server.Spec.PolicyPlugin.Replicas = 7 }, same: true},
	} {
		if got := revision(tc.change); (got == same) != tc.same {
			t.Errorf("%s: the revision is the same: %t", name, got == same)
		}
	}
}

// No entry of the ConfigMap may hold a secret, whatever the server is told.
func TestShownVariablesNameSecretsOnly(t *testing.T) {
	data := decode[corev1.ConfigMap](t, worlds["elsewhere"].shown()).Data
	for _, line := range strings.Split(data[manifests.EnvKey], "\n") {
		name, _, found := strings.Cut(line, "=")
		if found && !strings.HasPrefix(line, "#") && strings.HasSuffix(name, "TOKEN") {
			t.Errorf("%s has a value", name)
		}
	}
}

// Only a server elsewhere opens the policy server's port to everybody.
func TestWhoMayAskThePolicyServer(t *testing.T) {
	ports := func(s *v1alpha1.DstackServer) []networkingv1.NetworkPolicyPeer {
		t.Helper()
		for _, o := range manifests.PolicyServer(s, nil, options) {
			if o.Kind == "NetworkPolicy" {
				return decode[networkingv1.NetworkPolicy](t, o.Config).Spec.Ingress[0].From
			}
		}
		t.Fatal("no NetworkPolicy")
		return nil
	}
	if got := ports(testkit.MakeServer("main").Obj()); len(got) != 2 {
		t.Errorf("in the cluster: got %v", got)
	}
	if got := ports(testkit.MakeServer("main").Elsewhere().Obj()); len(got) != 0 {
		t.Errorf("elsewhere: got %v", got)
	}
}

// docs/operations.md promises this to whoever puts a Service of their own in front
// of the policy servers. It stands here word by word: a constant or a golden file
// would follow a change that breaks those Services.
func TestWhatServicesOfUsersSelectStays(t *testing.T) {
	var pods corev1.PodTemplateSpec
	for _, o := range manifests.PolicyServer(testkit.MakeServer("other").Elsewhere().Obj(), &metav1.LabelSelector{}, options) {
		if o.Kind == "Deployment" {
			pods = decode[appsv1.Deployment](t, o.Config).Spec.Template
		}
	}
	for label, want := range map[string]string{
		"app.kubernetes.io/name":      "dstack-isolation",
		"app.kubernetes.io/component": "policy-server",
		"isolation.dstack.ai/server":  "other",
	} {
		if got := pods.Labels[label]; got != want {
			t.Errorf("label %s of the pods is %q, want %q", label, got, want)
		}
	}
	ports := map[string]int32{}
	for _, c := range pods.Spec.Containers {
		for _, p := range c.Ports {
			ports[p.Name] = p.ContainerPort
		}
	}
	if ports["decisions"] != 8080 {
		t.Errorf("the pods' ports are %v, want decisions at 8080", ports)
	}
}
