package contract_test

import (
	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

var _ = Describe("Whom a policy is for", func() {
	for _, server := range deliveries {
		Context("by "+server, func() {
			It("refuses in a project whose name differs in case only", func() {
				expectRefusal(server, askPlan(server, member, researchInCapitals, run(demoRun("privileged-task"))),
					`privileged containers are not allowed in project "Research-Vision": set privileged to false (profile dstack/research, control privileged).`,
					researchHint)
			})
			It("refuses in a project that no profile matches, as unmatchedProjects says", func() {
				expectRefusal(server, askPlan(server, member, fresh, run(demoRun("docker-task"))),
					`privileged containers, which docker asks for, are not allowed in project "fresh": set docker to false`+
						` (unmatchedProjects of dstack/main, control privileged).`, "")
				expectRefusal(server, askPlan(server, member, fresh, run(`{"type":"service","commands":["x"],"port":80}`)),
					`services are not allowed in project "fresh": run it as a task or a dev-environment`+
						` (unmatchedProjects of dstack/main, control services).`, "")
				expectAccepted(askPlan(server, member, fresh, run(demoRun("two-nodes"))))
			})
			It("lifts what an exception names for its user, and no more", func() {
				expectAccepted(askPlan(server, excepted, research, run(demoRun("privileged-task"))))
				expectAccepted(askPlan(server, excepted, research, run(demoRun("docker-task"))))
				expectRefusal(server, askPlan(server, excepted, research, run(demoRun("volume-etc"))), demoRefusals["volume-etc"]+lastYear, researchHint)
				// The exception for this one has ended.
				expectRefusal(server, askPlan(server, member, research, run(demoRun("privileged-task"))), privileged, researchHint)
			})
			It("refuses nothing under Audit, and says what it would have", func() {
				p := servers.dstack[server].policy
				before := p.out.size()
				for name := range demoRefusals {
					expectAccepted(askPlan(server, member, watched, run(demoRun(name))))
				}
				Expect(p.out.raw(before)).To(And(
					ContainSubstring(`"project":"watched","decision":"allowed","controls":null,"audited":["privileged"]`),
					ContainSubstring(`"audited":["instanceVolumes"]`),
					ContainSubstring(`"audited":["hostNetwork","distributedTasks"]`),
				))
			})
			It("refuses by a rule of the profile's own what no control is about", func() {
				answer := askPlan(server, member, ruled, run(demoRun("harmless-task")))
				expectRefusal(server, answer, `runs must set max_duration (profile dstack/ruled, rule max-duration).`, "")
				expectAccepted(askPlan(server, member, ruled, run(`{"type":"task","commands":["x"],"max_duration":"2h"}`)))
			})
			It("allows the paths that a profile lists, spelt in the plain way only", func() {
				volume := func(path string) specification {
					return run(`{"type":"task","commands":["x"],"volumes":["` + path + `:/x"]}`)
				}
				expectAccepted(askPlan(server, member, data, volume("/data/sets/")))
				expectRefusal(server, askPlan(server, member, data, volume("//data/sets")),
					`instance volume "//data/sets" is not allowed in project "data-team": write it as "/data/sets" (profile dstack/data, control instanceVolumes).`, "")
				expectRefusal(server, askPlan(server, member, data, volume("/database")),
					`instance volume "/database" is not allowed in project "data-team": mount only what is in "/data" (profile dstack/data, control instanceVolumes).`, "")
			})
		})
	}
})
