package sharing_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/test/sharing"
)

var (
	api        *testkit.APIServer
	kubeconfig string
	kinds      = []v1alpha1.WorkloadKind{v1alpha1.WorkloadDeployment, v1alpha1.WorkloadStatefulSet}
)

func TestSharing(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "a workload shared with kubectl")
}

var _ = BeforeSuite(func() {
	api = testkit.StartAPIServer(GinkgoTB())
	kubeconfig = sharing.Kubeconfig(api.Config)
})

// output is what a command has printed.
type output struct {
	out, err string
	exit     int
}

// kubectl runs the real one on the namespace of a workload.
func kubectl(w *sharing.Workload, stdin *unstructured.Unstructured, args ...string) output {
	GinkgoHelper()
	args = append([]string{"--kubeconfig", kubeconfig, "--namespace", w.Namespace}, args...)
	cmd := exec.CommandContext(context.Background(), filepath.Join(os.Getenv("KUBEBUILDER_ASSETS"), "kubectl"), args...)
	// No preferences, caches or diff programs of whoever runs the tests.
	cmd.Env = []string{"HOME=" + filepath.Dir(kubeconfig), "PATH=" + os.Getenv("PATH")}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if stdin != nil {
		cmd.Stdin = strings.NewReader(sharing.YAML(stdin))
	}
	err := cmd.Run()
	Expect(cmd.ProcessState).NotTo(BeNil(), "kubectl must run: %v", err)
	return output{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// resource is the workload as kubectl names it in what it prints.
func resource(w *sharing.Workload) string {
	return strings.ToLower(string(w.Kind)) + ".apps/" + testkit.WorkloadName
}

// says is what kubectl prints of a success.
func says(w *sharing.Workload, verb string) output {
	return output{out: resource(w) + " " + verb + "\n"}
}
