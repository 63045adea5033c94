package controllers_test

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
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
	var policy, proxy appsv1.Deployment
	if api.Client.Get(ctx, m.key(manifests.PolicyServerName("main")), &policy) == nil && policy.Status.ReadyReplicas == 0 && m.serviceThere(policy.Name) {
		m.policyServersUp()
		return true
	}
	if m.rollWorkload() {
		return true
	}
	if api.Client.Get(ctx, m.key(sshProxyName), &proxy) == nil && proxy.Status.ReadyReplicas == 0 && m.held.plugin && !m.releasing {
		m.balanced(corev1.LoadBalancerIngress{Hostname: "lb.example.com"})
		m.sshProxiesUp()
		m.proxiesUp = true
		return true
	}
	return false
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
	pod := testkit.PodOf(m.ns, name, *w.Template)
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
	Expect(m.condition("Ready")).To(HavePrefix("Ready=True "))
	for _, name := range []string{"research", "vision"} {
		Expect(m.conditionOf(m.profile(name), "Ready")).To(HavePrefix("Ready=True "))
	}
	Expect(m.heldBy(m.userWorkload())).To(Equal(held{plugin: true, ssh: true, mode: 1}))
}

// madeOnce expects that no Secret was made twice.
func (m *mortal) madeOnce() {
	GinkgoHelper()
	seen := map[string]bool{}
	for _, w := range m.writes {
		if strings.Contains(w, " Secret ") {
			Expect(w).To(HavePrefix("create "))
			Expect(seen[w]).To(BeFalse(), "%s again: %v", w, m.writes)
			seen[w] = true
		}
	}
	Expect(seen).To(HaveLen(3))
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
	Expect(m.ownLeft()).To(BeEmpty())
}

func deleted(m *mortal) {
	GinkgoHelper()
	Expect(api.Client.Delete(context.Background(), m.server())).To(Succeed())
}

func disabled(m *mortal) {
	GinkgoHelper()
	change(m.world, m.server(), func(s *v1alpha1.DstackServer) { s.Spec.Injection = v1alpha1.InjectionDisabled })
}

var _ = Describe("A manager that is killed", func() {
	const deployment, python = v1alpha1.WorkloadDeployment, v1alpha1.DeliveryPython

	It("while it brings a server up comes to the same end, whichever write was its last", func() {
		whole := broughtUp(deployment, python)
		want := whole.outcome()
		for n, write := range whole.writes {
			By(fmt.Sprintf("after write %d: %s", n+1, write))
			// And, in one of its two lives, an answer is lost.
			comesUp(deployment, python, fate{dies: at(n + 1), unanswered: at(len(whole.writes) - n)}, want)
		}
	})

	DescribeTable("after every write comes to the same end, and so does one that gets no answer to any",
		func(kind v1alpha1.WorkloadKind, delivery v1alpha1.Delivery) {
			want := broughtUp(kind, delivery).outcome()
			comesUp(kind, delivery, fate{dies: always, unanswered: never}, want)
			comesUp(kind, delivery, fate{dies: never, unanswered: always}, want)
		},
		Entry("of a StatefulSet", v1alpha1.WorkloadStatefulSet, python),
		Entry("with the delivery REST", deployment, v1alpha1.DeliveryREST),
	)

	It("while it gives a server back leaves nothing, whichever write was its last", func() {
		whole := broughtUp(deployment, python)
		whole.release(deleted, undisturbed)
		want := whole.outcome()
		for n, write := range whole.writes {
			By(fmt.Sprintf("after write %d: %s", n+1, write))
			m := broughtUp(deployment, python)
			m.release(deleted, fate{dies: at(n + 1), unanswered: at(len(whole.writes) - n)})
			Expect(cmp.Diff(want, m.outcome())).To(BeEmpty(), "%v", m.writes)
		}
	})

	DescribeTable("after every write while it gives a server back leaves nothing, and so does one that gets no answer to any",
		func(kind v1alpha1.WorkloadKind, delivery v1alpha1.Delivery, end func(*mortal)) {
			whole := broughtUp(kind, delivery)
			whole.release(end, undisturbed)
			for _, f := range []fate{{dies: always, unanswered: never}, {dies: never, unanswered: always}} {
				m := broughtUp(kind, delivery)
				m.release(end, f)
				Expect(cmp.Diff(whole.outcome(), m.outcome())).To(BeEmpty(), "%v", m.writes)
			}
		},
		Entry("because its DstackServer, of a StatefulSet, is deleted", v1alpha1.WorkloadStatefulSet, python, deleted),
		Entry("because its injection is Disabled", deployment, v1alpha1.DeliveryREST, disabled),
	)
})
