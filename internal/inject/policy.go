package inject

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/dstack-isolation/operator/internal/dstack"
)

const (
	// attemptTimeout bounds one request, retryAfter the pause behind it.
	attemptTimeout = 5 * time.Second
	retryAfter     = time.Second
)

// waitForPolicy asks the policy server until it is ready and accepts the token. A
// wrong token is asked about again as well: the server reads it from a mounted
// Secret, which the kubelet brings up to date with a delay. The error is the reason
// of the last attempt.
func waitForPolicy(ctx context.Context, o Options) error {
	if o.Plugin == dstack.PluginPython && strings.TrimSpace(o.Token) == "" {
		return errors.New("there is no token to ask it with")
	}
	waiting, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	client := newPolicyClient()
	defer client.CloseIdleConnections()
	var last error
	for {
		err := askPolicy(waiting, client, o)
		if err == nil {
			return nil
		}
		// An attempt that our own deadline cut short says less than the one before.
		if last == nil || waiting.Err() == nil {
			if last == nil || err.Error() != last.Error() {
				o.printf("Waiting for the policy server at %s: %v", o.PolicyURL, err)
			}
			last = err
		}
		select {
		case <-waiting.Done():
			return fmt.Errorf("not ready within %s: %w", o.Timeout, last)
		case <-time.After(retryAfter):
		}
	}
}

// newPolicyClient reaches the policy server as the plugin does: directly, and not
// wherever a redirect points.
func newPolicyClient() *http.Client {
	return &http.Client{
		Timeout: attemptTimeout,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
		Transport: &http.Transport{
			Proxy:             nil,
			DisableKeepAlives: true,
			DialContext:       (&net.Dialer{Timeout: attemptTimeout}).DialContext,
		},
	}
}

func askPolicy(ctx context.Context, client *http.Client, o Options) error {
	target := strings.TrimRight(o.PolicyURL, "/") + dstack.PathReady
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return errors.New("its URL cannot be requested")
	}
	if o.Plugin == dstack.PluginPython {
		request.Header.Set("Authorization", "Bearer "+strings.TrimSpace(o.Token))
	}
	response, err := client.Do(request)
	if err != nil {
		var outer *url.Error
		if errors.As(err, &outer) {
			if outer.Timeout() {
				return errors.New("it did not answer in time")
			}
			err = outer.Err // the URL is told already
		}
		return fmt.Errorf("it cannot be asked: %w", err)
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 4<<10))
	_ = response.Body.Close()
	switch response.StatusCode {
	case http.StatusOK:
		return nil
	case http.StatusUnauthorized:
		return errors.New("it does not accept the token (HTTP 401)")
	case http.StatusServiceUnavailable:
		return errors.New("it does not know its policy yet (HTTP 503)")
	default:
		return fmt.Errorf("it answered HTTP %d", response.StatusCode)
	}
}
