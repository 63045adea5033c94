// Package api_test holds the API to its word on a real API server: defaults,
// validation with its whole messages, and what kubectl shows.
package api_test

import (
	"context"
	"strings"
	"testing"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/testkit"
)

const (
	serverKind  = "DstackServer"
	profileKind = "IsolationProfile"
)

var (
	api       *testkit.APIServer
	namespace string
)

func TestAPI(t *testing.T) {
	RegisterFailHandler(Fail)
	RunSpecs(t, "API")
}

var _ = BeforeSuite(func() {
	api = testkit.StartAPIServer(GinkgoTB())
	namespace = api.Namespace(GinkgoTB())
})

// fields are changes of an object, by dotted path. The value removed takes a
// field away.
type fields map[string]any

type removal struct{}

var removed = removal{}

// minimal is the least that a user must write.
func minimal(kind string) map[string]any {
	if kind == serverKind {
		return map[string]any{
			"workload":          map[string]any{"kind": "Deployment", "name": "dstack-server"},
			"unmatchedProjects": map[string]any{"level": "Restricted", "enforcement": "Enforce"},
		}
	}
	return map[string]any{
		"serverRef": map[string]any{"name": "main"},
		"projects":  map[string]any{"include": []any{"research-*"}},
		"level":     "Restricted",
	}
}

// object is the minimal object of a kind with some fields changed.
func object(kind string, changed fields) *unstructured.Unstructured {
	GinkgoHelper()
	o := &unstructured.Unstructured{Object: map[string]any{"spec": minimal(kind)}}
	o.SetGroupVersionKind(v1alpha1.GroupVersion.WithKind(kind))
	o.SetNamespace(namespace)
	o.SetName("main")
	change(o, changed)
	return o
}

func change(o *unstructured.Unstructured, changed fields) {
	GinkgoHelper()
	for path, value := range changed {
		parts := strings.Split(path, ".")
		if value == removed {
			unstructured.RemoveNestedField(o.Object, parts...)
			continue
		}
		Expect(unstructured.SetNestedField(o.Object, runtime.DeepCopyJSONValue(value), parts...)).To(Succeed())
	}
}

// create creates an object and deletes it when the spec is over.
func create(ctx context.Context, o *unstructured.Unstructured) error {
	err := api.Client.Create(ctx, o, client.FieldValidation("Strict"))
	if err == nil {
		DeferCleanup(func(ctx context.Context) { Expect(client.IgnoreNotFound(api.Client.Delete(ctx, o))).To(Succeed()) })
	}
	return err
}

// try creates an object without keeping it.
func try(ctx context.Context, o *unstructured.Unstructured) error {
	return api.Client.Create(ctx, o, client.DryRunAll, client.FieldValidation("Strict"))
}

// strs is a list of n strings.
func strs(n int, text func(i int) string) []any {
	out := make([]any, n)
	for i := range out {
		out[i] = text(i)
	}
	return out
}
