// Package policyserver serves the decisions of package policy over dstack's
// plugin protocol. It decides from memory: a Source keeps the policy, and no
// request waits for anything but its own body.
package policyserver

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"

	"github.com/dstack-isolation/operator/internal/dstack"
)

// Options is what a Server is made of.
type Options struct {
	// Source keeps the policy.
	Source Source
	// Listener takes dstack's requests, HealthListener probes and scrapes. Run
	// closes both.
	Listener, HealthListener net.Listener
	// TokenFile holds the bearer token that clients present; empty for none.
	TokenFile string
	// EarlierTokens is a folder with tokens that are accepted too, one a file; empty
	// for none.
	EarlierTokens string
	// DrainDelay is how long requests are still answered after /readyz began to
	// say no, so that Services can take the address out first.
	DrainDelay time.Duration
	// Limits bound requests; the zero value means DefaultLimits.
	Limits Limits
	// Version is the build, for /revision and metrics.
	Version string
	// Log takes decisions and changes of the policy. Refusals, exceptions used and
	// what audit mode found are V(0), other decisions V(1).
	Log logr.Logger
}

// Server answers dstack's requests. New makes one, Run runs it once.
type Server struct {
	options Options
	limits  Limits
	token   *tokenFile
	gate    *gate
	// places of the connections on the two ports.
	places, healthPlaces *places

	metrics  *metrics
	routes   map[string]dstack.ApplyKind
	current  atomic.Pointer[Snapshot]
	draining atomic.Bool
}

// New prepares a server. It fails when the token file cannot be read.
func New(options Options) (*Server, error) {
	if options.Limits == (Limits{}) {
		options.Limits = DefaultLimits()
	}
	token, err := openTokenFile(options.TokenFile, options.EarlierTokens, options.Log)
	if err != nil {
		return nil, err
	}
	s := &Server{
		options: options,
		limits:  options.Limits,
		token:   token,
		gate:    newGate(options.Limits),
		places:  newPlaces(options.Limits, options.Limits.Connections),
		// Nobody presents a token to probes and metrics.
		healthPlaces: newPlaces(options.Limits, 0),
		metrics:      newMetrics(),
		routes:       map[string]dstack.ApplyKind{},
	}
	s.metrics.watch(s.places)
	for _, kind := range dstack.ApplyKinds() {
		s.routes[dstack.ApplyPath(kind)] = kind
	}
	return s, nil
}

// Run serves until ctx ends, then drains, and returns nil. It returns an error
// as soon as a listener or the source fails, or when requests were cut off.
func (s *Server) Run(ctx context.Context) error {
	// Source and token outlive ctx: what is decided while draining is decided by
	// the present policy.
	work, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	group, failed := errgroup.WithContext(work)

	decisions := s.httpServer(s.decisionHandler())
	health := s.httpServer(s.healthHandler())
	group.Go(func() error { return s.options.Source.Run(failed, s.publish) })
	if s.token != nil {
		group.Go(func() error { s.token.watch(failed); return nil })
	}
	group.Go(func() error {
		return serve(decisions, s.places.listen(s.options.Listener))
	})
	group.Go(func() error { return serve(health, s.healthPlaces.listen(s.options.HealthListener)) })
	group.Go(func() error {
		defer stop()
		select {
		case <-ctx.Done():
			return s.drain(failed, decisions, health)
		case <-failed.Done():
			return errors.Join(decisions.Close(), health.Close())
		}
	})
	s.options.Log.Info("Listening", "address", s.options.Listener.Addr().String(),
		"healthAddress", s.options.HealthListener.Addr().String(), "version", s.options.Version)
	return group.Wait()
}

// drain says not ready, goes on for a while (not if a part failed), then lets
// requests under way end.
func (s *Server) drain(failed context.Context, decisions, health *http.Server) error {
	s.draining.Store(true)
	// Kept-alive clients are told to go elsewhere with their next answer.
	decisions.SetKeepAlivesEnabled(false)
	s.options.Log.Info("Draining", "delay", s.options.DrainDelay.String())
	select {
	case <-time.After(s.options.DrainDelay):
	case <-failed.Done():
	}

	ctx, cancel := context.WithTimeout(context.Background(), s.limits.Shutdown)
	defer cancel()
	err := decisions.Shutdown(ctx)
	if err != nil {
		err = errors.Join(fmt.Errorf("drain requests: %w", err), decisions.Close())
	}
	return errors.Join(err, health.Close())
}

func (s *Server) httpServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:                      handler,
		ReadHeaderTimeout:            s.limits.ReadHeader,
		ReadTimeout:                  s.limits.Read,
		WriteTimeout:                 s.limits.Write,
		IdleTimeout:                  s.limits.Idle,
		MaxHeaderBytes:               s.limits.HeaderBytes,
		DisableGeneralOptionsHandler: true,
		ConnContext:                  withConn,
		ErrorLog:                     log.New(logWriter{s.options.Log}, "", 0),
	}
}

func serve(server *http.Server, listener net.Listener) error {
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", listener.Addr(), err)
	}
	return nil
}

// publish makes a snapshot the one that is decided by.
func (s *Server) publish(now *Snapshot) {
	before := s.current.Swap(now)
	s.metrics.observeSnapshot(before, now, s.options.Version)
	if before != nil && before.revision() == now.revision() &&
		before.Running == now.Running && before.Stale == now.Stale && before.TokenRequired == now.TokenRequired {
		return
	}
	values := []any{
		"server", now.Server.String(), "revision", now.revision(), "runningNetworkMode", int(now.Running.NetworkMode),
		"tokenRequired", s.token != nil && now.TokenRequired, "kept", string(now.Stale),
	}
	if now.Effective == nil {
		s.options.Log.Info("Found no DstackServer, so that everything is refused", values...)
		return
	}
	s.options.Log.Info("Changed policy", append(values, "profiles", len(now.Effective.Profiles))...)
}

// logWriter takes what net/http has to say, mostly of clients that went away.
type logWriter struct{ log logr.Logger }

func (w logWriter) Write(p []byte) (int, error) {
	w.log.V(1).Info("Heard from the HTTP server", "message", strings.TrimSpace(string(p)))
	return len(p), nil
}
