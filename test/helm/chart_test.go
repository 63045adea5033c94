package helm_test

import (
	"regexp"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/apply"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/test/sharing"
)

// way is a version of Helm and the options it runs with.
type way struct {
	name string
	make func(*sharing.Workload) helm
	// serverSide is true when the API server merges, force when Helm takes over
	// what others own.
	serverSide, force bool
}

var ways = []way{
	{name: "Helm 3", make: newHelm3},
	{name: "Helm 4", make: func(w *sharing.Workload) helm { return newHelm4(w, false, false) }, serverSide: true},
	{
		name: "Helm 4 with --force-conflicts, as Flux runs it", serverSide: true, force: true,
		make: func(w *sharing.Workload) helm { return newHelm4(w, false, true) },
	},
	{name: "Helm 4 with --server-side=false", make: func(w *sharing.Workload) helm { return newHelm4(w, true, false) }},
}

var _ = Describe("The user's chart", func() {
	for _, way := range ways {
		for _, kind := range []v1alpha1.WorkloadKind{v1alpha1.WorkloadDeployment, v1alpha1.WorkloadStatefulSet} {
			Describe("with a "+string(kind)+", by "+way.name, func() {
				s := &shared{}
				BeforeEach(func() {
					*s = shared{way: way, Workload: sharing.New(api, kind)}
					s.helm = way.make(s.Workload)
					Expect(s.install(s.Manifest())).To(Succeed())
					s.Settle()
				})
				chartSpecs(s)
			})
		}
	}
})

// shared is a workload of the operator's and Helm's.
type shared struct {
	*sharing.Workload
	helm
	way way
}

// index is the place of an item in a list.
var index = regexp.MustCompile(`\[\d+\]`)

// expectRefused expects Helm to fail with the API server's words, wherever in
// their lists the items stand, and to change nothing.
func (s *shared) expectRefused(err error, message string) {
	GinkgoHelper()
	Expect(err).To(HaveOccurred())
	Expect(index.ReplaceAllString(err.Error(), "[N]")).To(HaveSuffix(message))
	s.ExpectShared(s.Manifest())
}

func chartSpecs(s *shared) {
	const mode = dstack.EnvJobNetworkMode

	It("is upgraded and rolled back, and leaves our items alone", func() {
		before := s.Live().Meta.ResourceVersion
		Expect(s.upgrade(s.Manifest())).To(Succeed())
		Expect(s.Live().Meta.ResourceVersion).To(Equal(before), "an upgrade to the same must restart nothing")

		changed := s.Manifest(sharing.Image("dstack-server:0.22.6"), sharing.Env("EXAMPLE", "1"), sharing.WithoutFirstEnv(),
			sharing.WithoutSidecar(), sharing.Replicas(2), sharing.Annotation("example.com/team", "research"))
		Expect(s.upgrade(changed)).To(Succeed())
		s.ExpectShared(changed)
		Expect(s.rollback(1)).To(Succeed())
		s.ExpectShared(s.Manifest())

		By("a release, which leaves what the chart has written last")
		Expect(s.upgrade(changed)).To(Succeed())
		s.Release()
		s.ExpectUsersOwn(changed)
	})

	It("takes our items out by a forced replacement, until the next pass", func() {
		changed := s.Manifest(sharing.Image("dstack-server:0.22.6"))
		Expect(s.replace(changed)).To(Succeed())
		s.ExpectSpec(changed)
		s.Settle()
		s.ExpectShared(changed)
	})

	for _, c := range []struct{ about, name, value string }{
		{"a variable of ours that works alone", mode, "2"},
		{"a variable of our plugin", dstack.EnvPolicyURL, "http://elsewhere"},
	} {
		It("that sets "+c.about+" to another value is refused, or wins and is reported", func() {
			field := `.spec.template.spec.containers[name="server"].env[name="` + c.name + `"].value`
			other := s.Manifest(sharing.Env(c.name, c.value))
			if s.way.serverSide && !s.way.force {
				Expect(s.upgrade(other)).To(MatchError(HaveSuffix(`Apply failed with 1 conflict: conflict with "dstack-isolation": ` + field)))
				s.ExpectShared(s.Manifest())
				return
			}
			Expect(s.upgrade(other)).To(Succeed())
			before := s.Live().Meta.ResourceVersion
			r := s.Put()
			Expect(r.Complete).To(BeFalse())
			Expect(r.Conflicts).To(Equal([]apply.Conflict{{Field: field, Item: c.name, Manager: manager}}))
			Expect(s.Live().Meta.ResourceVersion).To(Equal(before), "nothing must be written while it lasts")

			By("setting it once the chart leaves it alone")
			Expect(s.upgrade(s.Manifest())).To(Succeed())
			s.Settle()
			s.ExpectShared(s.Manifest())
		})
	}

	It("that puts a reference where we have a value is refused until the release", func() {
		reference := s.Manifest(sharing.EnvReference(mode, "dstack-more"))
		s.expectRefused(s.upgrade(reference),
			"spec.template.spec.containers[N].env[N].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty")
		s.Release()
		Expect(s.upgrade(reference)).To(Succeed())
		s.ExpectUsersOwn(reference)
	})

	It("that renames the server's container is refused by server-side apply until the release, and taken by Helm's own merge", func() {
		renamed := s.Manifest(sharing.Renamed("dstack"))
		if s.way.serverSide {
			s.expectRefused(s.upgrade(renamed), "spec.template.spec.containers[N].image: Required value")
			s.Release()
		}
		Expect(s.upgrade(renamed)).To(Succeed())

		By("naming the container anew in spec.workload.container")
		s.Container = "dstack"
		s.Settle()
		s.ExpectShared(renamed)
	})

	It("that renames the volume of the server's directory is refused until the release", func() {
		renamed := s.Manifest(sharing.VolumeRenamed("state"))
		s.expectRefused(s.upgrade(renamed), "spec.template.spec.initContainers[N].volumeMounts[N].name: Not found: \"data\"")
		s.Release()
		Expect(s.upgrade(renamed)).To(Succeed())
		s.Settle()
		s.ExpectShared(renamed)
	})
}
