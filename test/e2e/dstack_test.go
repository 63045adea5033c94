//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

const (
	project = "research-nlp"
	member  = "ada"
	// couldNotAsk stands in every refusal for want of a policy server.
	couldNotAsk = "because the isolation policy could not be asked"
)

// direct goes to addresses of the cluster without a proxy, each request on a
// connection of its own, so that each goes where the Service points now.
var direct = &http.Client{
	Timeout:   20 * time.Second,
	Transport: &http.Transport{Proxy: nil, DisableKeepAlives: true},
}

// call sends a request with a JSON body. Without an answer the status is 0.
func call(url, token, body string) (status int, answer string) {
	request, err := http.NewRequest(http.MethodPost, url, bytes.NewBufferString(body))
	if err != nil {
		return 0, err.Error()
	}
	request.Header.Set("Content-Type", "application/json")
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	response, err := direct.Do(request)
	if err != nil {
		return 0, err.Error()
	}
	defer response.Body.Close()
	read, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return 0, err.Error()
	}
	return response.StatusCode, string(read)
}

// get reads a page of one of the operator's own listeners.
func get(url string) (status int, page string, err error) {
	response, err := direct.Get(url)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	read, err := io.ReadAll(io.LimitReader(response.Body, 4<<20))
	return response.StatusCode, string(read), err
}

// Configurations of runs.
const (
	harmless   = `{"type":"task","commands":["true"],"creation_policy":"reuse","fleets":["no-such-fleet"]}`
	privileged = `{"type":"task","commands":["true"],"creation_policy":"reuse","fleets":["no-such-fleet"],"privileged":true}`
)

// plan asks the server for the plan of a run, which starts nothing. The plugin is
// asked for it just as for the run itself.
func (s *site) plan(configuration string) (status int, answer string) {
	body := fmt.Sprintf(`{"max_offers":1,"run_spec":{"ssh_key_pub":"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0b6l9q1n0o3sR4cO0mI6d7uE2N4gq5s8lM3b1yZ9aA e2e","configuration":%s}}`, configuration)
	return call(s.url+"/api/project/"+project+"/runs/get_plan", s.member, body)
}

// makeMember makes an ordinary member of a project, as an administrator does.
func (s *site) makeMember() {
	GinkgoHelper()
	admin := string(s.secret("dstack-admin", "token"))
	s.url = fmt.Sprintf("http://%s:3000", s.service("dstack-server"))
	Eventually(func() int {
		status, _ := call(s.url+"/api/users/list", admin, "{}")
		return status
	}).WithTimeout(time.Minute).WithPolling(time.Second).Should(Equal(http.StatusOK), "the dstack server must answer at %s", s.url)
	call(s.url+"/api/users/create", admin, `{"username":"`+member+`","global_role":"user"}`)
	call(s.url+"/api/projects/create", admin, `{"project_name":"`+project+`"}`)
	status, answer := call(s.url+"/api/projects/"+project+"/add_members", admin, `{"members":[{"username":"`+member+`","project_role":"user"}]}`)
	Expect(status).To(Equal(http.StatusOK), answer)
	status, answer = call(s.url+"/api/users/get_user", admin, `{"username":"`+member+`"}`)
	Expect(status).To(Equal(http.StatusOK), "get_user must answer")
	var user struct {
		Creds struct{ Token string }
	}
	Expect(json.Unmarshal([]byte(answer), &user)).To(Succeed())
	Expect(user.Creds.Token).NotTo(BeEmpty(), "get_user must tell an administrator the member's token")
	s.member = user.Creds.Token
}

// expectIsolated expects the privileged run to be refused by our policy and the
// harmless one to be accepted.
func (s *site) expectIsolated() {
	GinkgoHelper()
	status, answer := s.plan(privileged)
	Expect(status).To(Equal(http.StatusBadRequest), answer)
	Expect(answer).To(And(
		ContainSubstring(`privileged containers are not allowed in project \"%s\": set privileged to false`, project),
		ContainSubstring("profile %s/research, control privileged", s.namespace), ContainSubstring("[isolation rev=")))
	status, answer = s.plan(harmless)
	Expect(status).To(Equal(http.StatusOK), answer)
}

// expectOpen expects the server to answer, and to accept the privileged run.
func (s *site) expectOpen() {
	GinkgoHelper()
	var answer string
	Eventually(func() (status int) {
		status, answer = s.plan(privileged)
		return status
	}).WithTimeout(releaseTimeout).WithPolling(300*time.Millisecond).ShouldNot(Equal(0), "the dstack server must answer again")
	status, answer := s.plan(privileged)
	Expect(status).To(Equal(http.StatusOK), "the privileged run must be accepted again: %s", answer)
}

// prober asks for the plan of a harmless run again and again. That the server
// does not answer, while its only pod is replaced, is no refusal.
type prober struct {
	mu       sync.Mutex
	accepted int
	away     int
	outage   time.Duration
	refused  []string

	stop chan struct{}
	done chan struct{}
}

// probe starts a prober.
func (s *site) probe(every time.Duration) *prober {
	p := &prober{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(p.done)
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		last := time.Now()
		for {
			status, answer := s.plan(harmless)
			p.note(status, answer, &last)
			select {
			case <-p.stop:
				return
			case <-ticker.C:
			}
		}
	}()
	// A spec that fails stops its prober too.
	DeferCleanup(p.end)
	return p
}

func (p *prober) note(status int, answer string, last *time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch status {
	case http.StatusOK:
		p.accepted++
		p.outage = max(p.outage, time.Since(*last))
		*last = time.Now()
	case 0:
		p.away++
	default:
		p.refused = append(p.refused, fmt.Sprintf("%s: HTTP %d %.600s", time.Now().UTC().Format(time.TimeOnly), status, answer))
	}
}

// end stops the prober and waits for its last answer.
func (p *prober) end() {
	select {
	case <-p.stop:
	default:
		close(p.stop)
	}
	<-p.done
}

// count is how many requests were accepted so far.
func (p *prober) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.accepted
}

// expectNoRefusal lets the prober see the state as it is now, stops it, and
// expects that no harmless run was refused at any time.
func (p *prober) expectNoRefusal() {
	GinkgoHelper()
	seen := p.count()
	Eventually(p.count).WithTimeout(releaseTimeout).Should(BeNumerically(">=", seen+3), func() string {
		p.mu.Lock()
		defer p.mu.Unlock()
		return fmt.Sprintf("harmless runs must be accepted again; refused: %q", p.refused)
	})
	p.end()
	AddReportEntry("harmless runs", fmt.Sprintf("%d accepted, %d refused, %d without answer; longest time between two accepted %s",
		p.accepted, len(p.refused), p.away, p.outage.Round(time.Millisecond)))
	Expect(p.refused).To(BeEmpty(), "no harmless run may be refused at any time")
}

// expectNoOutage also expects that the server answered all the time.
func (p *prober) expectNoOutage() {
	GinkgoHelper()
	p.expectNoRefusal()
	Expect(p.away).To(BeZero(), "the dstack server must answer all the time")
}
