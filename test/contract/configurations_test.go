package contract_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/internal/dstack"
)

const configurationDir = "testdata/configurations"

// submitted is a captured case as its user submits it: with the configuration
// of testdata/configurations instead of what dstack made of it. The rest, such
// as the public key of a run, is as it was captured: dstack's client fills it in.
type submitted struct {
	capture
	kind dstack.ApplyKind
}

// submissions are the cases of a release, or of the nearest one before it.
func submissions(release string) []submitted {
	var all []submitted
	for _, kind := range dstack.ApplyKinds() {
		for _, c := range captures(release, kind) {
			all = append(all, submitted{c, kind})
		}
	}
	return all
}

func (c submitted) configuration() json.RawMessage {
	GinkgoHelper()
	content, err := os.ReadFile(filepath.Join(configurationDir, c.Name+".yaml"))
	Expect(err).NotTo(HaveOccurred())
	configuration, err := yaml.YAMLToJSON(content)
	Expect(err).NotTo(HaveOccurred())
	return configuration
}

// submit sends it where dstack asks its plugins and, without a cloud, changes
// nothing. Volumes have no plan; they and gateways come no further than to the
// cloud that is missing.
func (c submitted) submit(s *dstackServer, project string) answer {
	GinkgoHelper()
	var spec specification
	Expect(json.Unmarshal(c.Request.Spec, &spec)).To(Succeed())
	spec["configuration"] = c.configuration()

	asker, path, body := s.members[member], "", map[string]any{}
	switch c.kind {
	case dstack.KindRun:
		path, body = "runs/get_plan", map[string]any{"max_offers": 1, "run_spec": spec}
	case dstack.KindFleet:
		path, body = "fleets/get_plan", map[string]any{"spec": spec}
	case dstack.KindVolume:
		path, body = "volumes/create", map[string]any{"configuration": spec["configuration"]}
	case dstack.KindGateway: // for which one must be an administrator
		asker, path, body = s.admin, "gateways/create", map[string]any{"configuration": spec["configuration"]}
	}
	got, err := asker.post("/api/project/"+project+"/"+path, body)
	Expect(err).NotTo(HaveOccurred())
	return got
}

// expectPassed holds that dstack went on after its plugins had nothing against it.
func (c submitted) expectPassed(got answer) {
	GinkgoHelper()
	switch c.kind {
	case dstack.KindVolume, dstack.KindGateway:
		Expect(got.message()).To(MatchRegexp("^Backend (aws|kubernetes) not available"))
	default:
		expectAcceptedByPolicy(got, c.capture)
	}
}

var _ = Describe("The users' configurations", func() {
	It("are those of all captured cases", func() {
		cases, err := filepath.Glob(filepath.Join(captureDir, "*", "*.json"))
		Expect(err).NotTo(HaveOccurred())
		names := map[string]bool{}
		for _, file := range cases {
			names[strings.TrimSuffix(filepath.Base(file), ".json")] = true
		}
		files, err := filepath.Glob(filepath.Join(configurationDir, "*.yaml"))
		Expect(err).NotTo(HaveOccurred())
		for _, file := range files {
			name := strings.TrimSuffix(filepath.Base(file), ".yaml")
			Expect(names).To(HaveKey(name), "no captured case has the configuration "+file)
			delete(names, name)
		}
		Expect(names).To(BeEmpty(), "captured cases without a configuration in "+configurationDir)
	})
})
