package contract_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// specsOfFleets are about the one change that a decision makes to a run: one
// that names no fleet gets those that its project may use.
func specsOfFleets(r *release, server string) {
	for _, list := range []string{`["gpu"]`, `[{"project":null,"name":"gpu"}]`} {
		It(fmt.Sprintf("takes over the fleets %s that an answer fills in, by %s", list, server), func() {
			recorder := r.world.dstack[server].recorder
			recorder.answerBy(func(answer []byte) []byte {
				return noFleets.ReplaceAllLiteral(answer, []byte(`"fleets":`+list))
			})
			DeferCleanup(func() { recorder.answerBy(nil) })
			got, _ := r.askedPlan(server, demoRun("harmless-task"))
			expectAccepted(got)
			Expect(plannedFleets(got)).To(MatchJSON(`[{"project":null,"name":"gpu"}]`))
		})
	}

	if _, exists := isolation.ControlByName("fleets"); !exists {
		return
	}
	It("fills in the fleets of a project's list, or refuses what is not on it, by "+server, func(ctx context.Context) {
		const folder = "fleets"
		r.world.serves(ctx, folder)
		DeferCleanup(func(ctx context.Context) { r.world.serves(ctx, "policy") })

		By("planning a run that names none on those of the list, and changing nothing else of it")
		got, asked := r.askedPlan(server, demoRun("harmless-task"))
		expectAccepted(got)
		Expect(plannedFleets(got)).To(MatchJSON(`[{"project":null,"name":"a100"},{"project":null,"name":"h200"}]`))
		var sent, answered map[string]any
		Expect(json.Unmarshal(specOf(asked.body), &sent)).To(Succeed())
		Expect(json.Unmarshal(specOf(asked.answer), &answered)).To(Succeed())
		sent["configuration"].(map[string]any)["fleets"] = answered["configuration"].(map[string]any)["fleets"]
		Expect(answered).To(Equal(sent))

		By("leaving a run that names one of the list as it is")
		got, asked = r.askedPlan(server, `{"type":"task","commands":["x"],"fleets":["h200"]}`)
		expectAccepted(got)
		Expect(plannedFleets(got)).To(MatchJSON(`[{"project":null,"name":"h200"}]`))
		Expect(string(specOf(asked.answer))).To(Equal(string(specOf(asked.body))))

		By("refusing a run on another one, as it is decided")
		effective, err := resolve(os.DirFS("testdata/" + folder))
		Expect(err).NotTo(HaveOccurred())
		got, asked = r.askedPlan(server, `{"type":"task","commands":["x"],"fleets":["h200","old"]}`)
		Expect(controlsIn(got.message())).To(Equal([]string{"fleets"}), got.String())
		Expect(got.message()).To(HaveSuffix(decideBody(effective, dstack.KindRun, asked.body).Message))
	})
}

// noFleets is in a run that names none and has no profile.
var noFleets = regexp.MustCompile(`"fleets": ?null`)

// askedPlan asks for a plan in the project research-nlp.
func (r *release) askedPlan(server, configuration string) (answer, exchange) {
	GinkgoHelper()
	return r.asked(server, dstack.KindRun, func(s *dstackServer) answer {
		got, err := s.getPlan(member, research, run(configuration))
		Expect(err).NotTo(HaveOccurred())
		return got
	})
}

// plannedFleets are those of the run that dstack would start.
func plannedFleets(plan answer) json.RawMessage {
	GinkgoHelper()
	var spec struct {
		Configuration struct{ Fleets json.RawMessage }
	}
	Expect(json.Unmarshal([]byte(plan.part("effective_run_spec")), &spec)).To(Succeed(), plan.String())
	return spec.Configuration.Fleets
}
