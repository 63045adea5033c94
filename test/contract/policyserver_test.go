package contract_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"regexp"
	"time"

	"github.com/dstack-isolation/operator/internal/dstack"
)

// policyServer is a policy server that serves the YAML files of a folder, as a
// process.
type policyServer struct {
	name    string
	folder  string
	out     *transcript
	process *process
	// address stays the same over restarts: dstack servers know it.
	address string
	// tokenFile holds what the dstack server must present; empty for a policy
	// server behind dstack's built-in plugin, which presents nothing.
	tokenFile, token string
}

// start starts it, and returns when it knows its policy.
func (p *policyServer) start(ctx context.Context) error {
	executable, err := os.Executable()
	if err != nil {
		return err
	}
	listen := p.address
	if listen == "" {
		listen = "127.0.0.1:0"
	}
	args := []string{
		executable, "policy-server", "--from", p.folder, "--listen", listen, "--health-listen", "127.0.0.1:0",
		"--drain-delay", "0s", "--log-level", "debug",
	}
	if p.token != "" {
		if err := p.setToken(p.token); err != nil {
			return err
		}
		args = append(args, "--token-file", p.tokenFile)
	}
	before := p.out.size()
	if p.process, err = startProcess(p.name, p.out, []string{asOperator + "=1"}, args...); err != nil {
		return err
	}
	return eventually(ctx, p.process, func() error {
		found := listening.FindStringSubmatch(p.out.raw(before))
		if found == nil {
			return fmt.Errorf("%s does not say where it listens", p.name)
		}
		p.address = found[1]
		_, err := p.revision()
		return err
	})
}

var listening = regexp.MustCompile(`"msg":"Listening".*?"address":"([^"]+)"`)

// setToken changes the file that the policy server reads its token from.
func (p *policyServer) setToken(token string) error {
	return os.WriteFile(p.tokenFile, []byte(token+"\n"), 0o600)
}

func (p *policyServer) url() string { return "http://" + p.address }

// revision asks it by which policy it decides.
func (p *policyServer) revision() (string, error) {
	response, err := p.get(dstack.PathRevision, p.token)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answers HTTP %d", dstack.PathRevision, response.StatusCode)
	}
	var answer struct{ Revision string }
	err = json.NewDecoder(response.Body).Decode(&answer)
	return answer.Revision, err
}

// accepts tells whether it takes a token for the right one.
func (p *policyServer) accepts(token string) (bool, error) {
	response, err := p.get(dstack.PathReady, token)
	if err != nil {
		return false, err
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK, nil
}

func (p *policyServer) get(path, token string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, p.url()+path, nil)
	if err != nil {
		return nil, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	return direct.Do(request)
}

// eventually waits until try succeeds; a process that ends will not let it.
func eventually(ctx context.Context, p *process, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("%s ended (%w), its output is:\n%s", p.name, p.err, p.out.printable(0))
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready: %w; its output is:\n%s", p.name, err, p.out.printable(0))
		case <-time.After(100 * time.Millisecond):
		}
	}
}
