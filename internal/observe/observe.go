// Package observe asks running processes what they are: policy servers for the
// revision they decide by, dstack servers for their release, and SSH proxies for
// their banner.
package observe

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
)

const (
	// timeout of one question. Pods are near; a slow one is asked again.
	timeout = 3 * time.Second
	// parallel questions at once.
	parallel = 8
	// maxAnswer bounds what is read of an answer.
	maxAnswer = 64 << 10
)

// Prober asks processes straight, over HTTP and SSH, and never through a web
// proxy.
type Prober struct {
	http *http.Client
	dial Dialer
}

// Dialer opens connections; tests put their own in place of the network's.
type Dialer func(ctx context.Context, network, address string) (net.Conn, error)

// New returns a Prober. A nil dial means the network's own.
func New(dial Dialer) *Prober {
	if dial == nil {
		dial = (&net.Dialer{Timeout: timeout}).DialContext
	}
	return &Prober{dial: dial, http: &http.Client{
		Timeout:       timeout,
		Transport:     &http.Transport{DialContext: dial, DisableKeepAlives: true, MaxResponseHeaderBytes: maxAnswer},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// PolicyServer is what one policy server pod says of itself.
type PolicyServer struct {
	// Revision it decides by, and Version, the build of the operator.
	Revision, Version string
	// NetworkMode is what it takes the server's pods to run with; 0 if it does not
	// know, which it takes for the loosest.
	NetworkMode v1alpha1.NetworkMode
	// Err is why it did not say.
	Err error
}

// PolicyServers asks every address for its revision. The result has one entry
// an address, in their order.
func (p *Prober) PolicyServers(ctx context.Context, addresses []string, port int, token string) []PolicyServer {
	answers := make([]PolicyServer, len(addresses))
	each(ctx, addresses, func(ctx context.Context, i int, address string) {
		answers[i] = p.policyServer(ctx, baseURL(address, port), token)
	})
	return answers
}

func (p *Prober) policyServer(ctx context.Context, base, token string) PolicyServer {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+dstack.PathRevision, nil)
	if err != nil {
		return PolicyServer{Err: plain(err)}
	}
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := p.http.Do(req)
	if err != nil {
		return PolicyServer{Err: plain(err)}
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return PolicyServer{Err: fmt.Errorf("answered with status %d", res.StatusCode)}
	}
	var answer struct {
		Revision    string               `json:"revision"`
		Version     string               `json:"version"`
		NetworkMode v1alpha1.NetworkMode `json:"networkMode"`
	}
	if err := json.NewDecoder(io.LimitReader(res.Body, maxAnswer)).Decode(&answer); err != nil {
		return PolicyServer{Err: plain(fmt.Errorf("read the answer: %w", err))}
	}
	if answer.Revision == "" {
		return PolicyServer{Err: errors.New("named no revision")}
	}
	return PolicyServer{Revision: answer.Revision, Version: answer.Version, NetworkMode: answer.NetworkMode}
}

// Server is what one dstack server process says of itself.
type Server struct {
	// Release is the release of dstack; "" for a build without one.
	Release string
	// TokenRejected is true when it does not know the admin token, or when the
	// token is not that of a global administrator.
	TokenRejected bool
	// Err is why it did not say.
	Err error
}

// Servers asks every address for its release, and whether it accepts the admin
// token when there is one.
func (p *Prober) Servers(ctx context.Context, addresses []string, port int, adminToken string) []Server {
	answers := make([]Server, len(addresses))
	each(ctx, addresses, func(ctx context.Context, i int, address string) {
		answers[i] = p.server(ctx, baseURL(address, port), adminToken)
	})
	return answers
}

// Runs asks the first of the addresses that answers for runs, with the token of a
// global administrator.
func (p *Prober) Runs(ctx context.Context, addresses []string, port int, adminToken string, q dstack.RunsQuery) (runs []dstack.Run, all bool, err error) {
	err = errors.New("no server pod runs")
	for _, address := range addresses {
		client := dstack.Client{HTTP: p.http, BaseURL: baseURL(address, port), Token: adminToken}
		if runs, all, err = client.Runs(ctx, q); err == nil {
			return runs, all, nil
		}
		err = plain(err)
	}
	return nil, false, err
}

func (p *Prober) server(ctx context.Context, base, adminToken string) Server {
	c := &dstack.Client{HTTP: p.http, BaseURL: base, Token: adminToken}
	release, err := c.Release(ctx)
	if err != nil {
		return Server{Err: plain(err)}
	}
	s := Server{Release: release}
	if adminToken == "" {
		return s
	}
	role, err := c.CheckToken(ctx)
	var status *dstack.StatusError
	switch {
	case errors.As(err, &status) && (status.Code == http.StatusUnauthorized || status.Code == http.StatusForbidden):
		s.TokenRejected = true
	case err != nil:
		s.Err = plain(err)
	default:
		s.TokenRejected = role != "admin"
	}
	return s
}

func baseURL(address string, port int) string {
	return "http://" + net.JoinHostPort(address, strconv.Itoa(port))
}

func each(ctx context.Context, addresses []string, ask func(ctx context.Context, i int, address string)) {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(parallel)
	for i, address := range addresses {
		g.Go(func() error {
			ask(ctx, i, address)
			return nil
		})
	}
	_ = g.Wait() // No question returns an error: each keeps its own.
}

// plain says in words of its own why there is no answer: without the address,
// so that a condition's message does not change with every new pod, and without
// what the other side sent.
func plain(err error) error {
	var timedOut interface{ Timeout() bool }
	var lookup *net.DNSError
	var system syscall.Errno
	var request *url.Error
	var certificate *tls.CertificateVerificationError
	var noTLS tls.RecordHeaderError
	var alert tls.AlertError
	switch {
	case errors.As(err, &timedOut) && timedOut.Timeout():
		return errors.New("did not answer in time")
	case errors.As(err, &certificate):
		return errors.New("has a TLS certificate that is not trusted here for this name")
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &noTLS), errors.As(err, &alert):
		return errors.New("did not answer in TLS")
	case errors.Is(err, context.Canceled):
		return errors.New("was not waited for")
	case errors.As(err, &lookup):
		return errors.New(lookup.Err)
	case errors.As(err, &system):
		return errors.New(system.Error())
	case !errors.As(err, &request):
		return err // What a client of ours says of an answer.
	case request.Op == "parse":
		return errors.New("has no usable address")
	case errors.Is(err, io.EOF):
		return errors.New("closed the connection")
	default:
		return errors.New("did not answer in HTTP")
	}
}
