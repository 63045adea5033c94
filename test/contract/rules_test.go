package contract_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// ruleCase is a request about a rule of samples or docs; see
// internal/policy/testdata/rules.
type ruleCase struct {
	Dstack, Path string
	Submitted    struct{ Configuration, Profile json.RawMessage }
	Request      struct {
		User string
		Spec json.RawMessage
	}
	name    string
	allowed bool
}

func casesOfRule(rule string) []ruleCase {
	files, err := filepath.Glob(filepath.Join("..", "..", "internal", "policy", "testdata", "rules", rule, "*.json"))
	if err != nil || len(files) < 2 {
		panic(fmt.Sprintf("%d cases of rule %s: %v", len(files), rule, err))
	}
	var all []ruleCase
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			panic(err)
		}
		c := ruleCase{name: strings.TrimSuffix(filepath.Base(file), ".json")}
		if err := json.Unmarshal(content, &c); err != nil {
			panic(file + ": " + err.Error())
		}
		if c.allowed = strings.HasPrefix(c.name, "allow-"); c.Submitted.Configuration != nil { // offers are submitted elsewhere
			all = append(all, c)
		}
	}
	return all
}

func (c ruleCase) kind() dstack.ApplyKind {
	for _, kind := range dstack.ApplyKinds() {
		if dstack.ApplyPath(kind) == c.Path {
			return kind
		}
	}
	panic(c.name + ": no kind has the path " + c.Path)
}

// submit submits it as its user does.
func (c ruleCase) submit(s *dstackServer) answer {
	configuration, asker := c.Submitted.Configuration, s.members[c.Request.User]
	spec := specification{"configuration": configuration}
	if c.Submitted.Profile != nil {
		spec = spec.with("profile", c.Submitted.Profile)
	}
	switch c.kind() {
	case dstack.KindFleet:
		return postAs(asker, "fleets/get_plan", map[string]any{"spec": spec.with("profile", map[string]any{})})
	case dstack.KindVolume:
		return postAs(asker, "volumes/create", spec)
	case dstack.KindGateway: // for which one must be an administrator
		return postAs(s.admin, "gateways/create", spec)
	}
	return postAs(asker, "runs/get_plan", map[string]any{"max_offers": 1, "run_spec": spec.with("ssh_key_pub", plainKey)})
}

// specsOfRules submit what published rules allow and refuse.
func specsOfRules(r *release) {
	rules, err := testkit.PublishedRules("../..")
	if err != nil {
		panic(err)
	}
	for _, name := range slices.Sorted(maps.Keys(rules)) {
		It("decides by the rule of samples or docs as they say: "+name, func(ctx context.Context) {
			effective := r.world.serves(ctx, folderOfRule(rules[name]))
			DeferCleanup(func(ctx context.Context) { r.world.serves(ctx, "policy") })
			for _, server := range deliveries {
				for _, c := range casesOfRule(name) {
					By(fmt.Sprintf("%s, by %s", c.name, server))
					s := r.world.dstack[server]
					before := s.recorder.size()
					got := c.submit(s)
					recorded := s.recorder.recorded(before)
					if len(recorded) == 0 {
						Expect(r.version).NotTo(Equal(c.Dstack), got.String())
						continue // this release has no such configuration
					}
					body := recorded[0].body
					if server == withREST && c.Dstack == r.version {
						Expect(specOf(body)).To(MatchJSON(c.Request.Spec))
					}
					decision := decideBody(effective, c.kind(), body)
					Expect(decision.Allowed).To(Equal(c.allowed), decision.Message)
					if !c.allowed {
						Expect(got.message()).To(HaveSuffix(decision.Message))
					} else {
						Expect(got.message()).NotTo(ContainSubstring("[isolation rev="))
					}
				}
			}
		})
	}
}

// folderOfRule is a policy of one rule alone.
func folderOfRule(rule v1alpha1.Rule) string {
	GinkgoHelper()
	folder := GinkgoT().TempDir()
	server, err := os.ReadFile(filepath.Join("testdata", "policy", "server.yaml"))
	Expect(err).NotTo(HaveOccurred())
	profile, err := yaml.Marshal(v1alpha1.IsolationProfile{
		TypeMeta:   metav1.TypeMeta{APIVersion: v1alpha1.GroupVersion.String(), Kind: "IsolationProfile"},
		ObjectMeta: metav1.ObjectMeta{Namespace: "dstack", Name: "research"},
		Spec: v1alpha1.IsolationProfileSpec{
			ServerRef: v1alpha1.LocalObjectReference{Name: "main"},
			Projects:  v1alpha1.ProjectSelector{Include: []v1alpha1.ProjectPattern{"research-*"}},
			Level:     v1alpha1.LevelOpen,
			Rules:     []v1alpha1.Rule{rule},
		},
	})
	Expect(err).NotTo(HaveOccurred())
	Expect(os.WriteFile(filepath.Join(folder, "server.yaml"), server, 0o600)).To(Succeed())
	Expect(os.WriteFile(filepath.Join(folder, "profile.yaml"), profile, 0o600)).To(Succeed())
	return folder
}
