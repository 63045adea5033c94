package policy_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/policy"
)

const samples = "../../config/samples/rules"

// sampleCase is a captured body, perhaps with something else in it, and the
// rules of a sample that refuse it.
type sampleCase struct {
	captured string
	// set are fields of the configuration, inGroups of each of its groups, and
	// profile of the profile.
	set, inGroups, profile map[string]any
	user                   string
	refused                []string
}

type values = map[string]any

func gpus(least, most any, name any) map[string]any {
	return values{"resources": values{"gpu": values{"name": name, "count": values{"min": least, "max": most}}}}
}

func with(fields values, key string, value any) map[string]any {
	fields[key] = value
	return fields
}

var sampleCases = map[string][]sampleCase{
	"max-duration.yaml": {
		{captured: "task-plain", refused: []string{"max-duration"}},
		{captured: "task-plain", set: values{"max_duration": 3600}},
		{captured: "task-plain", set: values{"max_duration": 86400}},
		{captured: "task-plain", set: values{"max_duration": 86401}, refused: []string{"max-duration"}},
		{captured: "task-plain", set: values{"max_duration": "off"}, refused: []string{"max-duration"}},
		{captured: "task-plain", profile: values{"max_duration": 60}},
		{captured: "task-plain", profile: values{"max_duration": nil}, refused: []string{"max-duration"}},
		{captured: "task-plain", set: values{"max_duration": 0}, refused: []string{"max-duration"}},
		{captured: "task-plain", set: values{"max_duration": -1}, refused: []string{"max-duration"}},
		{captured: "task-plain", set: values{"max_duration": 3600.5}, refused: []string{"max-duration"}},
		{captured: "task-plain", profile: values{"max_duration": 0}, refused: []string{"max-duration"}},
		{captured: "task-plain", profile: values{"max_duration": "off"}, refused: []string{"max-duration"}},
		{captured: "task-plain", profile: values{"max_duration": "off"}, set: values{"max_duration": 3600}},
		{captured: "task-plain", profile: values{"max_duration": 60}, set: values{"max_duration": 0}, refused: []string{"max-duration"}},
		{captured: "service-groups-clean", profile: values{"max_duration": 60}, set: values{"max_duration": "off"}, refused: []string{"max-duration"}},
		{captured: "fleet-cloud-plain"},
	},
	"reservation.yaml": {
		{captured: "task-plain"},
		{captured: "service-groups-clean"},
		{captured: "task-plain", set: values{"reservation": "cr-research"}},
		{captured: "task-plain", set: values{"reservation": "cr-others"}, refused: []string{"reservation"}},
		{captured: "task-plain", profile: values{"reservation": "cr-others"}, refused: []string{"reservation"}},
		{captured: "service-groups-clean", inGroups: values{"reservation": "cr-research"}},
		{captured: "service-groups-clean", inGroups: values{"reservation": "cr-others"}, refused: []string{"reservation"}},
		{captured: "task-groups-two-times-one", inGroups: values{"reservation": "cr-others"}, refused: []string{"reservation"}},
		{captured: "fleet-cloud-plain"},
		{captured: "fleet-cloud-plain", set: values{"reservation": "cr-others"}, refused: []string{"fleet-reservation"}},
	},
	"gpu.yaml": {
		{captured: "task-plain", refused: []string{"gpu-count", "gpu-model"}},
		{captured: "dev-plain", refused: []string{"gpu-count", "gpu-model"}},
		{captured: "service-groups-clean", refused: []string{"gpu-count", "gpu-model"}},
		{captured: "task-resources", refused: []string{"gpu-count", "gpu-model"}},
		{captured: "task-plain", set: gpus(0, 0, nil)},
		{captured: "task-plain", set: gpus(1, 4, []string{"A100"})},
		{captured: "task-plain", set: gpus(0, 4, []string{"A100"})},
		{captured: "task-plain", set: gpus(0, nil, []string{"A100"}), refused: []string{"gpu-count"}},
		{captured: "task-plain", set: with(gpus(0, nil, nil), "instance_types", []string{"x8"}), refused: []string{"gpu-count", "gpu-model"}},
		{captured: "task-plain", set: gpus(1, nil, []string{"A100", "l40s"}), refused: []string{"gpu-count"}},
		{captured: "task-plain", set: gpus(4, 4, []string{"H100"}), refused: []string{"gpu-model"}},
		{captured: "task-plain", set: gpus(1, 1, nil), refused: []string{"gpu-model"}},
		{captured: "task-plain", set: gpus(1, 1, []string{}), refused: []string{"gpu-model"}},
		{captured: "task-plain", set: values{"resources": values{"gpu": nil}}, refused: []string{"gpu-count", "gpu-model"}},
		{captured: "task-plain", set: values{"resources": nil}, refused: []string{"gpu-count", "gpu-model"}},
		{captured: "service-groups-clean", set: gpus(1, 8, []string{"H100"}), inGroups: gpus(1, 4, []string{"A100"}), refused: []string{"gpu-count", "gpu-model"}}, // in the second group
	},
	"user.yaml": {
		{captured: "task-plain"},
		{captured: "dev-plain", refused: []string{"dev-environments"}},
		{captured: "dev-plain", user: "grace"},
		{captured: "dev-plain", user: "Grace", refused: []string{"dev-environments"}},
	},
	"gateway.yaml": {
		{captured: "task-plain"},
		{captured: "gateway-new", refused: []string{"gateway-domain"}},
		{captured: "gateway-new", set: values{"domain": "research.example.com"}},
		{captured: "gateway-new", set: values{"domain": "a.research.example.com"}},
		{captured: "gateway-new", set: values{"domain": "xresearch.example.com"}, refused: []string{"gateway-domain"}},
		{captured: "gateway-new", set: values{"domain": nil}, refused: []string{"gateway-domain"}},
		{captured: "service-gateway-true", refused: []string{"service-gateway"}},
		{captured: "service-gateway-true", set: values{"gateway": "research-gateway"}},
		{captured: "service-gateway-true", set: values{"gateway": values{"project": nil, "name": "research-gateway"}}},
		{captured: "service-gateway-true", set: values{"gateway": values{"name": "research-gateway"}}},
		{captured: "service-gateway-true", set: values{"gateway": values{"project": "research-nlp", "name": "research-gateway"}}},
		{captured: "service-gateway-true", set: values{"gateway": values{"project": "others", "name": "research-gateway"}}, refused: []string{"service-gateway"}},
		{captured: "service-gateway-true", set: values{"gateway": values{"project": nil, "name": "other"}}, refused: []string{"service-gateway"}},
		{captured: "service-gateway-true", set: values{"gateway": "others/research-gateway"}, refused: []string{"service-gateway"}},
		{captured: "service-gateway-true", set: values{"gateway": nil}, refused: []string{"service-gateway"}},
		{captured: "service-gateway-true", set: values{"gateway": false}, refused: []string{"service-gateway"}},
	},
	"volume-size.yaml": {
		{captured: "volume-new"},
		{captured: "volume-new", set: values{"size": 500.5}, refused: []string{"volume-size"}},
		{captured: "volume-new", set: values{"size": nil}, refused: []string{"volume-size"}},
		{captured: "volume-existing-id", refused: []string{"volume-size"}},
		{captured: "task-plain"},
	},
}

