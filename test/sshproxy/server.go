package main

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dstack-isolation/operator/internal/dstack"
)

// parseKeys reads all blocks, and skips what is none.
func parseKeys(blob []byte) ([]ssh.Signer, error) {
	var keys []ssh.Signer
	for {
		var block *pem.Block
		if block, blob = pem.Decode(blob); block == nil {
			break
		}
		key, err := ssh.ParsePrivateKey(pem.EncodeToMemory(block))
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, errors.New("no host keys")
	}
	return keys, nil
}

// upstreams asks the dstack server whom a login leads to.
type upstreams struct {
	url, token string
	timeout    time.Duration
}

// authorized are the keys that may log in as the job with this id.
func (u upstreams) authorized(ctx context.Context, id string) ([]string, error) {
	base, err := url.Parse(u.url)
	if err != nil {
		return nil, err
	}
	body, err := json.Marshal(map[string]string{"id": id})
	if err != nil {
		return nil, err
	}
	// The path of the URL is replaced, not appended to.
	at := base.ResolveReference(&url.URL{Path: dstack.SSHProxyUpstreamPath}).String()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "bearer "+u.token)
	res, err := (&http.Client{Timeout: u.timeout}).Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("the server answered with status %d", res.StatusCode)
	}
	var answer struct {
		AuthorizedKeys []string `json:"authorized_keys"`
	}
	err = json.NewDecoder(res.Body).Decode(&answer)
	return answer.AuthorizedKeys, err
}

type server struct {
	listen    string
	keys      []ssh.Signer
	upstreams upstreams
	log       io.Writer

	mu    sync.Mutex
	conns map[net.Conn]bool
	open  sync.WaitGroup
}

// serve takes connections until the context ends, then cuts them all at once.
func (s *server) serve(ctx context.Context) error {
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", s.listen)
	if err != nil {
		return err
	}
	s.conns = map[net.Conn]bool{}
	fmt.Fprintln(s.log, "listening for client connections on", l.Addr())
	defer context.AfterFunc(ctx, func() { l.Close() })()
	for {
		conn, err := l.Accept()
		if err != nil {
			break
		}
		s.keep(conn)
		s.open.Go(func() {
			defer s.drop(conn)
			s.session(ctx, conn)
		})
	}
	fmt.Fprintln(s.log, "closing listener and connections")
	s.mu.Lock()
	for conn := range s.conns {
		conn.Close()
	}
	s.mu.Unlock()
	s.open.Wait()
	return nil
}

func (s *server) keep(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[conn] = true
}

func (s *server) drop(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	conn.Close()
	delete(s.conns, conn)
}

// session logs a client in and holds its channels open.
func (s *server) session(ctx context.Context, conn net.Conn) {
	config := &ssh.ServerConfig{
		ServerVersion: dstack.SSHProxyBanner + version,
		PublicKeyCallback: func(c ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			return s.check(ctx, c.User(), key)
		},
	}
	for _, key := range s.keys {
		config.AddHostKey(key)
	}
	client, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return
	}
	defer client.Close()
	fmt.Fprintln(s.log, "client logged in")
	go ssh.DiscardRequests(requests)
	for channel := range channels {
		_, requests, err := channel.Accept()
		if err == nil {
			go ssh.DiscardRequests(requests)
		}
	}
}

// check lets the owner of a job in. The name of a user may follow the id.
func (s *server) check(ctx context.Context, user string, key ssh.PublicKey) (*ssh.Permissions, error) {
	id, _, _ := strings.Cut(user, "_")
	authorized, err := s.upstreams.authorized(ctx, id)
	if err != nil {
		fmt.Fprintln(s.log, "failed to get upstream:", err)
		return nil, errors.New("no upstream")
	}
	for _, line := range authorized {
		known, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err == nil && bytes.Equal(known.Marshal(), key.Marshal()) {
			return nil, nil
		}
	}
	return nil, errors.New("unknown public key")
}
