package policy_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
)

// hostileObjects ask for what is denied to fleets, volumes and gateways.
var hostileObjects = []string{
	fleet(`"env":{"\u0044STACK_DOCKER_PRIVILEGED":"1","HTTP_PROXY":"a\"\nB=\"c"}`),
	fleet(sshConfig(`,{"hostname":"a","blocks":1e0,"proxy_jump":{"ssh_key":{"private":{"docker":1}}}}`)),
	fleet(`"blocks":"auto","ssh_config":{},"env":{"Http_Proxy":{"key":"x"}},"Ssh_config":null`),
	fleetWithProfile(`"backends":["aws"],"tags":{"privileged":"1"}`, `"backends":[],"tags":{}`),
	fleetWithProfile(`"instances":[{"fleet":{"privileged":true}}]`, `"backends":["aws"],"resources":{"cpu":[{"x":[{"docker":true}]}]}`),
	`{"privileged":true,` + fleet(`"backends":["aws"]`)[1:],
	volume(`"backend":"aws","volume_id":"","claim_name":[]`),
	volume(`"backend":"aws","storage_class_name":""`),
	volume(`"backend":"later","name":{"privileged":1}`),
	gateway(`"backend":"AWS","certificate":{"type":"x","docker":"1"},"tags":{"docker":"x"}`),
}

// FuzzDecideKinds looks for a fleet, a volume or a gateway that is allowed
// although another reader finds in it what the profile denies. Decisions do not
// depend on the order of keys.
func FuzzDecideKinds(f *testing.F) {
	for _, c := range captures(f) {
		var body struct{ Spec json.RawMessage }
		if err := json.Unmarshal(c.Request, &body); err != nil {
			f.Fatal(err)
		}
		if c.kind(f) != dstack.KindRun {
			f.Add([]byte(body.Spec))
		}
	}
	for _, spec := range hostileObjects {
		f.Add([]byte(spec))
	}
	profiles := []v1alpha1.IsolationProfile{profile("research", v1alpha1.LevelRestricted, strict)}
	f.Fuzz(func(t *testing.T, spec []byte) {
		for _, kind := range []dstack.ApplyKind{dstack.KindFleet, dstack.KindVolume, dstack.KindGateway} {
			d := decideKind(t, kind, string(spec), profiles...)
			if slices.Contains(fields(d.Reasons), "spec spec") {
				continue // not readable, and so refused
			}
			value := looseRead(t, spec)
			if d.Allowed {
				if found := deniedToKind(kind, value); found != "" {
					t.Errorf("%s allowed although %s", kind, found)
				}
			}
			if len(d.Reasons) > 200 {
				continue
			}
			sorted, err := json.Marshal(value)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(d, decideKind(t, kind, string(sorted), profiles...)); diff != "" {
				t.Errorf("the order of keys matters:\n%s", diff)
			}
		}
	})
}

// deniedToKind looks for what strict denies, in the plainest way.
func deniedToKind(kind dstack.ApplyKind, spec any) string {
	object, _ := spec.(map[string]any)
	configuration, isObject := object["configuration"].(map[string]any)
	profile, _ := object["profile"].(map[string]any)
	switch {
	case !isObject || configuration["type"] != string(kind):
		return "it is of another type"
	case !isEmpty(configuration["tags"]) || kind == dstack.KindFleet && !isEmpty(profile["tags"]):
		return "it has tags"
	}
	delete(configuration, "tags")
	if kind == dstack.KindFleet {
		if found := deniedToFleet(configuration, profile); found != "" {
			return found
		}
		delete(configuration, "env")
		delete(profile, "tags")
	} else {
		backend, _ := configuration["backend"].(string)
		switch {
		case !slices.Contains([]string{"aws", "remote", "gcp"}, backend):
			return "its backend is another"
		case kind == dstack.KindVolume && (configuration["volume_id"] != nil || configuration["claim_name"] != nil ||
			configuration["storage_class_name"] != nil || backend == "remote"):
			return "it exists already"
		}
	}
	return deniedAnywhere(object)
}

func deniedToFleet(configuration, profile map[string]any) string {
	backends := configuration["backends"]
	if backends == nil {
		backends = profile["backends"]
	}
	named, _ := backends.([]any)
	isOther := func(name any) bool { return name != "aws" && name != "gcp" && name != "remote" }
	switch blocks := configuration["blocks"]; {
	case configuration["ssh_config"] != nil:
		return "it has hosts"
	case blocks != nil && blocks != json.Number("1"):
		return "it has blocks"
	case len(named) == 0 || slices.ContainsFunc(named, isOther):
		return "it may use another backend"
	}
	env, _ := configuration["env"].(map[string]any)
	for name, value := range env {
		text, isText := value.(string)
		plain := isText && !strings.ContainsAny(text, "\"\\`$\n\r\x00")
		upper := strings.ToUpper(name)
		isProxy := upper == "HTTP_PROXY" || upper == "HTTPS_PROXY" || upper == "NO_PROXY"
		if !plain || !isProxy || name != upper && name != strings.ToLower(upper) {
			return "it sets " + name
		}
	}
	return ""
}

func isEmpty(value any) bool {
	object, isObject := value.(map[string]any)
	return value == nil || isObject && len(object) == 0
}

// deniedAnywhere looks for keys that are denied in every place.
func deniedAnywhere(value any) string {
	switch v := value.(type) {
	case []any:
		for _, x := range v {
			if found := deniedAnywhere(x); found != "" {
				return found
			}
		}
	case map[string]any:
		for key, x := range v {
			set := x != nil && x != false
			if set && (key == "privileged" || key == "docker") || key == "instance_path" {
				return key + " is set"
			}
			if found := deniedAnywhere(x); found != "" {
				return found
			}
		}
	}
	return ""
}
