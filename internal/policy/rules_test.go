package policy_test

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/policy"
	"github.com/dstack-isolation/operator/internal/testkit"
)

const (
	rulesDir  = "testdata/rules"
	rulesPage = "../../docs/rules.md"
)

// published are all rules that users are shown, in samples and docs.
func published(t *testing.T) map[string]v1alpha1.Rule {
	t.Helper()
	rules, err := testkit.PublishedRules("../..")
	if err != nil || len(rules) < 12 {
		t.Fatalf("found %d rules: %v", len(rules), err)
	}
	return rules
}

// TestPublishedRules decides by each rule that users are shown what dstack sends
// of runs that it is to allow and to refuse.
func TestPublishedRules(t *testing.T) {
	for name, rule := range published(t) {
		t.Run(name, func(t *testing.T) {
			eff := effective(profile("research", v1alpha1.LevelOpen, func(s *spec) { s.Rules = []v1alpha1.Rule{rule} }))
			if problems := eff.Profiles[0].Problems; len(problems) > 0 {
				t.Fatal(problems)
			}
			files, err := filepath.Glob(filepath.Join(rulesDir, name, "*.json"))
			if err != nil {
				t.Fatal(err)
			}
			seen := map[string]int{}
			for _, file := range files {
				verdict, _, _ := strings.Cut(filepath.Base(file), "-")
				seen[verdict]++
				d := policy.Decide(eff, policy.Running{NetworkMode: 3}, example(t, ".", file), noon)
				if want := verdict == "allow"; d.Allowed != want {
					t.Errorf("%s: allowed is %t: %s", file, d.Allowed, d.Message)
				}
				for _, reason := range d.Reasons {
					if reason.Cause != "" {
						t.Errorf("%s: the rule fails: %s", file, reason.Cause)
					}
				}
			}
			if seen["allow"] == 0 || seen["deny"] == 0 || len(seen) != 2 {
				t.Errorf("%s needs allow-….json and deny-….json, and has %v", filepath.Join(rulesDir, name), seen)
			}
		})
	}
}

// TestBodiesOfRulesAreOfPublishedRules finds folders that nothing decides.
func TestBodiesOfRulesAreOfPublishedRules(t *testing.T) {
	rules := published(t)
	entries, err := os.ReadDir(rulesDir)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if _, found := rules[entry.Name()]; entry.IsDir() && !found {
			t.Errorf("%s is no rule of samples or docs", entry.Name())
		}
	}
}

// TestPageShowsTheRefusal: the message on the page is the rule's.
func TestPageShowsTheRefusal(t *testing.T) {
	text := string(read(t, ".", rulesPage))
	shown := regexp.MustCompile(`(?m)^    (.*) \(profile dstack/research, rule (.*)\)\. \[isolation rev=[0-9a-f]{8}\]$`).FindAllStringSubmatch(text, -1)
	if len(shown) != 1 {
		t.Fatalf("%d refusals are shown", len(shown))
	}
	rule := published(t)[shown[0][2]]
	if want := rule.Message + ": " + rule.Hint; shown[0][1] != want {
		t.Errorf("shown is %q, want %q", shown[0][1], want)
	}
}

// TestGroupsOfOneRunAreCountedTogether: what no release sends at once is refused.
func TestGroupsOfOneRunAreCountedTogether(t *testing.T) {
	rule := published(t)["max-nodes"]
	p := profile("research", v1alpha1.LevelOpen, func(s *spec) { s.Rules = []v1alpha1.Rule{rule} })
	for more, want := range map[string]bool{
		``: true, `"nodes":4`: true, `"nodes":5`: false, `"nodes":null,"groups":null`: true,
		`"groups":[{"nodes":1},{"nodes":3}]`: true, `"groups":[{"nodes":2},{"nodes":3}]`: false, `"nodes":5,"groups":[{"nodes":1}]`: false,
	} {
		if d := decide(t, task(more), p); d.Allowed != want {
			t.Errorf("%s: allowed is %t, want %t: %s", more, d.Allowed, want, d.Message)
		}
	}
}
