package dstack_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"

	"github.com/dstack-isolation/operator/internal/dstack"
)

func TestCheckSSHProxyToken(t *testing.T) {
	cases := map[string]struct {
		status   int
		body     string
		want     dstack.SSHProxyToken
		wantCode int
	}{
		"its own":              {status: 400, body: `{"detail":[{"msg":"Resource not found","code":"resource_not_exists"}]}`, want: dstack.SSHProxyTokenAccepted},
		"another":              {status: 403, body: `{"detail":{"msg":"Invalid token","code":null}}`, want: dstack.SSHProxyTokenRejected},
		"none":                 {status: 403, body: `{"detail":{"msg":"Access denied","code":null}}`, want: dstack.SSHProxyTokenUnset},
		"a refusal of others":  {status: 403, body: `Forbidden`, wantCode: 403},
		"another bad request":  {status: 400, body: `{"detail":[{"msg":"Nope","code":"error"}]}`, wantCode: 400},
		"no details":           {status: 400, body: `{"detail":[]}`, wantCode: 400},
		"a release without it": {status: 404, body: `{"detail":"Not Found"}`, wantCode: 404},
		// The answer for a job holds a private key; no job has this id.
		"an answer for a job": {status: 200, body: `{"hosts":[]}`, wantCode: 200},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := client(t, func(w http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				if r.Method != http.MethodPost || r.URL.Path != "/api/sshproxy/get_upstream" || string(body) != `{"id":"00000000000000000000000000000000"}` ||
					r.Header.Get("Authorization") != "Bearer ssh-tok" || r.Header.Get("Content-Type") != "application/json" {
					t.Errorf("got %s %s with %q as %q", r.Method, r.URL.Path, body, r.Header.Get("Authorization"))
				}
				w.WriteHeader(tc.status)
				fmt.Fprint(w, tc.body)
			})
			got, err := c.CheckSSHProxyToken(t.Context(), "ssh-tok")
			var status *dstack.StatusError
			if errors.As(err, &status) != (tc.wantCode != 0) || status != nil && status.Code != tc.wantCode || got != tc.want {
				t.Errorf("got %q, %v, want %q, status %d", got, err, tc.want, tc.wantCode)
			}
		})
	}
}
