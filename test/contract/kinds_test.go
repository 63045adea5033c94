package contract_test

import (
	"encoding/json"
	"fmt"
	"slices"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/dstack-isolation/operator/internal/dstack"
)

// otherKind is something other than a run, in a project where nothing is denied:
// it is allowed, and its specification comes back as it was. What is denied of it
// elsewhere stands in the captured cases, which every release is tried with.
type otherKind struct {
	kind string
	// capture is the case with its specification.
	capture string
	path    string
	// plan says that the request holds the whole specification; to create, it holds
	// the configuration in it.
	plan bool
	// byAdmin says that dstack lets no ordinary member ask.
	byAdmin bool
}

// A plan of a fleet in clouds is made without a backend. Volumes have no plan, and
// they and gateways need the backend of a cloud: dstack asks the plugin first, and
// then answers that there is none. That it came so far is all that can be seen
// without a cloud; a specification that came back changed would be an error of
// dstack's before that.
var otherKinds = []otherKind{
	{kind: "fleet", capture: "fleet-cloud-plain", path: "fleets/get_plan", plan: true},
	{kind: "fleet", capture: "fleet-blocks-2", path: "fleets/get_plan", plan: true},
	{kind: "volume", capture: "volume-new", path: "volumes/create"},
	{kind: "volume", capture: "volume-existing-id", path: "volumes/create"},
	{kind: "gateway", capture: "gateway-new", path: "gateways/get_plan", plan: true, byAdmin: true},
	{kind: "gateway", capture: "gateway-new", path: "gateways/create", byAdmin: true},
}

// ask asks a server about it, in the project open-lab.
func (k otherKind) ask(server string) answer {
	GinkgoHelper()
	all := captures(dstackRelease, dstack.ApplyKind(k.kind))
	i := slices.IndexFunc(all, func(c capture) bool { return c.Name == k.capture })
	Expect(i).NotTo(Equal(-1), "no captured case "+k.capture)
	spec := all[i].Request.Spec
	body := map[string]any{"spec": spec}
	if !k.plan {
		var parts struct{ Configuration json.RawMessage }
		Expect(json.Unmarshal(spec, &parts)).To(Succeed())
		body = map[string]any{"configuration": parts.Configuration}
	}
	s := servers.dstack[server]
	asker := s.members[member]
	if k.byAdmin {
		asker = s.admin
	}
	got, err := asker.post("/api/project/"+open+"/"+k.path, body)
	Expect(err).NotTo(HaveOccurred())
	return got
}

func (k otherKind) user() string {
	if k.byAdmin {
		return "admin"
	}
	return member
}

var _ = Describe("What is no run, and not denied", func() {
	for _, server := range deliveries {
		for _, k := range otherKinds {
			It(fmt.Sprintf("is allowed, and goes on as without policy, by %s: %s of %s", server, k.path, k.capture), func() {
				p := servers.dstack[server].policy
				before := p.out.size()
				want, got := k.ask(withoutPolicy), k.ask(server)
				if k.kind == "fleet" {
					expectAccepted(got)
					Expect(got.part("spec")).To(Equal(want.part("spec")))
				} else {
					Expect(got.message()).To(HavePrefix("Backend aws not available."))
				}
				Expect(got.status).To(Equal(want.status))
				Expect(string(got.body)).To(Equal(string(want.body)))
				Expect(p.out.raw(before)).To(ContainSubstring(fmt.Sprintf(
					`"msg":"Decided","logger":"policy-server","kind":%q,"user":%q,"project":"open-lab","decision":"allowed"`, k.kind, k.user())))
			})
		}
	}
})
