// Package sharing is for tests of a workload that the operator and other tools
// share: the operator's real code and the real tools write to a real API
// server. Each situation and the test that holds it stand in situations_test.go.
package sharing

import (
	"context"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

// Workload is one user's dstack server in a namespace of its own, and the
// operator beside it.
type Workload struct {
	Kind      v1alpha1.WorkloadKind
	Namespace string
	// Container is what spec.workload.container says.
	Container string
	// Mode and Forbidden are what the profiles ask for.
	Mode      v1alpha1.NetworkMode
	Forbidden []isolation.Control

	client client.Client
	// operator is the client that the operator writes with.
	operator client.Client
	applier  *apply.Applier
}

// New makes a namespace for a workload, which is not there yet.
func New(api *testkit.APIServer, kind v1alpha1.WorkloadKind) *Workload {
	GinkgoHelper()
	w := &Workload{
		Kind: kind, Namespace: api.Namespace(GinkgoTB()), Container: testkit.ServerContainer,
		Mode: v1alpha1.NetworkModeBridge, client: api.Client,
	}
	w.As(api.Client)
	return w
}

// As makes the operator write with another client.
func (w *Workload) As(c client.Client) {
	w.operator, w.applier = c, apply.New(c)
}

// Put is one pass of the operator over the workload as it is now.
func (w *Workload) Put() apply.Result {
	GinkgoHelper()
	r, err := w.applier.Settings(context.Background(), w.intent(w.Live()))
	Expect(err).NotTo(HaveOccurred())
	Expect(r.Invalid).To(BeEmpty())
	return r
}

// Settle lets the operator pass until it has nothing more to do, and expects all
// of its items to be in place.
func (w *Workload) Settle() {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		before := w.Live().Meta.ResourceVersion
		r := w.Put()
		g.Expect(r.Conflicts).To(BeEmpty())
		g.Expect(r.Complete).To(BeTrue())
		g.Expect(w.Live().Meta.ResourceVersion).To(Equal(before))
	}).WithTimeout(time.Minute).Should(Succeed())
}

// Release is what the operator does when spec.injection becomes Disabled.
func (w *Workload) Release() {
	GinkgoHelper()
	released, err := w.applier.Release(context.Background(), w.Live())
	Expect(err).NotTo(HaveOccurred())
	Expect(released).To(BeTrue())
}

// Live reads the workload.
func (w *Workload) Live() *workload.Workload {
	GinkgoHelper()
	o := w.Object()
	Expect(w.client.Get(context.Background(), client.ObjectKeyFromObject(o), o)).To(Succeed())
	return read(o)
}

// Object is an empty object that names the workload.
func (w *Workload) Object() client.Object {
	if w.Kind == v1alpha1.WorkloadStatefulSet {
		o := &appsv1.StatefulSet{}
		o.Namespace, o.Name = w.Namespace, testkit.WorkloadName
		return o
	}
	o := &appsv1.Deployment{}
	o.Namespace, o.Name = w.Namespace, testkit.WorkloadName
	return o
}

func read(o client.Object) *workload.Workload {
	if set, ok := o.(*appsv1.StatefulSet); ok {
		return workload.FromStatefulSet(set)
	}
	return workload.FromDeployment(o.(*appsv1.Deployment))
}

// Value is the literal value of a variable of the server; "" where there is
// none.
func (w *Workload) Value(name string) string {
	GinkgoHelper()
	c, err := w.Live().Container(w.Container)
	Expect(err).NotTo(HaveOccurred())
	return workload.Lookup(c, name).Value
}

// intent has every kind of item that the operator sets: a variable that works
// alone, the plugin, and the SSH proxy.
func (w *Workload) intent(live *workload.Workload) manifests.Intent {
	GinkgoHelper()
	c, err := live.Container(w.Container)
	Expect(err).NotTo(HaveOccurred())
	return manifests.Settings(manifests.SettingsInput{
		Server:   testkit.MakeServer("main").Namespace(w.Namespace).Obj(),
		Workload: live, Container: c, NetworkMode: w.Mode, Forbidden: w.Forbidden,
		SSH: &manifests.SSHSettings{TokenID: "ssh/t0", SSHProxy: workload.SSHProxy{
			Token: v1alpha1.SecretKeyReference{Name: "ssh", Key: "token"}, Address: "ssh.example.com:22", Enforced: true,
		}},
		Files:   manifests.PluginFiles{"dstack_isolation/__init__.py": "# plugin"},
		Options: manifests.Options{Image: "dstack-isolation:1", TokenID: "t0"},
	})
}
