package docs

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/dstack-isolation/operator/internal/dstack"
)

// TestReadmeSaysWhatIsTested holds what is said of versions to what the tests and
// the code have.
func TestReadmeSaysWhatIsTested(t *testing.T) {
	oldest := found(t, "charts/dstack-isolation/Chart.yaml", `kubeVersion: ">=(\d+\.\d+)\.0-0"`)
	takes := fmt.Sprintf("Kubernetes %s or later, Helm 3 or 4", oldest)
	kubernetes := found(t, "hack/cluster/kubernetes/go.mod", `k8s\.io/kubernetes v(\d+\.\d+)\.`)
	helm3 := found(t, "test/helm/go.mod", `helm\.sh/helm/v3 v(\d+\.\d+)\.`)
	helm4 := found(t, "test/helm/go.mod", `helm\.sh/helm/v4 v(\d+\.\d+)\.`)
	tested := fmt.Sprintf("ested on Kubernetes %s, with Helm %s and %s", kubernetes, helm3, helm4)

	var releases []string
	for line := range strings.Lines(read(t, filepath.Join(root, "hack", "python", "releases"))) {
		if !strings.HasPrefix(line, "#") {
			releases = append(releases, strings.TrimSpace(line))
		}
	}
	last := len(releases) - 1
	for file, sentences := range map[string][]string{
		"README.md": {
			takes, tested,
			"dstack server " + dstack.FirstGuardedRelease + " or later",
			"with dstack " + strings.Join(releases[:last], ", ") + " and " + releases[last],
			"from " + dstack.OldestRelease + " on",
		},
		"charts/dstack-isolation/README.md": {takes, tested},
		"docs/conditions.md":                {"older than " + dstack.OldestRelease, "before " + dstack.FirstGuardedRelease},
		"docs/threat-model.md":              {"Below dstack " + dstack.FirstGuardedRelease, "below " + dstack.OldestRelease},
	} {
		text := strings.Join(strings.Fields(read(t, filepath.Join(root, file))), " ")
		for _, sentence := range sentences {
			if !strings.Contains(text, sentence) {
				t.Errorf("%s does not say %q", file, sentence)
			}
		}
	}
}

// found is what stands in a file where a pattern has its group.
func found(t *testing.T, file, pattern string) string {
	t.Helper()
	match := regexp.MustCompile(pattern).FindStringSubmatch(read(t, filepath.Join(root, file)))
	if match == nil {
		t.Fatalf("%s has nothing like %s", file, pattern)
	}
	return match[1]
}
