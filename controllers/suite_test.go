package controllers_test

import (
	"context"
	"testing"

	"github.com/go-logr/logr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/dstack-isolation/operator/controllers"
	"github.com/dstack-isolation/operator/internal/testkit"
)

var (
	api     *testkit.APIServer
	indexes = indexer{}
)

func TestControllers(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "controllers, on a real API server")
}

var _ = BeforeSuite(func() {
	ctrl.SetLogger(logr.Discard())
	api = testkit.StartAPIServer(GinkgoTB())
	Expect(controllers.SetupIndexes(context.Background(), indexes)).To(Succeed())
})

// indexer keeps the index functions that a cache would be given.
type indexer map[string]client.IndexerFunc

func (i indexer) IndexField(_ context.Context, _ client.Object, field string, f client.IndexerFunc) error {
	i[field] = f
	return nil
}

// indexed is a client that reads from the API server and yet knows the indexes,
// as a cache does: so that a test never waits for a cache.
func indexed(c client.WithWatch) client.WithWatch {
	return interceptor.NewClient(c, interceptor.Funcs{
		List: func(ctx context.Context, c client.WithWatch, list client.ObjectList, opts ...client.ListOption) error {
			var o client.ListOptions
			o.ApplyOptions(opts)
			if o.FieldSelector == nil {
				return c.List(ctx, list, opts...)
			}
			want := o.FieldSelector.Requirements()[0]
			o.FieldSelector = nil
			if err := c.List(ctx, list, &o); err != nil {
				return err
			}
			all, err := meta.ExtractList(list)
			if err != nil {
				return err
			}
			var found []runtime.Object
			for _, item := range all {
				for _, key := range indexes[want.Field](item.(client.Object)) {
					if key == want.Value {
						found = append(found, item)
					}
				}
			}
			return meta.SetList(list, found)
		},
	})
}
