package contract_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	. "github.com/onsi/gomega/gstruct"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/policy"
)

// release is one release under test: a server with each delivery, of which
// withPython is told of an SSH proxy, and one that is told of it without a token.
// Their questions are recorded.
type release struct {
	version   string
	world     *world
	effective *isolation.Effective
	// keys are those of all specifications that the servers sent.
	keys map[dstack.ApplyKind]keySet
}

func (r *release) start(ctx context.Context) {
	GinkgoHelper()
	venv, err := pythonEnvironment(ctx, r.version)
	Expect(err).NotTo(HaveOccurred())
	r.world = newWorld(GinkgoT().TempDir(), venv, slices.Concat(deliveries, []string{withoutSSHToken})...)
	r.world.recorded, r.world.projects = true, []string{base, research}
	r.world.dstack[withREST].forbids = true
	r.world.dstack[withPython].sshProxy = &toldOfSSHProxy{sshToken, sshAddress}
	DeferCleanup(func() { Expect(r.world.stop()).To(Succeed()) })
	started := time.Now()
	Expect(r.world.start(ctx)).To(Succeed())
	progress("%d servers of dstack %s answer after %s", len(r.world.dstack), r.version, time.Since(started).Round(time.Second))
	r.effective, err = resolve(os.DirFS("testdata/policy"))
	Expect(err).NotTo(HaveOccurred())
}

// asked does what makes a server ask its plugin once, and returns the question.
func (r *release) asked(server string, kind dstack.ApplyKind, ask func(*dstackServer) answer) (answer, exchange) {
	GinkgoHelper()
	s := r.world.dstack[server]
	before := s.recorder.size()
	got := ask(s)
	recorded := s.recorder.recorded(before)
	Expect(recorded).To(HaveLen(1), "questions to the policy server; dstack answers "+got.String())
	Expect(recorded[0].path).To(Equal(dstack.ApplyPath(kind)))
	Expect(r.keys[kind].add(specOf(recorded[0].body))).To(Succeed())
	return got, recorded[0]
}

// specOf is the specification in a question or an answer, as it was written.
func specOf(body []byte) json.RawMessage {
	GinkgoHelper()
	var parts struct{ Spec json.RawMessage }
	Expect(json.Unmarshal(body, &parts)).To(Succeed(), string(body))
	return parts.Spec
}

// expectDecided holds that a case is decided as it says, by the server whose
// client got the answer and by Decide, to the letter.
func (r *release) expectDecided(server string, level v1alpha1.Level, c submitted) {
	GinkgoHelper()
	project := projectOf[level]
	got, asked := r.asked(server, c.kind, func(s *dstackServer) answer { return c.submit(s, project) })

	names := controlsIn(got.message())
	slices.Sort(names)
	Expect(names).To(Equal(deniedControls(c.capture, level)), got.String())
	decision := decideBody(r.effective, c.kind, asked.body)
	Expect(string(specOf(asked.answer))).To(Equal(string(specOf(asked.body))), "the policy server's answer holds what it was sent")
	if decision.Allowed {
		c.expectPassed(got)
		return
	}
	message := decision.Message
	if server == withREST {
		message = restPrefix + message
	}
	Expect(got.message()).To(Equal(message))
	Expect(got.status).To(Equal(http.StatusBadRequest))
}

// Each release starts, is asked, and ends, before the next one starts.
var _ = Describe("Release", func() {
	for _, version := range releases {
		Context(version, Ordered, ContinueOnFailure, func() {
			r := &release{version: version, keys: map[dstack.ApplyKind]keySet{}}
			for _, kind := range dstack.ApplyKinds() {
				r.keys[kind] = keySet{}
			}
			var before map[string]int
			BeforeAll(func(ctx context.Context) { r.start(ctx) }, NodeTimeout(20*time.Minute))
			BeforeEach(func() { before = r.world.outputSizes() })
			AfterEach(func() {
				if CurrentSpecReport().Failed() {
					r.world.printOutputs(GinkgoWriter, before)
				}
			})

			It("is the one that is named", func(ctx context.Context) {
				for _, s := range r.world.dstack {
					Expect((&dstack.Client{HTTP: direct, BaseURL: s.admin.url}).Release(ctx)).To(Equal(version))
				}
			})
			for _, server := range deliveries {
				specsOfDelivery(r, server)
				specsOfFleets(r, server)
				specsOfOffers(r, server)
			}
			specsOfRules(r)
			specsOfSSHProxy(r)
			It("refuses what it is told to refuse in all projects, when it is submitted", func() { r.expectForbidden() })
			It("holds to the default permissions that its config.yml was given", func() { r.expectPermitted() })
			It("lets the Python plugin read what its process runs with", func() { r.expectAttested() })
			It("sends no value in a field that no captured case has", func() { r.expectKnownKeys() })
		})
	}
})

