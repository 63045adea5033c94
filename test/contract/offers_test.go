package contract_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/dstack-isolation/operator/internal/dstack"
)

// cli runs dstack's own client as the member, with nothing of this machine's
// user, in a folder with presetFile. It returns what the client said.
func (s *dstackServer) cli(ctx context.Context, project, stdin string, args ...string) (string, error) {
	GinkgoHelper()
	home := GinkgoT().TempDir()
	config := fmt.Sprintf("projects:\n- {name: %s, url: %q, token: %q, default: true}\n", project, s.admin.url, s.members[member].token)
	Expect(os.Mkdir(filepath.Join(home, ".dstack"), 0o700)).To(Succeed())
	Expect(os.WriteFile(filepath.Join(home, ".dstack", "config.yml"), []byte(config), 0o600)).To(Succeed())
	Expect(os.WriteFile(filepath.Join(home, presetFile), []byte(presetConfiguration), 0o600)).To(Succeed())
	cmd := exec.CommandContext(ctx, filepath.Join(s.venv, "bin", "dstack"), args...)
	cmd.Dir, cmd.Env = home, []string{"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "HOME=" + home, "COLUMNS=2000"}
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// capturedOffer is what a release's client made of "dstack offer" with options;
// see internal/policy/testdata/offers.
type capturedOffer struct {
	Name, Dstack string
	Options      []string
	Request      struct{ Spec json.RawMessage }
}

func capturedOffers(release string) []capturedOffer {
	files, err := filepath.Glob(filepath.Join("..", "..", "internal", "policy", "testdata", "offers", nearestCaptured(release), "*.json"))
	if err != nil || len(files) == 0 {
		panic(fmt.Sprintf("no captured offers of %s: %v", release, err))
	}
	all := make([]capturedOffer, len(files))
	for i, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			panic(err)
		}
		if err := json.Unmarshal(content, &all[i]); err != nil {
			panic(file + ": " + err.Error())
		}
	}
	return all
}

// lateBackends are those that some releases lack.
var lateBackends = map[string]string{"seeweb": "0.21.5", "daytona": "0.22.5", "lium": "0.22.5"}

// presetCase is the captured question of a preset.
const presetCase = "preset"

const presetFile = "preset.dstack.yml"

// presetConfiguration makes the client plan a preset, which asks for offers; the
// answer "n" ends it there.
const presetConfiguration = "type: preset\nmodel: some/model\ntrials: 1\nmax_ttft: 1000\nmin_context_length: 1\nconcurrency: 1\nfleets: [gpu]\n"

// specsOfOffers are about what the client sends when somebody only looks.
func specsOfOffers(r *release, server string) {
	offers := func(ctx context.Context, project string, args ...string) (string, exchange, error) {
		GinkgoHelper()
		s := r.world.dstack[server]
		before := s.recorder.size()
		said, err := s.cli(ctx, project, "n\n", args...)
		recorded := s.recorder.recorded(before)
		Expect(recorded).To(HaveLen(1), said)
		Expect(recorded[0].path).To(Equal(dstack.ApplyPath(dstack.KindRun)))
		return said, recorded[0], err
	}

	It("lets members look at offers, of the backends that are allowed, by "+server, func(ctx context.Context) {
		r.world.serves(ctx, "offers")
		DeferCleanup(func(ctx context.Context) { r.world.serves(ctx, "policy") })

		By("filling the list in, as far as the release knows its names, and changing nothing else")
		_, asked, err := offers(ctx, research, "offer", "--json")
		Expect(err).NotTo(HaveOccurred())
		var sent, answered map[string]any
		Expect(json.Unmarshal(specOf(asked.body), &sent)).To(Succeed())
		Expect(json.Unmarshal(specOf(asked.answer), &answered)).To(Succeed())
		filled := answered["configuration"].(map[string]any)["backends"].([]any)
		Expect(filled).To(ContainElements("aws", "remote", "vultr"))
		Expect(filled).NotTo(ContainElement("no-such-backend"))
		for name, since := range lateBackends {
			// dstack's own plugin does not say which release asks.
			known := server == withPython && compareReleases(r.version, since) >= 0
			Expect(slices.Contains(filled, any(name))).To(Equal(known), name)
		}
		sent["configuration"].(map[string]any)["backends"] = filled
		Expect(answered).To(Equal(sent))

		By("leaving the backends that a member names, and refusing others than those of the list")
		_, asked, err = offers(ctx, research, "offer", "--json", "--backend", "aws", "--gpu", "A100:1..4")
		Expect(err).NotTo(HaveOccurred())
		Expect(string(specOf(asked.answer))).To(Equal(string(specOf(asked.body))))

		By("bounding it just so when it is applied")
		got, _ := r.asked(server, dstack.KindRun, func(s *dstackServer) answer {
			return postAs(s.members[member], "runs/apply", map[string]any{
				"plan": map[string]any{"run_spec": specification{"run_name": nil, "configuration": specification{
					"type": "task", "image": "scratch", "commands": []string{":"}, "user": "root",
				}}}, "force": true,
			})
		})
		expectAccepted(got)
		var run struct {
			RunSpec struct{ Configuration struct{ Backends []any } } `json:"run_spec"`
		}
		Expect(json.Unmarshal(got.body, &run)).To(Succeed())
		Expect(run.RunSpec.Configuration.Backends).To(Equal(filled))

		By("saying of a rule that refuses it that it holds for offers")
		said, _, err := offers(ctx, base, "offer", "--json")
		Expect(err).To(HaveOccurred())
		Expect(said).To(ContainSubstring("runs must end (profile dstack/base, rule ends). The rules of this project hold for dstack offer too: " +
			"add the options that they require, such as --max-duration, or ask the administrator to exempt offers."))
		_, _, err = offers(ctx, base, "offer", "--json", "--max-duration", "1h")
		Expect(err).NotTo(HaveOccurred())

		if dstack.Before(r.version, "0.21.2") {
			return // has no presets
		}
		By("taking a preset's question for the same")
		said, asked, err = offers(ctx, research, "apply", "-f", presetFile)
		Expect(err).NotTo(HaveOccurred())
		Expect(string(asked.answer)).To(ContainSubstring(`"error":null`), said)
		Expect(specOf(asked.answer)).NotTo(MatchJSON(specOf(asked.body)), "the list is filled in")
		for _, c := range capturedOffers(r.version) {
			if c.Dstack == r.version && c.Name == presetCase && server == withREST {
				Expect(specOf(asked.body)).To(MatchJSON(c.Request.Spec))
			}
		}
	})

	if server != withREST {
		return
	}
	for _, c := range capturedOffers(r.version) {
		if c.Dstack != r.version || c.Name == presetCase {
			continue
		}
		It("sends what was captured of dstack offer: "+c.Name, func(ctx context.Context) {
			_, asked, err := offers(ctx, research, append([]string{"offer", "--json"}, c.Options...)...)
			Expect(err).NotTo(HaveOccurred())
			Expect(specOf(asked.body)).To(MatchJSON(c.Request.Spec))
		})
	}
}
