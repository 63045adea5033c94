package policy_test

import (
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/policy"
)

// TestAdministratorsGoOn: an administrator's own on-premises fleet is refused at
// Restricted as docs/exceptions.md shows it, and allowed by the exception that
// stands there and, as a comment, in the sample.
func TestAdministratorsGoOn(t *testing.T) {
	page := string(read(t, "../../docs", "exceptions.md"))
	text := regexp.MustCompile("(?s)```yaml\n( +exceptions:\n +- name: on-premises-fleets.*?)```").FindStringSubmatch(page)
	if text == nil {
		t.Fatal("docs/exceptions.md has no exception on-premises-fleets")
	}
	var shown struct{ Exceptions []v1alpha1.Exception }
	if err := yaml.UnmarshalStrict([]byte(text[1]), &shown); err != nil {
		t.Fatal(err)
	}
	sample := strings.ReplaceAll(string(read(t, "../../config/samples", "isolationprofile.yaml")), "\n  # ", "\n  ")
	for line := range strings.Lines(text[1]) {
		if !strings.Contains(sample, strings.TrimSpace(line)) {
			t.Errorf("the sample lacks %q", line)
		}
	}

	for _, c := range captures(t) {
		if c.Name != "fleet-ssh" {
			continue
		}
		req, err := policy.Parse(c.kind(t), c.Request)
		if err != nil {
			t.Fatal(err)
		}
		req.User = "admin"
		d := policy.Decide(effective(profile("research", v1alpha1.LevelRestricted)), policy.Running{}, req, noon)
		if refusal, _, _ := strings.Cut(d.Message, " [isolation"); d.Allowed || !strings.Contains(page, refusal) {
			t.Errorf("%s: the page does not show %q", c.Dstack, d.Message)
		}
		excepted := effective(profile("research", v1alpha1.LevelRestricted, func(s *spec) { s.Exceptions = shown.Exceptions }))
		if d := policy.Decide(excepted, policy.Running{}, req, noon); !d.Allowed {
			t.Errorf("%s, with the exception: %s", c.Dstack, d.Message)
		}
		req.User = "ada"
		if d := policy.Decide(excepted, policy.Running{}, req, noon); d.Allowed {
			t.Errorf("%s: the exception lets another user pass", c.Dstack)
		}
	}
}
