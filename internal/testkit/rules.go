package testkit

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// PublishedRules are all rules that users are shown, by name: those of the
// samples, and those of docs/rules.md. root is the folder of the repository.
func PublishedRules(root string) (map[string]v1alpha1.Rule, error) {
	folder := filepath.Join(root, "config", "samples")
	profiles, err := filepath.Glob(filepath.Join(folder, "isolationprofile*.yaml"))
	files, wrong := filepath.Glob(filepath.Join(folder, "rules", "*.yaml"))
	if err := errors.Join(err, wrong); err != nil || len(profiles) == 0 || len(files) == 0 {
		return nil, errors.Join(fmt.Errorf("%d profiles and %d samples of rules in %s", len(profiles), len(files), root), err)
	}
	var all []v1alpha1.Rule
	for _, file := range slices.Concat(profiles, files) {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var sample v1alpha1.IsolationProfile
		if err := yaml.UnmarshalStrict(text, &sample); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, sample.Spec.Rules...)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "rules.md"))
	if err != nil {
		return nil, err
	}
	onPage, err := rulesOnPage(string(page))
	if err != nil {
		return nil, fmt.Errorf("docs/rules.md: %w", err)
	}
	byName := map[string]v1alpha1.Rule{}
	for _, rule := range append(all, onPage...) {
		if _, twice := byName[rule.Name]; twice {
			return nil, fmt.Errorf("two rules have the name %s", rule.Name)
		}
		byName[rule.Name] = rule
	}
	return byName, nil
}

var (
	fencedBlock = regexp.MustCompile("(?ms)^ *```(\\w+)\n(.*?)^ *```$")
	nameOfRule  = regexp.MustCompile(`^ *// ([a-z-]+): `)
)

// rulesOnPage are the rules of profiles in YAML, and expressions, each of which
// has a name in the comment of its first line.
func rulesOnPage(text string) ([]v1alpha1.Rule, error) {
	var all []v1alpha1.Rule
	blocks := fencedBlock.FindAllStringSubmatch(text, -1)
	for _, block := range blocks {
		switch language, content := block[1], block[2]; language {
		case "yaml":
			var profile struct{ Spec v1alpha1.IsolationProfileSpec }
			if err := yaml.Unmarshal([]byte(content), &profile); err != nil {
				return nil, fmt.Errorf("%w in\n%s", err, content)
			}
			all = append(all, profile.Spec.Rules...)
		case "cel":
			name := nameOfRule.FindStringSubmatch(content)
			if name == nil {
				return nil, fmt.Errorf("the first line must be a comment // NAME: WHAT in\n%s", content)
			}
			all = append(all, v1alpha1.Rule{
				Name: name[1], Kind: v1alpha1.RuleKindRun, Expression: content, Message: "rule " + name[1] + " of the docs",
			})
		default:
			return nil, fmt.Errorf("nothing is known of %s, use yaml or cel", language)
		}
	}
	if fences := strings.Count(text, "```") / 2; fences != len(blocks) {
		return nil, fmt.Errorf("%d of %d fenced blocks can be read", len(blocks), fences)
	}
	return all, nil
}
