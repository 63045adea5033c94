package sharing_test

import (
	"fmt"
	"regexp"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/test/sharing"
)

// mode is how a user applies manifests.
type mode struct {
	name string
	// flags of kubectl apply and kubectl diff.
	flags []string
	// serverSide is true when the API server merges.
	serverSide bool
	// manager is the field manager that kubectl writes as.
	manager string
}

var modes = []mode{
	{name: "kubectl apply", manager: "kubectl-client-side-apply"},
	{name: "kubectl apply --server-side", flags: []string{"--server-side"}, serverSide: true, manager: "kubectl"},
	{
		name:  "kubectl apply as Argo CD with ServerSideApply=true",
		flags: []string{"--server-side", "--force-conflicts", "--field-manager=argocd-controller"}, serverSide: true, manager: "argocd-controller",
	},
}

func (m mode) run(w *sharing.Workload, command string, manifest *unstructured.Unstructured) output {
	GinkgoHelper()
	return kubectl(w, manifest, append([]string{command, "-f", "-"}, m.flags...)...)
}

// apply expects success.
func (m mode) apply(w *sharing.Workload, manifest *unstructured.Unstructured) {
	GinkgoHelper()
	o := m.run(w, "apply", manifest)
	Expect(o.exit).To(BeZero(), "%v", o)
}

// index is the place of an item in a list.
var index = regexp.MustCompile(`\[\d+\]`)

// refused expects kubectl to fail with exactly what the API server says of the
// workload, wherever in their lists the items stand.
func (m mode) refused(w *sharing.Workload, manifest *unstructured.Unstructured, message string) {
	GinkgoHelper()
	before := w.Live().Meta.ResourceVersion
	o := m.run(w, "apply", manifest)
	o.err = index.ReplaceAllString(o.err, "[N]")
	Expect(o).To(Equal(output{
		err: fmt.Sprintf("The %s %q is invalid: %s\n", w.Kind, testkit.WorkloadName, message), exit: 1,
	}))
	Expect(w.Live().Meta.ResourceVersion).To(Equal(before))
}

// said is what kubectl prints of an apply that changes something.
func (m mode) said(w *sharing.Workload) output {
	if m.serverSide {
		return says(w, "serverside-applied")
	}
	return says(w, "configured")
}

var _ = Describe("The user's manifest", func() {
	for _, kind := range kinds {
		for _, m := range modes {
			Describe("of a "+string(kind)+", by "+m.name, func() {
				var w *sharing.Workload
				BeforeEach(func() {
					w = sharing.New(api, kind)
					m.apply(w, w.Manifest())
					w.Settle()
				})
				manifestSpecs(m, func() *sharing.Workload { return w })
			})
		}
	}
})

