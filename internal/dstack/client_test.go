package dstack_test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/dstack-isolation/operator/internal/dstack"
)

const token = "tok-7f3e"

func client(t *testing.T, h http.HandlerFunc) *dstack.Client {
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return &dstack.Client{HTTP: &http.Client{Timeout: 5 * time.Second}, BaseURL: s.URL, Token: token}
}

func TestReleaseAsksWithoutToken(t *testing.T) {
	c := client(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Method != http.MethodPost || r.URL.Path != "/api/server/get_info" || string(body) != "{}" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("got %s %s with %q as %s", r.Method, r.URL.Path, body, r.Header.Get("Content-Type"))
		}
		if r.Header.Get("Authorization") != "" {
			t.Error("the token was sent where none is needed")
		}
		fmt.Fprint(w, `{"server_version": "0.22.5", "more": [1]}`)
	})
	if got, err := c.Release(t.Context()); err != nil || got != "0.22.5" {
		t.Errorf("got %q, %v, want 0.22.5", got, err)
	}
}

func TestCheckTokenSendsIt(t *testing.T) {
	c := client(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/api/users/get_my_user" || r.Header.Get("Authorization") != "Bearer "+token {
			t.Errorf("got %s %s with %q", r.Method, r.URL.Path, r.Header.Get("Authorization"))
		}
		fmt.Fprint(w, `{"username": "admin", "global_role": "admin"}`)
	})
	if got, err := c.CheckToken(t.Context()); err != nil || got != "admin" {
		t.Errorf("got %q, %v, want admin", got, err)
	}
}

func TestAnswersThatAreNone(t *testing.T) {
	cases := map[string]struct {
		status  int
		body    string
		want    string // the release
		wantErr string
	}{
		"a development build":      {status: 200, body: `{"server_version": null}`},
		"no version":               {status: 200, body: `{}`},
		"status 500":               {status: 500, body: `{"server_version": "0.22.5"}`, wantErr: "answered with status 500"},
		"status 201":               {status: 201, body: `{"server_version": "0.22.5"}`, wantErr: "answered with status 201"},
		"a web page":               {status: 200, body: "<html>", wantErr: "read the answer of /api/server/get_info: invalid character '<' looking for beginning of value"},
		"nothing":                  {status: 200, wantErr: "read the answer of /api/server/get_info: EOF"},
		"a number for a version":   {status: 200, body: `{"server_version": 22}`, wantErr: "read the answer of /api/server/get_info: json: cannot unmarshal number into Go struct field serverInfo.server_version of type string"},
		"a list":                   {status: 200, body: `["0.22.5"]`, wantErr: "read the answer of /api/server/get_info: json: cannot unmarshal array into Go value of type dstack.serverInfo"},
		"a version that is a book": {status: 200, body: `{"server_version": "` + strings.Repeat("1", 10_000) + `"}`, wantErr: "named a release of more than 64 characters"},
		"a huge answer":            {status: 200, body: `{"server_version": "` + strings.Repeat("1", 2<<20) + `"}`, wantErr: "read the answer of /api/server/get_info: unexpected EOF"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := client(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				fmt.Fprint(w, tc.body)
			})
			got, err := c.Release(t.Context())
			if message(err) != tc.wantErr || got != tc.want {
				t.Errorf("got %q, error %q, want %q, error %q", got, message(err), tc.want, tc.wantErr)
			}
		})
	}
}

func TestStatusErrorTellsTheStatus(t *testing.T) {
	c := client(t, func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no: "+token, http.StatusForbidden) })
	_, err := c.CheckToken(t.Context())
	var status *dstack.StatusError
	if !errors.As(err, &status) || status.Code != http.StatusForbidden {
		t.Errorf("got %v, want a StatusError with 403", err)
	}
	if strings.Contains(message(err), token) {
		t.Errorf("%q repeats the answer's body", err)
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
