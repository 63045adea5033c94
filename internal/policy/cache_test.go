package policy_test

import (
	"os"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// TestSampleOfACache: the project's directory can be mounted, and nothing that a
// link in it could lead to.
func TestSampleOfACache(t *testing.T) {
	var sample v1alpha1.IsolationProfile
	if err := yaml.UnmarshalStrict(read(t, "../../config/samples", "isolationprofile-cache.yaml"), &sample); err != nil {
		t.Fatal(err)
	}
	sample.Namespace = "dstack"
	docs, err := os.ReadFile("../../docs/controls.md")
	if err != nil {
		t.Fatal(err)
	}
	const mount = "/var/cache/dstack/research-nlp:/root/.cache"
	if !strings.Contains(string(docs), `volumes: ["`+mount+`"]`) {
		t.Errorf("docs/controls.md does not show the mount %s", mount)
	}
	const only = ` (profile dstack/research-cache, rule cache-only). Ask #gpu-platform. [isolation rev=`
	for path, want := range map[string]string{
		"/var/cache/dstack/research-nlp":   "",
		"/var/cache/dstack/research-nlp/a": "directories in the cache cannot be mounted: mount /var/cache/dstack/research-nlp itself" + only,
		"/root/.cache": `instance volume "/root/.cache" is not allowed in project "research-nlp": mount only what is in "/var/cache/dstack/research-nlp"` +
			` (profile dstack/research-cache, control instanceVolumes). Directories in the cache cannot be mounted: mount /var/cache/dstack/research-nlp itself` + only,
	} {
		spec := task(`"volumes":[{"name":"data","path":"/data"},{"instance_path":"` + path + `","path":"/root/.cache","optional":false}]`)
		d := decide(t, spec, sample)
		if d.Allowed != (want == "") || !strings.HasPrefix(d.Message, want) {
			t.Errorf("%s: got  %s\nwant %s", path, d.Message, want)
		}
	}
	for _, spec := range []string{task(""), task(`"volumes":null`), task(`"volumes":[]`)} {
		if d := decide(t, spec, sample); !d.Allowed {
			t.Errorf("%s: %s", spec, d.Message)
		}
	}
}
