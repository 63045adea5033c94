package controllers_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
	"golang.org/x/crypto/ssh"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/sshproxy"
)

// network stands for the pods' network: who answers at an address.
type network struct {
	mu      sync.Mutex
	targets map[string]string
	servers []*httptest.Server
}

// newNetwork lasts until the spec is over or, made in a BeforeAll, the container.
func newNetwork() *network {
	n := &network{targets: map[string]string{}}
	DeferCleanup(func() {
		for _, s := range n.servers {
			s.Close()
		}
	})
	return n
}

// dial opens a connection to who answers at a pod's address.
func (n *network) dial(ctx context.Context, _, address string) (net.Conn, error) {
	n.mu.Lock()
	target, found := n.targets[address]
	n.mu.Unlock()
	if !found {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}
	}
	var d net.Dialer
	return d.DialContext(ctx, "tcp", target)
}

// at lets a listener answer at a pod's address.
func (n *network) at(address, target string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.targets[address] = target
}

// gone lets nobody answer at a pod's address.
func (n *network) gone(address string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.targets, address)
}

// policyServer is a process of the policy server, as far as the manager asks it.
type policyServer struct {
	mu                       sync.Mutex
	token, revision, version string
	// networkMode that it counts on; 0 while it knows of none.
	networkMode v1alpha1.NetworkMode
}

// counts lets it know what the server's pods run with.
func (p *policyServer) counts(mode v1alpha1.NetworkMode) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.networkMode = mode
}

func (p *policyServer) set(revision, version string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.revision, p.version = revision, version
}

func (p *policyServer) ServeHTTP(out http.ResponseWriter, req *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if req.URL.Path != "/revision" || req.Header.Get("Authorization") != "Bearer "+p.token {
		out.WriteHeader(http.StatusUnauthorized)
		return
	}
	answer(out, map[string]any{"revision": p.revision, "version": p.version, "networkMode": p.networkMode})
}

// dstackServer is a process of dstack, as far as the manager asks it.
type dstackServer struct {
	mu             sync.Mutex
	release, token string
	role           string
	// sshToken is the token that the SSH proxy must present; "" if it was told of
	// no proxy.
	sshToken string
	// runs, the youngest first, and how often they were asked for.
	runs  []listedRun
	asked int
}

// listedRun is a run in the answer to POST /api/runs/list.
type listedRun struct {
	ID          string    `json:"id"`
	Project     string    `json:"project_name"`
	SubmittedAt time.Time `json:"submitted_at"`
	Spec        runSpec   `json:"run_spec"`
	ended       bool
}

type runSpec struct {
	Name string `json:"run_name"`
}

// submitted adds a run, which has ended or not.
func (d *dstackServer) submitted(at time.Time, project, name string, ended bool) *dstackServer {
	d.mu.Lock()
	defer d.mu.Unlock()
	run := listedRun{ID: strconv.Itoa(len(d.runs)), Project: project, SubmittedAt: at, Spec: runSpec{name}, ended: ended}
	d.runs = append([]listedRun{run}, d.runs...)
	return d
}

// listed is one page of runs: all of them, and then none.
func (d *dstackServer) listed(req *http.Request) []listedRun {
	d.asked++
	var query struct {
		OnlyActive bool   `json:"only_active"`
		Previous   string `json:"prev_run_id"`
	}
	page := []listedRun{}
	if json.NewDecoder(req.Body).Decode(&query) != nil || query.Previous != "" {
		return page
	}
	for _, run := range d.runs {
		if !query.OnlyActive || !run.ended {
			page = append(page, run)
		}
	}
	return page
}

func (d *dstackServer) setSSHToken(token string) *dstackServer {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sshToken = token
	return d
}

func (d *dstackServer) ServeHTTP(out http.ResponseWriter, req *http.Request) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case req.Method == http.MethodPost && req.URL.Path == "/api/server/get_info":
		answer(out, map[string]any{"server_version": d.release})
	case req.Method == http.MethodPost && req.URL.Path == "/api/users/get_my_user" && req.Header.Get("Authorization") == "Bearer "+d.token:
		answer(out, map[string]any{"username": "admin", "global_role": d.role})
	case req.Method == http.MethodPost && req.URL.Path == "/api/runs/list" && req.Header.Get("Authorization") == "Bearer "+d.token:
		answer(out, d.listed(req))
	case req.URL.Path == "/api/sshproxy/get_upstream" && d.sshToken == "":
		out.WriteHeader(http.StatusForbidden)
		answer(out, map[string]any{"detail": map[string]any{"msg": "Access denied", "code": nil}})
	case req.URL.Path == "/api/sshproxy/get_upstream" && req.Header.Get("Authorization") != "Bearer "+d.sshToken:
		out.WriteHeader(http.StatusForbidden)
		answer(out, map[string]any{"detail": map[string]any{"msg": "Invalid token", "code": nil}})
	case req.URL.Path == "/api/sshproxy/get_upstream":
		out.WriteHeader(http.StatusBadRequest)
		answer(out, map[string]any{"detail": []any{map[string]any{"msg": "Resource not found", "code": "resource_not_exists"}}})
	default:
		out.WriteHeader(http.StatusForbidden)
	}
}

func answer(out http.ResponseWriter, body any) {
	out.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(out).Encode(body)
}

// listen serves a handler and returns its address.
func (n *network) listen(h http.Handler) string {
	s := httptest.NewServer(h)
	n.servers = append(n.servers, s)
	return s.Listener.Addr().String()
}

// greet answers every connection as an SSH server does that has this banner and a new
// host key.
func (n *network) greet(banner string) string {
	GinkgoHelper()
	key, err := sshproxy.NewHostKey()
	Expect(err).NotTo(HaveOccurred())
	return n.sshServer(banner, key)
}

// sshServer answers every connection as an SSH server does, by the host keys.
func (n *network) sshServer(banner string, private []byte) string {
	GinkgoHelper()
	config := &ssh.ServerConfig{ServerVersion: banner, NoClientAuth: true}
	for block, rest := pem.Decode(private); block != nil; block, rest = pem.Decode(rest) {
		key, err := ssh.ParsePrivateKey(pem.EncodeToMemory(block))
		Expect(err).NotTo(HaveOccurred())
		config.AddHostKey(key)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	Expect(err).NotTo(HaveOccurred())
	DeferCleanup(l.Close)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				_, _, _, _ = ssh.NewServerConn(conn, config)
			}()
		}
	}()
	return l.Addr().String()
}
