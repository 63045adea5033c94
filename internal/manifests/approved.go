package manifests

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"

	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// ApprovedName names the ConfigMap that keeps the settings that were approved last.
func ApprovedName(server string) string { return "isolation-approved-" + server }

const (
	// ApprovedKey is the key of the settings in that ConfigMap.
	ApprovedKey = "settings.json"
	// ApprovedSealKey is the key of their seal, which only the operator can make.
	ApprovedSealKey = "seal"
)

// kept is what is kept of an intent: all but the workload, whose version it would
// be bound to. It holds no secret, only references.
type kept struct {
	Container  string                               `json:"container"`
	Server     string                               `json:"server,omitempty"`
	Settings   []*corev1ac.EnvVarApplyConfiguration `json:"settings,omitempty"`
	Plugin     *PluginPart                          `json:"plugin,omitempty"`
	SSH        []*corev1ac.EnvVarApplyConfiguration `json:"ssh,omitempty"`
	SSHTokenID string                               `json:"sshTokenID,omitempty"`
	TokenID    string                               `json:"tokenID,omitempty"`
	Revision   string                               `json:"revision"`
}

// unpinned stands for the version of the operator in what is kept.
var unpinned = pin{image: "IMAGE", plugin: "PLUGIN"}

// Approved is the ConfigMap that keeps an intent, without the image and the version
// of the plugin. It is sealed with a secret of the operator's, so that nobody slips
// anything into pods who can write ConfigMaps.
func Approved(s *v1alpha1.DstackServer, i Intent, secret string) Object {
	i = i.pinned(unpinned)
	name := ApprovedName(s.Name)
	text := string(marshal(kept{i.Container, i.Server, i.Settings, i.Plugin, i.SSH, i.SSHTokenID, i.TokenID, i.Revision}))
	return Object{"ConfigMap", name, corev1ac.ConfigMap(name, s.Namespace).
		WithLabels(Labels(s)).
		WithData(map[string]string{ApprovedKey: text, ApprovedSealKey: seal(s, text, secret)})}
}

// seal is the digest of kept settings that needs a secret to be made.
func seal(s *v1alpha1.DstackServer, text, secret string) string {
	h := hmac.New(sha256.New, []byte(secret))
	fmt.Fprintf(h, "approved settings\x00%s\x00%s", s.UID, text)
	return hex.EncodeToString(h.Sum(nil))
}

// ReadApproved reads a kept intent, for the workload as it is now; image and plugin
// are those of the workload or of this build.
func ReadApproved(data map[string]string, in SettingsInput, secret string) (Intent, error) {
	text := data[ApprovedKey]
	if secret == "" || !hmac.Equal([]byte(data[ApprovedSealKey]), []byte(seal(in.Server, text, secret))) {
		return Intent{}, errors.New("the settings that were approved last do not bear the operator's seal")
	}
	var k kept
	if err := json.Unmarshal([]byte(text), &k); err != nil {
		return Intent{}, fmt.Errorf("the settings that were approved last cannot be read: %w", err)
	}
	i := Intent{
		Workload: in.Workload, Container: k.Container, Server: k.Server, Settings: k.Settings, Plugin: k.Plugin,
		SSH: k.SSH, SSHTokenID: k.SSHTokenID, TokenID: k.TokenID,
	}
	if i.Plugin == nil || i.Plugin.Init == nil || i.digest() != k.Revision {
		return Intent{}, errors.New("the settings that were approved last are not those of their revision")
	}
	i.Revision = k.Revision
	return i.pinned(in.version(i.Revision)), nil
}

// pinned is the intent with another version of the operator in it.
func (i Intent) pinned(version pin) Intent {
	if i.Plugin == nil {
		return i
	}
	var plugin PluginPart
	if err := json.Unmarshal(marshal(i.Plugin), &plugin); err != nil {
		panic("what was marshalled is read again: " + err.Error())
	}
	plugin.Init.WithImage(version.image)
	for n := range plugin.Volumes {
		if v := &plugin.Volumes[n]; *(*v).Name == PluginVolume && (*v).ConfigMap != nil {
			(*v).ConfigMap.WithName(version.plugin)
			(*v).ConfigMap.Items = nil
			(*v).ConfigMap.WithItems(version.items...)
		}
	}
	i.Plugin = &plugin
	return i
}

func marshal(v any) []byte {
	body, err := json.Marshal(v)
	if err != nil {
		panic("apply configurations always marshal: " + err.Error())
	}
	return body
}
