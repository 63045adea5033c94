package controllers_test

import (
	"context"
	"strings"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/sync/errgroup"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/manifests"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

// play lets everybody else take one step: the controllers of Deployments and
// Services, the kubelet, and the processes in the pods. It tells whether there
// was anything to do.
func (m *mortal) play() bool {
	GinkgoHelper()
	ctx := context.Background()
	if m.policyServersFollow() {
		return true
	}
	var policy, proxy appsv1.Deployment
	if api.Client.Get(ctx, m.key(manifests.PolicyServerName("main")), &policy) == nil && policy.Status.ObservedGeneration != policy.Generation && m.serviceThere(policy.Name) {
		m.policy = m.policyServersUp()
		return true
	}
	if m.rollWorkload() {
		return true
	}
	if api.Client.Get(ctx, m.key(sshProxyName), &proxy) != nil || proxy.Status.ObservedGeneration == proxy.Generation || !m.held.plugin || m.releasing {
		return false
	}
	// The proxies answer some time after their address is known.
	if service := get(m.world, sshProxyName, &corev1.Service{}); len(service.Status.LoadBalancer.Ingress) == 0 {
		m.balanced(corev1.LoadBalancerIngress{Hostname: "lb.example.com"})
		return true
	}
	m.sshProxiesUp()
	m.proxiesUp = true
	return true
}

// policyServersFollow lets policy servers read what the manager has said.
func (m *mortal) policyServersFollow() bool {
	GinkgoHelper()
	moved := false
	if m.releasing {
		return false // It may be gone, what they follow.
	}
	for _, s := range m.policy {
		revision, mode := m.revision(), ptr.Deref(m.server().Status.Running, v1alpha1.RunningSettings{}).NetworkMode
		moved = moved || s.revision != revision || s.networkMode != mode
		s.set(revision, "v1")
		s.counts(mode)
	}
	return moved
}

func (m *mortal) serviceThere(name string) bool {
	return api.Client.Get(context.Background(), m.key(name), &corev1.Service{}) == nil
}

// rollWorkload replaces the server's pod once its workload has changed.
func (m *mortal) rollWorkload() bool {
	GinkgoHelper()
	const name = "dstack-server-0"
	w := m.userWorkload()
	var observed int64
	if m.kind == v1alpha1.WorkloadStatefulSet {
		observed = m.statefulSet().Status.ObservedGeneration
	} else {
		observed = m.deployment().Status.ObservedGeneration
	}
	if observed == w.Meta.Generation {
		return false
	}
	m.end(name)
	pod := m.made(testkit.PodOf(m.ns, name, *w.Template))
	pod.Spec.NodeName = "node"
	Expect(api.Client.Create(context.Background(), pod)).To(Succeed())
	process := m.ready(name, "10.0.0.1")
	if ref, told := workload.SSHTokenOf(&pod.Spec.Containers[0]); told {
		process.setSSHToken(m.sshToken(ref.Name))
	}
	if m.kind == v1alpha1.WorkloadStatefulSet {
		Expect(api.Client.Status().Update(context.Background(), testkit.SetStatefulRolledOut(m.statefulSet()))).To(Succeed())
	} else {
		Expect(api.Client.Status().Update(context.Background(), testkit.SetRolledOut(m.deployment()))).To(Succeed())
	}
	return true
}

// everything is a server for which the operator does all that it can: a policy
// that denies the host's network and login by SSH, and a managed SSH proxy.
func everything(kind v1alpha1.WorkloadKind, delivery v1alpha1.Delivery, f fate) *mortal {
	GinkgoHelper()
	server := testkit.MakeServer("main").Workload(kind, testkit.WorkloadName).Delivery(delivery).SSHProxy(managed()).Obj()
	var user client.Object = testkit.MakeServerPod().Data().Deployment(testkit.WorkloadName)
	if kind == v1alpha1.WorkloadStatefulSet {
		user = testkit.MakeServerPod().Data().StatefulSet(testkit.WorkloadName)
	}
	w := newWorld(server, user,
		testkit.MakeProfile("research").Level(v1alpha1.LevelRestricted).Obj(), testkit.MakeProfile("vision").AllowHostSSH().Obj())
	m := makeMortal(w, kind, f)
	m.rollWorkload()
	return m
}

// isUp expects that all is in force.
func (m *mortal) isUp() {
	GinkgoHelper()
	said := map[string][]metav1.Condition{"main": m.server().Status.Conditions}
	for _, name := range []string{"research", "vision"} {
		said[name] = m.profile(name).Status.Conditions
	}
	for name, conditions := range said {
		Expect(meta.IsStatusConditionTrue(conditions, v1alpha1.ConditionReady)).To(BeTrue(), "%s: %v", name, conditions)
	}
	Expect(m.heldBy(m.userWorkload())).To(Equal(held{plugin: true, ssh: true, mode: 1}))
}

// madeOnce expects that no Secret was made twice.
func (m *mortal) madeOnce() {
	GinkgoHelper()
	seen := map[string]bool{}
	for _, w := range m.writes {
		if strings.Contains(w, " Secret ") && w != "patch Secret isolation-seal-main" {
			Expect(w).To(HavePrefix("create "))
			Expect(seen[w]).To(BeFalse(), "%s again: %v", w, m.writes)
			seen[w] = true
		}
	}
	Expect(seen).To(HaveLen(7), "the seal, and three with a copy of each")
}

// broughtUp is a server for which all is done, by a manager that nothing
// befalls.
func broughtUp(kind v1alpha1.WorkloadKind, delivery v1alpha1.Delivery) *mortal {
	GinkgoHelper()
	m := everything(kind, delivery, undisturbed)
	m.live()
	m.isUp()
	m.madeOnce()
	return m
}

// comesUp lets a manager whose fate is f bring a server up, and expects the same
// end as without it.
func comesUp(kind v1alpha1.WorkloadKind, delivery v1alpha1.Delivery, f fate, want map[string]string) {
	GinkgoHelper()
	m := everything(kind, delivery, f)
	defer m.freeAddresses()
	m.live()
	m.isUp()
	m.madeOnce()
	Expect(cmp.Diff(want, m.outcome())).To(BeEmpty(), "%v", m.writes)
}

// release ends what was brought up, in one of two ways, and lets the manager do
// its part.
func (m *mortal) release(end func(*mortal), f fate) {
	GinkgoHelper()
	m.releasing, m.writes, m.fate = true, nil, f
	end(m)
	m.live()
	Expect(m.heldBy(m.userWorkload())).To(Equal(held{}))
	left := m.ownLeft()
	if api.Client.Get(context.Background(), m.key("main"), &v1alpha1.DstackServer{}) == nil {
		// By these users know the proxy.
		Expect(left).To(ConsistOf("Secret isolation-ssh-main-host-keys", "Secret isolation-ssh-main-token", "Service isolation-ssh-main",
			"Secret isolation-seal-main"))
		return
	}
	Expect(left).To(BeEmpty())
}

// edit lets somebody change something where all is done, and a manager whose fate
// is f follow it.
func (m *mortal) edit(f fate, change func(*mortal)) {
	GinkgoHelper()
	m.policy = m.policyServersUp()
	m.writes, m.fate = nil, f
	change(m)
	m.live()
	Expect(meta.IsStatusConditionTrue(m.server().Status.Conditions, v1alpha1.ConditionReady)).To(BeTrue(), "%v", m.server().Status.Conditions)
}

// givesBack lets a manager whose fate is f give a server back, and expects the same
// end as without it.
func givesBack(kind v1alpha1.WorkloadKind, delivery v1alpha1.Delivery, end func(*mortal), f fate, want map[string]string) {
	GinkgoHelper()
	m := everything(kind, delivery, undisturbed)
	m.live()
	m.release(end, f)
	Expect(cmp.Diff(want, m.outcome())).To(BeEmpty(), "%v", m.writes)
}

// loosen lets the plan be looser than what runs, and the manager follow it.
func (m *mortal) loosen(f fate) {
	GinkgoHelper()
	m.policy = m.policyServersUp()
	m.policyServersFollow()
	m.writes, m.fate, m.held.mode = nil, f, 0
	change(m.world, m.profile("research"), hostNetworkOf(v1alpha1.HostNetworkAllowed))
	m.live()
	Expect(m.heldBy(m.userWorkload())).To(Equal(held{plugin: true, ssh: true, mode: 0}))
	Expect(meta.IsStatusConditionTrue(m.server().Status.Conditions, v1alpha1.ConditionReady)).To(BeTrue())
}

func hostNetworkOf(v v1alpha1.HostNetwork) func(*v1alpha1.IsolationProfile) {
	return func(p *v1alpha1.IsolationProfile) { p.Spec.Controls = &v1alpha1.Controls{HostNetwork: v} }
}

func deleted(m *mortal) {
	GinkgoHelper()
	Expect(api.Client.Delete(context.Background(), m.server())).To(Succeed())
}

func disabled(m *mortal) {
	GinkgoHelper()
	change(m.world, m.server(), func(s *v1alpha1.DstackServer) { s.Spec.Injection = v1alpha1.InjectionDisabled })
}

// forEach goes through several fates at the same time, each in a world of its
// own: most of a life is a wait for the API server.
func forEach(fates []fate, live func(fate)) {
	var group errgroup.Group
	group.SetLimit(6)
	for _, f := range fates {
		group.Go(func() error {
			defer GinkgoRecover()
			live(f)
			return nil
		})
	}
	_ = group.Wait()
}

// oneDeath are the fates of a manager that dies after one of so many writes;
// in one of its two lives an answer is lost too.
func oneDeath(writes int) []fate {
	var fates []fate
	for n := range writes {
		fates = append(fates, fate{dies: at(n + 1), unanswered: at(writes - n)})
	}
	return fates
}

// manyDeaths are the fates of one that dies after each write, and of one that
// gets no answer to any.
func manyDeaths() []fate {
	return []fate{{dies: always, unanswered: never}, {dies: never, unanswered: always}}
}

var _ = Describe("A manager that is killed", func() {
	const deployment, python = v1alpha1.WorkloadDeployment, v1alpha1.DeliveryPython

	It("while it brings a server up comes to the same end, whichever write was its last", func() {
		whole := broughtUp(deployment, python)
		want := whole.outcome()
		forEach(oneDeath(len(whole.writes)), func(f fate) { comesUp(deployment, python, f, want) })
	})

	DescribeTable("after every write comes to the same end, and so does one that gets no answer to any",
		func(kind v1alpha1.WorkloadKind, delivery v1alpha1.Delivery) {
			want := broughtUp(kind, delivery).outcome()
			forEach(manyDeaths(), func(f fate) { comesUp(kind, delivery, f, want) })
		},
		Entry("of a StatefulSet", v1alpha1.WorkloadStatefulSet, python),
		Entry("with the delivery REST", deployment, v1alpha1.DeliveryREST),
	)

	It("after every write while the network mode gets looser never lets a pod run with one that decisions do not know of", func() {
		whole := broughtUp(deployment, python)
		whole.loosen(undisturbed)
		want := whole.outcome()
		forEach(manyDeaths(), func(f fate) {
			m := broughtUp(deployment, python)
			m.loosen(f)
			Expect(cmp.Diff(want, m.outcome())).To(BeEmpty(), "%v", m.writes)
		})
	})

	DescribeTable("after every write while somebody changes what is set keeps what is enforced, and comes to the same end",
		func(change func(*mortal), end held) {
			whole := broughtUp(deployment, python)
			whole.edit(undisturbed, change)
			want := whole.outcome()
			forEach(manyDeaths(), func(f fate) {
				m := broughtUp(deployment, python)
				m.edit(f, change)
				Expect(m.heldBy(m.userWorkload())).To(Equal(end))
				Expect(cmp.Diff(want, m.outcome())).To(BeEmpty(), "%v", m.writes)
			})
		},
		Entry("the token of the policy server", func(m *mortal) {
			Expect(api.Client.Delete(context.Background(), secretIn(m.world, "isolation-policy-main-token"))).To(Succeed())
		}, held{plugin: true, ssh: true, mode: 1}),
		Entry("the host keys of the SSH proxy", func(m *mortal) {
			Expect(api.Client.Delete(context.Background(), secretIn(m.world, "isolation-ssh-main-host-keys"))).To(Succeed())
		}, held{plugin: true, ssh: true, mode: 1}),
		Entry("the token of the SSH proxy", func(m *mortal) {
			Expect(api.Client.Delete(context.Background(), secretIn(m.world, "isolation-ssh-main-token"))).To(Succeed())
		}, held{plugin: true, ssh: true, mode: 1}),
		Entry("default permissions, with approval", func(m *mortal) {
			change(m.world, m.server(), func(s *v1alpha1.DstackServer) {
				onApproval(s)
				s.Spec.DefaultPermissions = &v1alpha1.DefaultPermissions{AllowNonAdminsCreateProjects: ptr.To(false)}
			})
			m.live()
			change(m.world, m.server(), approves(m.pendingChange().Revision))
		}, held{plugin: true, ssh: true, mode: 1}),
		Entry("the whole pod template, back to what it was", func(m *mortal) {
			m.held = held{} // Somebody else opened it; from the repair on it must stay closed.
			stock := testkit.MakeServerPod().Data().Deployment(testkit.WorkloadName).Spec.Template
			change(m.world, m.deployment(), func(d *appsv1.Deployment) { d.Spec.Template = stock })
		}, held{plugin: true, ssh: true, mode: 1}),
		Entry("the SSH proxy, which is no more wanted", func(m *mortal) {
			m.dropping, m.held.ssh = true, false
			change(m.world, m.profile("research"), func(p *v1alpha1.IsolationProfile) { p.Spec.Controls = &v1alpha1.Controls{HostSSH: v1alpha1.Allowed} })
			change(m.world, m.server(), func(s *v1alpha1.DstackServer) { s.Spec.SSHProxy = nil })
		}, held{plugin: true, mode: 1}),
	)

	It("while it gives a server back leaves nothing, whichever write was its last", func() {
		whole := broughtUp(deployment, python)
		whole.release(deleted, undisturbed)
		want := whole.outcome()
		forEach(oneDeath(len(whole.writes)), func(f fate) { givesBack(deployment, python, deleted, f, want) })
	})

	DescribeTable("after every write while it gives a server back leaves nothing, and so does one that gets no answer to any",
		func(kind v1alpha1.WorkloadKind, delivery v1alpha1.Delivery, end func(*mortal)) {
			whole := broughtUp(kind, delivery)
			whole.release(end, undisturbed)
			want := whole.outcome()
			forEach(manyDeaths(), func(f fate) { givesBack(kind, delivery, end, f, want) })
		},
		Entry("because its DstackServer, of a StatefulSet, is deleted", v1alpha1.WorkloadStatefulSet, python, deleted),
		Entry("because its injection is Disabled", deployment, v1alpha1.DeliveryREST, disabled),
	)
})
