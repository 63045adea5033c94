package api_test

import (
	"context"
	"fmt"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/testkit"
)

var _ = Describe("What kubectl shows", func() {
	It("finds both kinds by short name and by category", func() {
		found, err := discovery.NewDiscoveryClientForConfigOrDie(api.Config).ServerResourcesForGroupVersion(v1alpha1.GroupVersion.String())
		Expect(err).NotTo(HaveOccurred())
		short := map[string][]string{}
		for _, r := range found.APIResources {
			if strings.Contains(r.Name, "/") {
				continue
			}
			Expect(r.Namespaced).To(BeTrue(), r.Name)
			Expect(r.Categories).To(Equal([]string{"dstack"}), r.Name)
			short[r.Name] = r.ShortNames
		}
		Expect(short).To(Equal(map[string][]string{"dstackservers": {"dsrv"}, "isolationprofiles": {"isop"}}))
	})

	It("gives both kinds a status subresource", func() {
		found, err := discovery.NewDiscoveryClientForConfigOrDie(api.Config).ServerResourcesForGroupVersion(v1alpha1.GroupVersion.String())
		Expect(err).NotTo(HaveOccurred())
		var names []string
		for _, r := range found.APIResources {
			names = append(names, r.Name)
		}
		Expect(names).To(ConsistOf("dstackservers", "dstackservers/status", "isolationprofiles", "isolationprofiles/status"))
	})

	It("prints a DstackServer in a row", func(ctx context.Context) {
		s := testkit.MakeServer("main").Namespace(namespace).Obj()
		Expect(api.Client.Create(ctx, s)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(api.Client.Delete(ctx, s)).To(Succeed()) })
		Expect(row(ctx, "dstackservers")).To(Equal("Name=main Workload=dstack-server Release=<nil> Profiles=<nil> Ready=Unknown Reason=Pending " +
			"(Delivery=Python NetworkMode=<nil> Message=waiting for the operator)"))

		s.Status = v1alpha1.DstackServerStatus{
			Release: "0.22.5", Profiles: 2, Running: &v1alpha1.RunningSettings{Pods: 1, PolicyPods: 1, NetworkMode: 3},
			Conditions: []metav1.Condition{ready(metav1.ConditionFalse, "FieldConflict", "in Deployment dstack/dstack-server, …")},
		}
		Expect(api.Client.Status().Update(ctx, s)).To(Succeed())
		Expect(row(ctx, "dstackservers")).To(Equal("Name=main Workload=dstack-server Release=0.22.5 Profiles=2 Ready=False Reason=FieldConflict " +
			"(Delivery=Python NetworkMode=3 Message=in Deployment dstack/dstack-server, …)"))
	})

	It("prints an IsolationProfile in a row", func(ctx context.Context) {
		p := testkit.MakeProfile("research").Namespace(namespace).Level(v1alpha1.LevelRestricted).Audit().Obj()
		Expect(api.Client.Create(ctx, p)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(api.Client.Delete(ctx, p)).To(Succeed()) })
		p.Status.Conditions = []metav1.Condition{ready(metav1.ConditionTrue, "Ready", "nothing is refused")}
		Expect(api.Client.Status().Update(ctx, p)).To(Succeed())
		Expect(row(ctx, "isolationprofiles")).To(Equal("Name=research Server=main Level=Restricted Enforcement=Audit Ready=True Reason=Ready (Message=nothing is refused)"))
	})

	It("never stores a condition without status, reason or time", func(ctx context.Context) {
		p := testkit.MakeProfile("broken").Namespace(namespace).Obj()
		Expect(api.Client.Create(ctx, p)).To(Succeed())
		DeferCleanup(func(ctx context.Context) { Expect(api.Client.Delete(ctx, p)).To(Succeed()) })
		p.Status.Conditions = []metav1.Condition{ready("", "Ready", "")}
		err := api.Client.Status().Update(ctx, p)
		Expect(err).To(MatchError(ContainSubstring(`status.conditions[0].status: Unsupported value: "": supported values: "True", "False", "Unknown"`)))
	})

	It("explains every field in words that begin with its name", func() {
		for _, d := range definitions() {
			kind := d.Spec.Names.Kind
			walk(d, func(path string, s *apiextensionsv1.JSONSchemaProps) {
				name := path[strings.LastIndex(path, ".")+1:]
				if strings.HasSuffix(name, "[]") || strings.HasSuffix(name, "{}") {
					return
				}
				where := kind + "." + path
				if path == "metadata" {
					return // The API server puts its own words there.
				}
				Expect(s.Description).NotTo(BeEmpty(), where)
				Expect(s.Description).NotTo(ContainSubstring("TODO"), where)
				if path == "" || path == "apiVersion" || path == "kind" || strings.Contains(path, "conditions[].") {
					return // In Kubernetes' own words.
				}
				Expect(s.Description).To(HavePrefix(name+" "), where)
				Expect(s.Description).To(HaveSuffix("."), where)
			})
		}
	})

	It("names in the description of a field what it is when left out", func() {
		for _, d := range definitions() {
			walk(d, func(path string, s *apiextensionsv1.JSONSchemaProps) {
				if s.Default == nil || path == "status" || string(s.Default.Raw) == "{}" {
					return
				}
				Expect(strings.ToLower(s.Description)).To(ContainSubstring("default"), d.Spec.Names.Kind+"."+path)
				value := strings.Trim(string(s.Default.Raw), `"`)
				Expect(s.Description).To(ContainSubstring(value), d.Spec.Names.Kind+"."+path)
			})
		}
	})
})

func ready(status metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{Type: v1alpha1.ConditionReady, Status: status, Reason: reason, Message: message, LastTransitionTime: metav1.Now()}
}

// row is what `kubectl get` prints of the only object: headers and cells, those
// of `-o wide` in parentheses. The age is left out.
func row(ctx context.Context, resource string) string {
	GinkgoHelper()
	config := rest.CopyConfig(api.Config)
	config.GroupVersion = &v1alpha1.GroupVersion
	config.APIPath = "/apis"
	config.NegotiatedSerializer = serializer.NewCodecFactory(testkit.NewScheme()).WithoutConversion()
	c, err := rest.RESTClientFor(config)
	Expect(err).NotTo(HaveOccurred())
	var table metav1.Table
	Expect(c.Get().Namespace(namespace).Resource(resource).SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(ctx).Into(&table)).To(Succeed())
	Expect(table.Rows).To(HaveLen(1))
	var usual, wide []string
	for i, column := range table.ColumnDefinitions {
		cell := fmt.Sprintf("%s=%v", column.Name, table.Rows[0].Cells[i])
		switch {
		case column.Name == "Age":
			Expect(column.Type).To(Equal("date"))
		case column.Priority > 0:
			wide = append(wide, cell)
		default:
			usual = append(usual, cell)
		}
	}
	return strings.Join(usual, " ") + " (" + strings.Join(wide, " ") + ")"
}
