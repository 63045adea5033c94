package apply_test

import (
	"slices"
	"strings"

	"github.com/onsi/gomega/gcustom"
	"github.com/onsi/gomega/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

// BeOneOfOurs matches the path of a field that the operator may own in the
// user's workload: the key of the server's container, and items that bear our
// names.
func BeOneOfOurs() types.GomegaMatcher {
	const spec = ".spec.template.spec."
	server := spec + `containers[name="server"]`
	exact := []string{
		server, server + ".name",
		`.spec.template.metadata.annotations.` + workload.AnnotationSettings,
		`.spec.template.metadata.annotations.` + manifests.AnnotationTokenID,
		`.spec.template.metadata.labels.` + workload.LabelServerPod,
	}
	below := []string{
		spec + `initContainers[name="` + workload.InjectContainer + `"]`,
		spec + `volumes[name="` + manifests.ConfigVolume + `"]`,
		spec + `volumes[name="` + manifests.PluginVolume + `"]`,
		server + `.volumeMounts[mountPath="/root/.dstack/server/config.yml"]`,
		server + `.volumeMounts[mountPath="` + manifests.PluginDir + `"]`,
	}
	for _, name := range ourEnv {
		below = append(below, server+`.env[name="`+name+`"]`)
	}
	return gcustom.MakeMatcher(func(path string) (bool, error) {
		return slices.Contains(exact, path) || slices.ContainsFunc(below, func(p string) bool { return strings.HasPrefix(path, p) }), nil
	}).WithMessage("be a field of the operator's own")
}

func keyOf(s *server) client.ObjectKey {
	return client.ObjectKey{Namespace: s.ns, Name: testkit.WorkloadName}
}
