package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/go-logr/logr/funcr"
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/controllers"
	"github.com/dstack-isolation/operator/internal/testkit"
)

// order notes what is written, and what the status says of SettingsApplied when
// the settings are taken out.
type order struct {
	mu     sync.Mutex
	writes []string
}

func (o *order) add(w *world, write string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	c := meta.FindStatusCondition(w.server().Status.Conditions, v1alpha1.ConditionSettingsApplied)
	o.writes = append(o.writes, write+" after "+c.Reason)
}

func (o *order) funcs(w *world) interceptor.Funcs {
	return interceptor.Funcs{
		Apply: func(ctx context.Context, c client.WithWatch, a runtime.ApplyConfiguration, opts ...client.ApplyOption) error {
			o.add(w, "apply")
			return c.Apply(ctx, a, opts...)
		},
		SubResourcePatch: func(ctx context.Context, c client.Client, sub string, obj client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
			if _, is := obj.(*v1alpha1.DstackServer); is {
				o.add(w, "status")
			}
			return c.SubResource(sub).Patch(ctx, obj, p, opts...)
		},
	}
}

// remove is each way to have the settings taken out.
var remove = map[string]func(w *world){
	"when it is deleted": func(w *world) {
		GinkgoHelper()
		Expect(api.Client.Delete(context.Background(), w.server())).To(Succeed())
	},
	"when injection is Disabled": func(w *world) {
		GinkgoHelper()
		change(w, w.server(), func(s *v1alpha1.DstackServer) { s.Spec.Injection = v1alpha1.InjectionDisabled })
	},
}

