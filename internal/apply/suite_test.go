package apply_test

import (
	"context"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/dstack-isolation/operator/internal/testkit"
)

var api *testkit.APIServer

func TestApply(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "apply, on a real API server")
}

var _ = BeforeSuite(func() { api = testkit.StartAPIServer(GinkgoTB()) })

// applies counts the applies that a client sends.
type applies struct{ all, dry int }

// written are the applies that may write.
func (a *applies) written() int { return a.all - a.dry }

// counting is the suite's client, which counts.
func counting(n *applies) client.Client {
	return interceptor.NewClient(api.Client, interceptor.Funcs{
		Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
			var options client.ApplyOptions
			options.ApplyOptions(opts)
			n.all++
			if len(options.DryRun) > 0 {
				n.dry++
			}
			return c.Apply(ctx, o, opts...)
		},
	})
}
