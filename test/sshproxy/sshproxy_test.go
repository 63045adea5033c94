package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dstack-isolation/operator/internal/observe"
	"github.com/dstack-isolation/operator/internal/sshproxy"
)

const (
	token = "tok-7f3e"
	job   = "3b07781fc52d4427b3f4e83f16abb104"
)

// output is a log that is written and read at the same time.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

func env(t *testing.T, changes map[string]string) func(string) (string, bool) {
	t.Helper()
	key, err := sshproxy.NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{"DSTACK_SSHPROXY_HOST_KEYS": string(key), "DSTACK_SSHPROXY_API_TOKEN": token}
	for name, value := range changes {
		all[name] = value
		if value == "unset" {
			delete(all, name)
		}
	}
	return func(name string) (string, bool) {
		value, ok := all[name]
		return value, ok
	}
}

// running is a stand-in that listens.
type running struct {
	address string
	log     *output
	stop    func() error
}

var listening = regexp.MustCompile(`listening for client connections on (\S+)`)

func start(t *testing.T, lookup func(string) (string, bool), args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	log, ended := &output{}, make(chan error, 1)
	go func() { ended <- run(ctx, append(args, "--address", "127.0.0.1", "--port", "0"), lookup, log) }()
	r := &running{log: log, stop: sync.OnceValue(func() error { cancel(); return <-ended })}
	t.Cleanup(func() { _ = r.stop() })
	for range 500 {
		if found := listening.FindStringSubmatch(log.String()); found != nil {
			r.address = found[1]
			return r
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("does not listen: %s", log)
	return nil
}

func TestStartsOnlyWithKeysAndToken(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	for name, tc := range map[string]struct {
		env  map[string]string
		args []string
		want string
	}{
		"no host keys":         {env: map[string]string{"DSTACK_SSHPROXY_HOST_KEYS": "unset"}, want: "no host keys"},
		"empty host keys":      {env: map[string]string{"DSTACK_SSHPROXY_HOST_KEYS": ""}, want: "no host keys"},
		"a file that is none":  {args: []string{"--host-key", missing}, want: "open " + missing + ": no such file or directory"},
		"a key that is none":   {env: map[string]string{"DSTACK_SSHPROXY_HOST_KEYS": "-----BEGIN A-----\nAAAA\n-----END A-----\n"}, want: `ssh: unsupported key type "A"`},
		"no token":             {env: map[string]string{"DSTACK_SSHPROXY_API_TOKEN": "unset"}, want: "no API token"},
		"an empty token":       {env: map[string]string{"DSTACK_SSHPROXY_API_TOKEN": ""}, want: "no API token"},
		"a wrong log level":    {env: map[string]string{"DSTACK_SSHPROXY_LOG_LEVEL": "loud"}, want: "no such log level"},
		"a port that is none":  {env: map[string]string{"DSTACK_SSHPROXY_PORT": "ssh"}, want: "DSTACK_SSHPROXY_PORT is not a number"},
		"an address not there": {args: []string{"--address", "203.0.113.7", "--port", "0"}, want: "listen tcp 203.0.113.7:0: bind: cannot assign requested address"},
	} {
		err := run(t.Context(), tc.args, env(t, tc.env), &output{})
		if err == nil || err.Error() != tc.want {
			t.Errorf("%s: got %v, want %s", name, err, tc.want)
		}
	}
}

func TestBanner(t *testing.T) {
	r := start(t, env(t, nil))
	if got := observe.New(nil).SSHProxies(t.Context(), []string{r.address}, nil)[0]; got.Version != version || got.Err != nil {
		t.Errorf("got %+v, want version %s", got, version)
	}
}

// dstackServer answers for one job.
func dstackServer(t *testing.T, authorized string) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct{ ID string }
		_ = json.NewDecoder(r.Body).Decode(&body)
		switch {
		case r.URL.Path != "/api/sshproxy/get_upstream" || r.Header.Get("Authorization") != "bearer "+token:
			w.WriteHeader(http.StatusForbidden)
		case body.ID != job:
			w.WriteHeader(http.StatusBadRequest)
		default:
			fmt.Fprintf(w, `{"hosts": [], "authorized_keys": [%q]}`, authorized)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func newClientKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func login(r *running, user string, key ssh.Signer, hostKey ssh.PublicKey) (*ssh.Client, error) {
	return ssh.Dial("tcp", r.address, &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: ssh.FixedHostKey(hostKey), Timeout: 10 * time.Second,
	})
}

func TestLoginAndStop(t *testing.T) {
	owner := newClientKey(t)
	api := dstackServer(t, string(ssh.MarshalAuthorizedKey(owner.PublicKey())))
	private, err := sshproxy.NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	hostKeys, err := sshproxy.ParseHostKeys(private)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "keys")
	if err := os.WriteFile(file, private, 0o600); err != nil {
		t.Fatal(err)
	}
	// A file goes before the environment's keys, and the URL's path is replaced.
	r := start(t, env(t, map[string]string{"DSTACK_SSHPROXY_API_URL": api.URL + "/below/this"}), "--host-key", file)

	for user, key := range map[string]ssh.Signer{job: newClientKey(t), "another": owner} {
		if client, err := login(r, user, key, hostKeys[0]); err == nil {
			client.Close()
			t.Errorf("%s was let in with a key that is not the owner's", user)
		}
	}
	client, err := login(r, job+"_root", owner, hostKeys[0])
	if err != nil {
		t.Fatalf("the owner is kept out: %v\n%s", err, r.log)
	}
	if _, err := client.NewSession(); err != nil {
		t.Errorf("no session: %v", err)
	}
	if err := r.stop(); err != nil {
		t.Errorf("ended with %v", err)
	}
	var status *ssh.ExitError
	if err := client.Wait(); err == nil || errors.As(err, &status) {
		t.Errorf("the session was not cut: %v", err)
	}
	if strings.Contains(r.log.String(), token) || strings.Contains(r.log.String(), "PRIVATE") {
		t.Errorf("a secret is in the log:\n%s", r.log)
	}
}