func specsOfDelivery(r *release, server string) {
	for _, c := range submissions(r.version) {
		for level := range projectOf {
			It(fmt.Sprintf("decides what a user submits under %s, by %s: %s", level, server, c.Name), func() {
				r.expectDecided(server, level, c)
			})
		}
		if server == withREST && c.Dstack == r.version {
			It("sends what was captured of it: "+c.Name, func() {
				_, asked := r.asked(server, c.kind, func(s *dstackServer) answer { return c.submit(s, research) })
				Expect(specOf(asked.body)).To(MatchJSON(c.Request.Spec))
			})
		}
	}

	It("decides what is applied without a plan, by "+server, func() {
		plain, refused := run(demoRun("harmless-task")), run(demoRun("privileged-task"))
		apply := func(spec specification) answer {
			got, _ := r.asked(server, dstack.KindRun, func(s *dstackServer) answer {
				return postAs(s.members[member], "runs/apply", map[string]any{
					"plan": map[string]any{"run_spec": spec.with("run_name", "applied")}, "force": true,
				})
			})
			return got
		}
		isThere := func() answer {
			return postAs(r.world.dstack[server].members[member], "runs/get", map[string]string{"run_name": "applied"})
		}
		Expect(apply(refused).message()).To(ContainSubstring(privileged + researchHint + " [isolation rev="))
		Expect(isThere().message()).To(Equal("Run not found"))
		expectAccepted(apply(plain))
		expectAccepted(isThere())
	})

	It("has a way around the plugin only where the operator says so, by "+server, func() {
		s := r.world.dstack[server]
		before := s.recorder.size()
		got := postAs(s.members[member], "runs/submit", map[string]any{"run_spec": run(demoRun("privileged-task")).with("run_name", "around")})
		Expect(s.recorder.recorded(before)).To(BeEmpty())
		if dstack.AsksAlways(r.version) {
			Expect(got.status).To(Equal(http.StatusMethodNotAllowed), got.String())
			return
		}
		// When this fails, FirstGuardedRelease names too late a release.
		expectAccepted(got)
	})
}

// postAs posts to the project research-nlp.
func postAs(user account, path string, body any) answer {
	GinkgoHelper()
	got, err := user.post("/api/project/"+research+"/"+path, body)
	Expect(err).NotTo(HaveOccurred())
	return got
}

// expectForbidden submits, where the policy allows it, what one of the servers was
// told to refuse.
func (r *release) expectForbidden() {
	GinkgoHelper()
	for configuration, want := range map[string]string{
		`{"type": "task", "commands": ["true"], "dstack": true}`: "This dstack-server installation forbids `dstack: true` in run configurations.",
		`{"type": "service", "port": 80, "commands": ["true"]}`:  "This dstack-server installation forbids services without a gateway. Please configure a gateway.",
	} {
		for server, s := range r.world.dstack {
			got, err := s.members[member].post("/api/project/"+base+"/runs/apply", map[string]any{
				"plan": map[string]any{"run_spec": run(configuration)}, "force": true,
			})
			Expect(err).NotTo(HaveOccurred())
			if s.forbids {
				Expect(got.message()).To(Equal(want), server)
			} else {
				expectAccepted(got)
			}
		}
	}
}

// expectPermitted asks whether a user may create projects: each server's config.yml
// denies it, on withREST by the hand of the operator.
func (r *release) expectPermitted() {
	GinkgoHelper()
	for server, s := range r.world.dstack {
		var user struct {
			Permissions struct {
				CanCreateProjects *bool `json:"can_create_projects"`
			}
		}
		Expect(s.members[member].read("/api/users/get_my_user", nil, &user)).To(Succeed())
		Expect(user.Permissions.CanCreateProjects).To(HaveValue(BeFalse()), server)
	}
}

// expectAttested holds that the names of dstack that no release promises are
// still there: without them all that depends on them counts as the weakest.
func (r *release) expectAttested() {
	GinkgoHelper()
	Expect(r.attested(withPython)).To(HaveValue(MatchFields(IgnoreExtras, Fields{
		"DstackVersion":    Equal(r.version),
		"JobNetworkMode":   HaveValue(Equal(int(v1alpha1.NetworkModeHostWhenPossible))),
		"SSHProxyEnforced": HaveValue(BeTrue()),
		"Plugins":          HaveExactElements("dstack_isolation:IsolationPlugin"),
		"Last":             HaveValue(BeTrue()),
	})))
}

// attested is what a server's Python plugin says of its process.
func (r *release) attested(server string) *policy.Process {
	GinkgoHelper()
	_, asked := r.askedPlan(server, demoRun("harmless-task"))
	request, err := policy.Parse(dstack.KindRun, asked.body)
	Expect(err).NotTo(HaveOccurred())
	return request.Process
}

// expectKnownKeys tells of keys that the operator may have to know one day. One
// that carries a value, though nobody set it, would be refused in every plain
// specification where unknown fields are denied.
func (r *release) expectKnownKeys() {
	GinkgoHelper()
	known := knownKeys()
	var valued []string
	for _, kind := range dstack.ApplyKinds() {
		unknown := r.keys[kind].without(known[kind])
		if len(unknown) == 0 {
			continue
		}
		progress("dstack %s sends keys of a %s that no captured case has: %s", r.version, kind, strings.Join(unknown, ", "))
		for _, place := range unknown {
			if r.keys[kind][place] {
				valued = append(valued, fmt.Sprintf("%s of a %s", place, kind))
			}
		}
	}
	Expect(valued).To(BeEmpty(), "unknown keys that carry a value")
}
