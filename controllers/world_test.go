package controllers_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"
	clocktesting "k8s.io/utils/clock/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/controllers"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/observe"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// deadline is the reconciler's InjectionDeadline.
const deadline = 5 * time.Minute

var plugin = manifests.PluginFiles{"dstack_isolation/__init__.py": "# plugin"}

// world is a namespace in which the test plays every controller but ours, the
// kubelet and the processes in the pods.
type world struct {
	ns       string
	clock    *clocktesting.FakePassiveClock
	recorder *events.FakeRecorder
	network  *network
	config   controllers.Config
	// faults, when set, come before the API server.
	faults     *interceptor.Funcs
	reconciler *controllers.DstackServerReconciler
	profiles   *controllers.IsolationProfileReconciler
	// result of the last pass.
	result reconcile.Result
}

// newWorld makes a world with the given objects in it.
func newWorld(objects ...client.Object) *world {
	GinkgoHelper()
	w := &world{
		ns:       api.Namespace(GinkgoTB()),
		clock:    clocktesting.NewFakePassiveClock(time.Now().Truncate(time.Second)),
		recorder: events.NewFakeRecorder(1000),
		network:  newNetwork(),
	}
	w.config = controllers.Config{
		Live: api.Client, Prober: observe.New(w.network.dial), Recorder: w.recorder, Clock: w.clock, Plugin: plugin,
		Manifests:         manifests.Options{Image: "dstack-isolation:1", ServiceAccount: "isolation-policy-server"},
		InjectionDeadline: deadline,
	}
	DeferCleanup(w.freeAddresses)
	w.restart()
	w.create(objects...)
	return w
}

// freeAddresses deletes the world's Services: the API server has addresses for
// some 250 of them.
func (w *world) freeAddresses() {
	GinkgoHelper()
	Expect(api.Client.DeleteAllOf(context.Background(), &corev1.Service{}, client.InNamespace(w.ns))).To(Succeed())
}

// restart is what a restart of the manager does: all that it remembers is lost.
func (w *world) restart() {
	c := indexed(api.Client)
	if w.faults != nil {
		c = interceptor.NewClient(c, *w.faults)
	}
	w.config.Client = c
	w.config.Resolver = controllers.NewResolver(c, w.clock)
	w.reconciler = controllers.NewDstackServerReconciler(w.config)
	w.profiles = controllers.NewIsolationProfileReconciler(c, w.config.Resolver, w.recorder, w.clock)
}

// withFaults restarts the manager with an API server that fails as told.
func (w *world) withFaults(f interceptor.Funcs) {
	w.faults = &f
	w.restart()
}

func (w *world) withoutFaults() {
	w.faults = nil
	w.restart()
}

// create creates objects in the world's namespace.
func (w *world) create(objects ...client.Object) {
	GinkgoHelper()
	for _, o := range objects {
		o.SetNamespace(w.ns)
		Expect(api.Client.Create(context.Background(), o, client.FieldOwner("kubectl-client-side-apply"))).To(Succeed())
	}
}

// get reads an object of the world by name.
func get[T client.Object](w *world, name string, o T) T {
	GinkgoHelper()
	Expect(api.Client.Get(context.Background(), w.key(name), o)).To(Succeed())
	return o
}

func (w *world) key(name string) client.ObjectKey {
	return client.ObjectKey{Namespace: w.ns, Name: name}
}

func (w *world) server() *v1alpha1.DstackServer { return w.serverNamed("main") }

func (w *world) serverNamed(name string) *v1alpha1.DstackServer {
	GinkgoHelper()
	return get(w, name, &v1alpha1.DstackServer{})
}

func (w *world) profile(name string) *v1alpha1.IsolationProfile {
	GinkgoHelper()
	return get(w, name, &v1alpha1.IsolationProfile{})
}

func (w *world) deployment() *appsv1.Deployment {
	GinkgoHelper()
	return get(w, testkit.WorkloadName, &appsv1.Deployment{})
}

func (w *world) statefulSet() *appsv1.StatefulSet {
	GinkgoHelper()
	return get(w, testkit.WorkloadName, &appsv1.StatefulSet{})
}

// change edits an object as its user would.
func change[T client.Object](w *world, o T, edit func(T)) {
	GinkgoHelper()
	Expect(api.Client.Get(context.Background(), client.ObjectKeyFromObject(o), o)).To(Succeed())
	before := o.DeepCopyObject().(client.Object)
	edit(o)
	Expect(api.Client.Patch(context.Background(), o, client.MergeFrom(before), client.FieldOwner("kubectl-edit"))).To(Succeed())
}

// pass lets the manager look at DstackServer main once, and at all profiles.
func (w *world) pass() {
	GinkgoHelper()
	Expect(w.try("main")).To(Succeed())
	w.passProfiles()
}

// try is one pass over one DstackServer.
func (w *world) try(name string) error {
	GinkgoHelper()
	var err error
	w.result, err = w.reconciler.Reconcile(context.Background(), w.serverNamed(name))
	return err
}