var _ = Describe("What a release exposes", func() {
	ctx := context.Background()
	const (
		about   = "the settings are about to be taken out of Deployment NS/dstack-server: pods that start from now on refuse nothing; status.warnings says by profile what they allow"
		profile = "profile NS/research: not refused any more in projects research-*: privileged, instanceVolumes, hostNetwork, fleetEnvironment, unknownFields"
	)

	for how, release := range remove {
		It("is said first, "+how, func() {
			w, _, process := governed()
			process.submitted(time.Now(), "research", "ended", true).submitted(time.Now(), "research", "train", false)
			release(w)
			o := &order{}
			w.withFaults(o.funcs(w))
			Expect(w.try("main")).To(Succeed())
			Expect(w.injected()).To(BeFalse())
			Expect(o.writes[:2]).To(Equal([]string{
				"status after Applied", "apply after Releasing",
			}))
			told := w.events()
			Expect(told[0]).To(Equal("Warning Releasing " + about + "; active runs, which go on: 1 (research/train)"))
			Expect(told[1]).To(HavePrefix("Warning Releasing profile NS/research: not refused any more in projects "))
			Expect(w.server().Status.Warnings).To(ContainElement(HavePrefix("profile " + w.ns + "/research: not refused any more in projects ")))

			By("it is told once")
			w.withoutFaults()
			w.settle()
			Expect(w.events()).NotTo(ContainElement(ContainSubstring("not refused any more")))
		})

		It("keeps no release waiting that it cannot be written down, "+how, func() {
			w, _, _ := governed()
			release(w)
			w.withFaults(interceptor.Funcs{SubResourcePatch: func(context.Context, client.Client, string, client.Object, client.Patch, ...client.SubResourcePatchOption) error {
				return unavailable()
			}})
			Expect(w.try("main")).NotTo(Succeed())
			Expect(w.injected()).To(BeFalse())
			Expect(w.events()).To(ContainElement("Warning Releasing " + about + "; no run is active"))
		})

		It("is told once while the release fails, "+how, func() {
			w, _, _ := governed()
			release(w)
			w.withFaults(failApply("Deployment"))
			Expect(w.try("main")).NotTo(Succeed())
			Expect(w.injected()).To(BeTrue())
			Expect(w.events()).To(ContainElement("Warning Releasing " + about + "; no run is active"))
			Expect(w.server().Status.Warnings).To(ContainElement(HavePrefix("profile " + w.ns + "/research: not refused any more in projects ")))
			Expect(w.try("main")).NotTo(Succeed())
			Expect(w.events()).To(BeEmpty())
		})
	}

	It("names the first of many profiles, and the sessions through the SSH proxy", func() {
		w := withSSHProxy(v1alpha1.SSHProxy{Managed: &v1alpha1.ManagedSSHProxy{Address: "ssh.example.com"}})
		w.sshProxiesUp()
		w.settle()
		w.rollSSH("isolation-ssh-main-token")
		w.settle()
		w.events()
		for i := range 60 {
			w.create(testkit.MakeProfile(fmt.Sprintf("many-%02d", i)).Level(v1alpha1.LevelBaseline).Obj())
		}
		remove["when it is deleted"](w)
		Expect(w.try("main")).To(Succeed())
		told := w.events()
		Expect(told[0]).To(Equal("Warning Releasing " + about + "; active runs that started while the SSH proxy was enforced lose SSH access (their number is unknown: set spec.api.adminTokenSecretRef). To keep it until they end, keep spec.sshProxy and set hostSSH to Allowed in every policy; SSH sessions through the proxy, which nobody can count from here, end when its pods stop, at the latest 600 s after they are told to"))
		profiles := 0
		for _, e := range told {
			if strings.HasPrefix(e, "Warning Releasing profile NS/") {
				profiles++
			}
		}
		Expect(profiles).To(Equal(50))
		Expect(told).To(ContainElement(MatchRegexp(`^Warning Releasing 1\d more profiles refuse nothing any more$`)))
		Expect(w.server().Status.Warnings).To(HaveLen(11))
	})

	It("is not said where there is nothing to take out", func() {
		w := usual()
		w.pass()
		w.events()
		remove["when it is deleted"](w)
		Expect(w.try("main")).To(Succeed())
		Expect(w.events()).NotTo(ContainElement(ContainSubstring("about to be taken out")))
	})

	It("is logged and written down by the cleanup before it takes anything out", func() {
		w := stock(testkit.MakeServer("main").Level(v1alpha1.LevelBaseline).Enforcement(v1alpha1.EnforcementEnforce), testkit.MakeServerPod().Data(),
			testkit.MakeProfile("research").Level(v1alpha1.LevelBaseline).AllowHostSSH().Obj())
		w.bringUp()
		w.end("dstack-server-0")
		var mu sync.Mutex
		var lines []string
		log := funcr.New(func(_, args string) {
			mu.Lock()
			defer mu.Unlock()
			lines = append(lines, args)
		}, funcr.Options{})
		o := &order{}
		c := interceptor.NewClient(api.Client, o.funcs(w))
		timed, cancel := context.WithTimeout(logr.NewContext(ctx, log), 30*time.Second)
		defer cancel()
		Expect(controllers.NewCleanup(c, w.ns).Run(timed, "")).To(Succeed())
		Expect(o.writes[:2]).To(Equal([]string{
			"status after Applied", "apply after Releasing",
		}))
		Expect(w.plain(lines[0])).To(ContainSubstring(about))
		Expect(w.plain(lines[1])).To(ContainSubstring("unmatchedProjects of NS/main: not refused any more in projects that no profile names: "))
		Expect(w.plain(lines[2])).To(ContainSubstring(profile))
	})

	It("keeps no cleanup waiting", func() {
		w := usual()
		w.bringUp()
		w.end("dstack-server-0")
		failed := errors.New("away")
		c := interceptor.NewClient(api.Client, interceptor.Funcs{
			SubResourcePatch: func(ctx context.Context, c client.Client, sub string, o client.Object, p client.Patch, opts ...client.SubResourcePatchOption) error {
				if err := failed; err != nil {
					failed = nil
					return err
				}
				return c.SubResource(sub).Patch(ctx, o, p, opts...)
			},
		})
		Expect(controllers.NewCleanup(c, w.ns).Run(ctx, "")).To(Succeed())
		Expect(isInjected(w.deployment())).To(BeFalse())
	})
})