func manifestSpecs(m mode, workload func() *sharing.Workload) {
	const mode = dstack.EnvJobNetworkMode

	It("shows no difference, and changes nothing when it is applied again", func() {
		w := workload()
		Expect(m.run(w, "diff", w.Manifest())).To(Equal(output{}), "no output, exit code 0")
		before := w.Live().Meta.ResourceVersion
		// Where items stand that are not the user's, kubectl says so of client-side
		// apply too, although nothing changes.
		Expect(m.run(w, "apply", w.Manifest())).To(Equal(m.said(w)))
		Expect(w.Live().Meta.ResourceVersion).To(Equal(before))
		w.ExpectShared(w.Manifest())
		w.Release()
		w.ExpectUsersOwn(w.Manifest())
	})

	It("changes what is the user's own and leaves our items alone", func() {
		w := workload()
		changed := w.Manifest(sharing.Image("dstack-server:0.22.6"), sharing.Env("EXAMPLE", "1"), sharing.WithoutFirstEnv(),
			sharing.WithoutSidecar(), sharing.Replicas(2), sharing.Annotation("example.com/team", "research"))
		Expect(m.run(w, "apply", changed)).To(Equal(m.said(w)))
		w.ExpectShared(changed)
		Expect(m.run(w, "diff", changed)).To(Equal(output{}))

		By("applying the first one again")
		Expect(m.run(w, "apply", w.Manifest())).To(Equal(m.said(w)))
		w.ExpectShared(w.Manifest())

		By("a release, which leaves what the user has written last")
		m.apply(w, changed)
		w.Release()
		w.ExpectUsersOwn(changed)
	})

	It("may set one of our variables to our value, and drop it again", func() {
		w := workload()
		shared := w.Manifest(sharing.Env(mode, "3"))
		Expect(m.run(w, "apply", shared)).To(Equal(m.said(w)))
		w.ExpectShared(shared)

		By("dropping it")
		Expect(m.run(w, "apply", w.Manifest())).To(Equal(m.said(w)))
		if m.serverSide {
			w.ExpectShared(w.Manifest())
		} else {
			Expect(w.Value(mode)).To(BeEmpty(), "client-side apply deletes what it has written, whoever else owns it")
			w.Settle()
			w.ExpectShared(w.Manifest())
		}

		By("a release, which leaves what the API server knows to be the user's too")
		m.apply(w, shared)
		w.Settle() // The list may be put into another order, once.
		w.Release()
		if !m.serverSide {
			// Client-side apply owns what it changes, and it has changed nothing here.
			Expect(w.Value(mode)).To(BeEmpty())
			Expect(m.run(w, "apply", shared)).To(Equal(m.said(w)))
		}
		w.ExpectUsersOwn(shared)
	})

	for _, c := range []struct{ about, name, value string }{
		{"a variable of ours that works alone", mode, "2"},
		{"a variable of our plugin", dstack.EnvPolicyURL, "http://elsewhere"},
		{"a variable of our SSH proxy", dstack.EnvServerSSHProxyEnforced, "false"},
	} {
		It("that sets "+c.about+" to another value is refused, or wins and is reported", func() {
			w := workload()
			other := w.Manifest(sharing.Env(c.name, c.value))
			field := `.spec.template.spec.containers[name="server"].env[name="` + c.name + `"].value`
			if m.manager == "kubectl" {
				o := m.run(w, "apply", other)
				Expect(o.exit).To(Equal(1))
				Expect(o.err).To(HavePrefix("error: Apply failed with 1 conflict: conflict with \"dstack-isolation\": " + field + "\n"))
				w.ExpectShared(w.Manifest())
				return
			}
			Expect(m.run(w, "apply", other)).To(Equal(m.said(w)))
			Expect(w.Value(c.name)).To(Equal(c.value))

			By("reporting it, without a write, as long as it lasts")
			before := w.Live().Meta.ResourceVersion
			r := w.Put()
			Expect(r.Complete).To(BeFalse())
			Expect(r.Conflicts).To(Equal([]apply.Conflict{{Field: field, Item: c.name, Manager: m.manager}}))
			Expect(r.Items).To(ContainElement(v1alpha1.InjectedItem{Name: c.name, State: v1alpha1.InjectedConflict, Manager: m.manager}))
			Expect(w.Live().Meta.ResourceVersion).To(Equal(before))

			By("setting it once the manifest leaves it alone")
			m.apply(w, w.Manifest())
			w.Settle()
			w.ExpectShared(w.Manifest())
		})
	}

	It("that puts a reference where we have a value, or a value where we have a reference, is refused until the release", func() {
		w := workload()
		const refusal = "spec.template.spec.containers[N].env[N].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty"
		reference := w.Manifest(sharing.EnvReference(mode, "dstack-more"))
		value := w.Manifest(sharing.Env(dstack.EnvToken, "mine"))
		m.refused(w, reference, refusal)
		m.refused(w, value, refusal)
		w.ExpectShared(w.Manifest())
		w.Release()
		Expect(m.run(w, "apply", reference)).To(Equal(m.said(w)))
		w.ExpectUsersOwn(reference)
		Expect(m.run(w, "apply", value)).To(Equal(m.said(w)))
		w.ExpectUsersOwn(value)
	})

	It("that renames the server's container is refused by server-side apply until the release, and taken by client-side apply", func() {
		w := workload()
		renamed := w.Manifest(sharing.Renamed("dstack"))
		if m.serverSide {
			m.refused(w, renamed, "spec.template.spec.containers[N].image: Required value")
			w.ExpectShared(w.Manifest())
			w.Release()
		}
		Expect(m.run(w, "apply", renamed)).To(Equal(m.said(w)))
		_, err := w.Live().Container("server")
		Expect(err).To(MatchError(ContainSubstring("server")))

		By("naming the container anew in spec.workload.container")
		w.Container = "dstack"
		w.Settle()
		w.ExpectShared(renamed)
		w.Release()
		w.ExpectUsersOwn(renamed)
	})

	It("that renames the volume of the server's directory is refused until the release", func() {
		w := workload()
		renamed := w.Manifest(sharing.VolumeRenamed("state"))
		m.refused(w, renamed, "spec.template.spec.initContainers[N].volumeMounts[N].name: Not found: \"data\"")
		w.ExpectShared(w.Manifest())
		w.Release()
		Expect(m.run(w, "apply", renamed)).To(Equal(m.said(w)))
		w.Settle()
		w.ExpectShared(renamed)
	})
}