// TestSamples decides what every release sends by each sample of rules, under a
// level that denies nothing else.
func TestSamples(t *testing.T) {
	files, err := filepath.Glob(samples + "/*.yaml")
	if err != nil || len(files) != len(sampleCases) {
		t.Fatalf("%d samples, %d of them tested: %v", len(files), len(sampleCases), err)
	}
	for file, cases := range sampleCases {
		data, err := os.ReadFile(filepath.Join(samples, file))
		if err != nil {
			t.Fatal(err)
		}
		var sample v1alpha1.IsolationProfile
		if err := yaml.UnmarshalStrict(data, &sample); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		sample.Namespace, sample.Spec.Level = "dstack", v1alpha1.LevelOpen
		eff := effective(sample)
		if problems := eff.Profiles[0].Problems; len(problems) > 0 {
			t.Fatalf("%s: %v", file, problems)
		}
		refusing := map[string]bool{}
		for _, sc := range cases {
			found := 0
			for _, c := range captures(t) {
				if c.Name != sc.captured {
					continue
				}
				found++
				req := sc.request(t, c)
				d := policy.Decide(eff, policy.Running{NetworkMode: 3}, req, noon)
				var want []string
				for _, rule := range sc.refused {
					want = append(want, "rules/"+rule)
					refusing[rule] = true
				}
				if diff := cmp.Diff(want, controlsOf(d.Reasons)); diff != "" {
					t.Errorf("%s, %s of %s with %v %v %v (-want +got):\n%s%s", file, c.Name, c.Dstack, sc.set, sc.inGroups, sc.profile, diff, d.Message)
				}
			}
			if found == 0 {
				t.Errorf("%s: no captured case %s", file, sc.captured)
			}
		}
		if len(refusing) != len(sample.Spec.Rules) {
			t.Errorf("%s: %d rules, of which %d refuse something here", file, len(sample.Spec.Rules), len(refusing))
		}
	}
}

// request is the captured request with what the case sets.
func (sc sampleCase) request(t *testing.T, c capture) *policy.Request {
	t.Helper()
	req, err := policy.Parse(c.kind(t), c.Request)
	if err != nil {
		t.Fatal(err)
	}
	if sc.user != "" {
		req.User = sc.user
	}
	var spec values
	if err := json.Unmarshal(req.Spec, &spec); err != nil {
		t.Fatal(err)
	}
	configuration := spec["configuration"].(values)
	put(configuration, sc.set)
	for _, key := range []string{"groups", "replicas"} {
		groups, _ := configuration[key].([]any)
		for _, group := range groups[:min(1, len(groups))] {
			put(group.(values), sc.inGroups)
		}
	}
	if sc.profile != nil {
		profile, _ := spec["profile"].(values)
		if profile == nil {
			profile = values{"name": "default"}
		}
		put(profile, sc.profile)
		spec["profile"] = profile
	}
	if req.Spec, err = json.Marshal(spec); err != nil {
		t.Fatal(err)
	}
	return req
}

// put sets fields, and with an object those in it.
func put(into, fields values) {
	for key, value := range fields {
		inner, isObject := value.(values)
		if there, has := into[key].(values); has && isObject {
			put(there, inner)
			continue
		}
		into[key] = value
	}
}
