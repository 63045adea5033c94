package helm_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/test/sharing"
)

const (
	// operator is the name of a release of the operator's own chart.
	operator     = "dstack-isolation"
	definition   = "CustomResourceDefinition"
	operatorsDir = "../../charts/dstack-isolation"
	image        = "registry.example.com/platform/dstack-isolation:"
)

// No pods run here: that the operator works once it is installed, and that it gives
// everything back before it is uninstalled, is shown end to end.
var _ = Describe("The operator's own chart", func() {
	for _, way := range ways {
		It("is installed, upgraded with the values that it has, uninstalled, and installed again, by "+way.name, func(ctx context.Context) {
			removeDefinitions(ctx)
			w := sharing.New(api, v1alpha1.WorkloadDeployment)
			h := way.make(w)

			objects := h.installOperator(operatorValues())
			for _, kind := range []string{definition, "Deployment", "NetworkPolicy", "Role", "RoleBinding", "ServiceAccount"} {
				Expect(objects).To(ContainElement(HaveField("GetKind()", kind)))
			}
			expectThere(ctx, objects)
			Expect(managerImage(ctx, w)).To(Equal(image + "0.1.0"))
			server := testkit.MakeServer("main").Namespace(w.Namespace).Obj()
			Eventually(api.Client.Create).WithArguments(ctx, server).WithTimeout(time.Minute).Should(Succeed(), "the API server must know the kinds")

			By("an upgrade to another image")
			expectThere(ctx, h.upgradeOperator(map[string]any{"image": map[string]any{"tag": "0.2.0"}}))
			Expect(managerImage(ctx, w)).To(Equal(image + "0.2.0"))

			By("an uninstall, which keeps the kinds and the user's objects")
			h.uninstallOperator()
			for _, o := range objects {
				err := api.Client.Get(ctx, client.ObjectKeyFromObject(o), o.DeepCopy())
				if o.GetKind() == definition {
					Expect(err).NotTo(HaveOccurred())
				} else {
					Expect(err).To(Satisfy(apierrors.IsNotFound), o.GetKind())
				}
			}
			Expect(api.Client.Get(ctx, client.ObjectKeyFromObject(server), server)).To(Succeed())

			By("an install by the same name")
			expectThere(ctx, h.installOperator(operatorValues()))
		})
	}
})

// operatorValues are the least that an install needs, and the kinds.
func operatorValues() map[string]any {
	GinkgoHelper()
	raw, err := os.ReadFile(filepath.Join(operatorsDir, "ci", "default-values.yaml"))
	Expect(err).NotTo(HaveOccurred())
	values := map[string]any{}
	Expect(yaml.Unmarshal(raw, &values)).To(Succeed())
	values["crds"] = map[string]any{"enabled": true}
	return values
}

// objectsOf reads what Helm has rendered, each object in its namespace.
func objectsOf(manifest, namespace string) []*unstructured.Unstructured {
	GinkgoHelper()
	var objects []*unstructured.Unstructured
	for _, document := range strings.Split("\n"+manifest, "\n---") {
		o := &unstructured.Unstructured{}
		Expect(yaml.Unmarshal([]byte(document), &o.Object)).To(Succeed())
		if len(o.Object) == 0 {
			continue
		}
		if o.GetKind() != definition {
			Expect(o.GetNamespace()).To(Equal(namespace), "%s %s", o.GetKind(), o.GetName())
		}
		objects = append(objects, o)
	}
	return objects
}

func expectThere(ctx context.Context, objects []*unstructured.Unstructured) {
	GinkgoHelper()
	for _, o := range objects {
		Expect(api.Client.Get(ctx, client.ObjectKeyFromObject(o), o.DeepCopy())).To(Succeed())
	}
}

// managerImage is that of the one Deployment of the chart.
func managerImage(ctx context.Context, w *sharing.Workload) string {
	GinkgoHelper()
	var list appsv1.DeploymentList
	Expect(api.Client.List(ctx, &list, client.InNamespace(w.Namespace))).To(Succeed())
	Expect(list.Items).To(HaveLen(1))
	return list.Items[0].Spec.Template.Spec.Containers[0].Image
}

// removeDefinitions makes the API server as it is before anybody has installed the
// operator: those of the tests, or of the release before, belong to no new one.
func removeDefinitions(ctx context.Context) {
	GinkgoHelper()
	for _, name := range []string{"dstackservers.isolation.dstack.ai", "isolationprofiles.isolation.dstack.ai"} {
		o := &unstructured.Unstructured{}
		o.SetAPIVersion("apiextensions.k8s.io/v1")
		o.SetKind(definition)
		o.SetName(name)
		Expect(client.IgnoreNotFound(api.Client.Delete(ctx, o))).To(Succeed())
		Eventually(func() error { return api.Client.Get(ctx, client.ObjectKeyFromObject(o), o.DeepCopy()) }).
			WithTimeout(time.Minute).Should(Satisfy(apierrors.IsNotFound))
	}
}