func (w *world) passProfiles() {
	GinkgoHelper()
	var all v1alpha1.IsolationProfileList
	Expect(api.Client.List(context.Background(), &all, client.InNamespace(w.ns))).To(Succeed())
	for i := range all.Items {
		_, err := w.profiles.Reconcile(context.Background(), &all.Items[i])
		Expect(err).NotTo(HaveOccurred())
	}
}

// settle lets the manager pass until it changes nothing any more.
func (w *world) settle() {
	GinkgoHelper()
	before := w.versions()
	Expect(before).NotTo(BeEmpty())
	for range 10 {
		w.pass()
		after := w.versions()
		if maps.Equal(before, after) {
			return
		}
		before = after
	}
	Fail("ten passes, and each one wrote something")
}

// versions are the resourceVersions of all that the manager could write.
func (w *world) versions() map[string]string {
	GinkgoHelper()
	out := map[string]string{}
	lists := []client.ObjectList{
		&v1alpha1.DstackServerList{}, &v1alpha1.IsolationProfileList{}, &appsv1.DeploymentList{}, &appsv1.StatefulSetList{},
		&corev1.ServiceList{}, &corev1.ConfigMapList{}, &corev1.SecretList{}, &corev1.PodList{},
		&policyv1.PodDisruptionBudgetList{}, &networkingv1.NetworkPolicyList{},
	}
	for _, list := range lists {
		Expect(api.Client.List(context.Background(), list, client.InNamespace(w.ns))).To(Succeed())
		Expect(meta.EachListItem(list, func(o runtimeObject) error {
			accessor, err := meta.Accessor(o)
			if err == nil {
				out[fmt.Sprintf("%T %s", o, accessor.GetName())] = accessor.GetResourceVersion()
			}
			return err
		})).To(Succeed())
	}
	return out
}

// says is the whole list of conditions as "Type=Status Reason: message", with
// NS in place of the namespace and REV in place of the desired policy revision.
func (w *world) says(o client.Object) []string {
	GinkgoHelper()
	var conditions []metav1.Condition
	desired := "REV"
	switch o := o.(type) {
	case *v1alpha1.DstackServer:
		conditions = o.Status.Conditions
		if o.Status.PolicyRevision.Desired != "" {
			desired = o.Status.PolicyRevision.Desired
		}
		Expect(o.Status.ObservedGeneration).To(Equal(o.Generation))
	case *v1alpha1.IsolationProfile:
		conditions = o.Status.Conditions
		Expect(o.Status.ObservedGeneration).To(Equal(o.Generation))
	}
	var out []string
	replacer := w.replacer()
	for _, c := range conditions {
		Expect(c.ObservedGeneration).To(Equal(o.GetGeneration()), c.Type)
		Expect(c.LastTransitionTime.IsZero()).To(BeFalse(), c.Type)
		line := fmt.Sprintf("%s=%s %s: %s", c.Type, c.Status, c.Reason, c.Message)
		out = append(out, replacer.Replace(strings.ReplaceAll(line, desired, "REV")))
	}
	return out
}

// plain replaces what differs from run to run.
func (w *world) plain(text string) string {
	GinkgoHelper()
	return w.replacer().Replace(text)
}

func (w *world) replacer() *strings.Replacer {
	GinkgoHelper()
	return strings.NewReplacer(w.ns, "NS", w.revision(), "REV")
}

// condition is one of the lines of says for DstackServer main.
func (w *world) condition(kind string) string {
	GinkgoHelper()
	return w.conditionOf(w.server(), kind)
}

func (w *world) conditionOf(o client.Object, kind string) string {
	GinkgoHelper()
	for _, line := range w.says(o) {
		if strings.HasPrefix(line, kind+"=") {
			return line
		}
	}
	Fail("no condition " + kind)
	return ""
}

// events takes what was told since the last call.
func (w *world) events() []string {
	GinkgoHelper()
	var out []string
	replacer := w.replacer()
	for {
		select {
		case e := <-w.recorder.Events:
			out = append(out, replacer.Replace(e))
		default:
			return out
		}
	}
}

// countWrites counts every request of the manager that is not a read.
func (w *world) countWrites() *int {
	n := new(int)
	w.withFaults(interceptor.Funcs{
		Create: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.CreateOption) error {
			*n++
			return c.Create(ctx, o, opts...)
		},
		Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
			*n++
			return c.Delete(ctx, o, opts...)
		},
		Update: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.UpdateOption) error {
			*n++
			return c.Update(ctx, o, opts...)
		},
		Patch: func(ctx context.Context, c client.WithWatch, o client.Object, p client.Patch, opts ...client.PatchOption) error {
			*n++
			return c.Patch(ctx, o, p, opts...)
		},
		Apply: func(ctx context.Context, c client.WithWatch, o runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
			*n++
			return c.Apply(ctx, o, opts...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			*n++
			return c.SubResource(sub).Patch(ctx, o, p, opts...)
		},
	})
	return n
}
