package contract_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/policy"
)

// capture is one body that dstack sent to a plugin once; see
// internal/policy/testdata/cases.
type capture struct {
	Name     string
	Dstack   string
	Path     string
	Request  struct{ Spec json.RawMessage }
	DeniedBy map[v1alpha1.Level][]string `json:"denied_by"`
}

const captureDir = "../../internal/policy/testdata/cases"

// captures are the cases of a kind, of a release or of the nearest one before
// it that has cases.
func captures(release string, kind dstack.ApplyKind) []capture {
	files, err := filepath.Glob(filepath.Join(captureDir, nearestCaptured(release), "*.json"))
	if err != nil {
		panic(err) // the pattern is well-formed
	}
	var all []capture
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			panic(err)
		}
		var c capture
		if err := json.Unmarshal(content, &c); err != nil {
			panic(file + ": " + err.Error())
		}
		if c.Path == dstack.ApplyPath(kind) {
			all = append(all, c)
		}
	}
	return all
}

// nearestCaptured is the last release with captured cases that is not newer, or
// the first one that has any.
func nearestCaptured(release string) string {
	dirs, err := filepath.Glob(filepath.Join(captureDir, "*.*.*"))
	if err != nil || len(dirs) == 0 {
		panic(fmt.Sprintf("no captured cases in %s: %v", captureDir, err))
	}
	var captured []string
	for _, dir := range dirs {
		captured = append(captured, filepath.Base(dir))
	}
	slices.SortFunc(captured, compareReleases)
	older := slices.DeleteFunc(slices.Clone(captured), func(c string) bool { return compareReleases(c, release) > 0 })
	if len(older) == 0 {
		return captured[0]
	}
	return older[len(older)-1]
}

// projectOf is a project that a profile of just this level governs.
var projectOf = map[v1alpha1.Level]string{v1alpha1.LevelBaseline: base, v1alpha1.LevelRestricted: research}

var controlName = regexp.MustCompile(`, controls? ([A-Za-z]+)(?: and ([A-Za-z]+))?\)`)

// The server takes back what it sent: every captured specification is accepted as
// it is, as run_spec, in its form of the wire. So all of them are asked.
var _ = Describe("A captured run", func() {
	var effective *isolation.Effective
	BeforeEach(func() {
		var err error
		effective, err = resolve(os.DirFS("testdata/policy"))
		Expect(err).NotTo(HaveOccurred())
	})

	It("is one of many", func() { Expect(len(captures(dstackRelease, dstack.KindRun))).To(BeNumerically(">", 20)) })

	for _, c := range captures(dstackRelease, dstack.KindRun) {
		It("is accepted without policy: "+c.Name, func() {
			expectAcceptedByPolicy(askPlan(withoutPolicy, member, research, c.Request.Spec), c)
		})
		for _, server := range deliveries {
			for level, project := range projectOf {
				It(fmt.Sprintf("is decided as its body says under %s, by %s: %s", level, server, c.Name), func() {
					got := askPlan(server, member, project, c.Request.Spec)
					want := deniedControls(c, level)
					names := controlsIn(got.message())
					slices.Sort(names)
					Expect(names).To(Equal(want), got.String())

					// And to the letter as the captured body itself is decided.
					decision := decideCaptured(effective, project, c)
					if decision.Allowed {
						expectAcceptedByPolicy(got, c)
						Expect(got.part("run_spec")).To(Equal(askPlan(withoutPolicy, member, project, c.Request.Spec).part("run_spec")))
						return
					}
					message := decision.Message
					if server == withREST {
						message = restPrefix + message
					}
					Expect(got.message()).To(Equal(message))
				})
			}
		}
	}
})

// afterPolicy are the errors of dstack for what is missing on these servers, or
// was left out of the captured case. It looks for volumes, and at keys of hosts,
// after it has asked its plugins.
var afterPolicy = map[string]string{
	"task-named-volume-to-etc": "Volume ['models'] not found",
	"fleet-ssh":                notAKey,
	"fleet-ssh-env-privileged": notAKey,
}

const notAKey = "Unsupported key type. The key type should be RSA, ECDSA, or Ed25519 and should not be encrypted with passphrase."

func expectAcceptedByPolicy(got answer, c capture) {
	GinkgoHelper()
	if message := afterPolicy[c.Name]; message != "" {
		Expect(got.message()).To(Equal(message))
		return
	}
	expectAccepted(got)
}

// controlsIn are the controls that a refusal names, each once.
func controlsIn(message string) []string {
	seen := map[string]bool{}
	var names []string
	for _, found := range controlName.FindAllStringSubmatch(message, -1) {
		for _, name := range found[1:] {
			if name != "" && !seen[name] {
				seen[name] = true
				names = append(names, name)
			}
		}
	}
	return names
}

// deniedControls are the controls that exist among those that the case names,
// plus hostNetwork: cases are written for network mode 3, and the servers run
// with 2, in which several nodes would get the network of the host.
func deniedControls(c capture, level v1alpha1.Level) []string {
	var names []string
	for _, name := range c.DeniedBy[level] {
		if _, exists := isolation.ControlByName(v1alpha1.ControlName(name)); exists {
			names = append(names, name)
		}
	}
	if level == v1alpha1.LevelRestricted && slices.Contains(names, "distributedTasks") {
		names = append(names, "hostNetwork")
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func decideCaptured(effective *isolation.Effective, project string, c capture) policy.Decision {
	GinkgoHelper()
	body, err := json.Marshal(map[string]any{"user": member, "project": project, "spec": c.Request.Spec})
	Expect(err).NotTo(HaveOccurred())
	return decideBody(effective, dstack.KindRun, body)
}

// decideBody decides what a plugin sent, as a policy server does beside servers
// of network mode 2.
func decideBody(effective *isolation.Effective, kind dstack.ApplyKind, body []byte) policy.Decision {
	GinkgoHelper()
	request, err := policy.Parse(kind, body)
	Expect(err).NotTo(HaveOccurred())
	running := policy.Running{NetworkMode: v1alpha1.NetworkModeHostWhenPossible}
	return policy.Decide(effective, running, request, time.Now())
}
