package policyserver

import (
	"context"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/go-logr/logr"

	"github.com/dstack-isolation/operator/internal/dstack"
)

func writeToken(t testing.TB, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestToken(t *testing.T) {
	const wrong, none = "the token is wrong", "a token is required"
	tests := map[string]struct {
		withoutFile bool
		required    bool
		headers     []string
		want        string
	}{
		"right, required":            {required: true, headers: []string{"Bearer s3cret"}},
		"right, not required":        {headers: []string{"Bearer s3cret"}},
		"scheme in other case":       {required: true, headers: []string{"bearer  s3cret"}},
		"wrong, required":            {required: true, headers: []string{"Bearer secret"}, want: wrong},
		"wrong, not required":        {headers: []string{"Bearer secret"}, want: wrong},
		"a beginning of it":          {headers: []string{"Bearer s3cre"}, want: wrong},
		"more than it":               {headers: []string{"Bearer s3crets"}, want: wrong},
		"empty":                      {headers: []string{"Bearer "}, want: wrong},
		"scheme alone":               {headers: []string{"Bearer"}, want: wrong},
		"two headers":                {headers: []string{"Bearer s3cret", "Bearer s3cret"}, want: wrong},
		"two headers of two schemes": {headers: []string{"Basic x", "Bearer s3cret"}, want: wrong},
		"none, required":             {required: true, want: none},
		"none, not required":         {},
		"another scheme, required":   {required: true, headers: []string{"Basic YTpi"}, want: none},
		"another scheme":             {headers: []string{"Basic YTpi"}},
		"without file, none":         {withoutFile: true, required: true},
		"without file, any":          {withoutFile: true, required: true, headers: []string{"Bearer x"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			options := Options{TokenFile: writeToken(t, "s3cret\n")}
			if tc.withoutFile {
				options.TokenFile = ""
			}
			snapshot := *restricted()
			snapshot.TokenRequired = tc.required
			s := newHandler(t, &snapshot, options)
			var headers []string
			for _, h := range tc.headers {
				headers = append(headers, "Authorization", h)
			}
			w := s.post(runPath, plainTask(t), headers...)
			if got := w.Code == http.StatusUnauthorized; got != (tc.want != "") || !strings.Contains(w.Body.String(), tc.want) {
				t.Errorf("decision: got %d %s", w.Code, w.Body)
			}
			// Whether it is ready needs no token, but a wrong one is wrong there too.
			w = s.get(s.decisionHandler(), dstack.PathReady, headers...)
			if got := w.Code == http.StatusUnauthorized; got != (tc.want == wrong) {
				t.Errorf("/readyz: got %d %s", w.Code, w.Body)
			}
			// All else does, where there is one, also while decisions do not.
			right := strings.HasPrefix(name, "right") || strings.HasPrefix(name, "scheme in")
			for _, path := range []string{dstack.PathRevision, dstack.PathRevision + "?profiles"} {
				w := s.get(s.decisionHandler(), path, headers...)
				if got := w.Code == http.StatusOK; got != (right || tc.withoutFile) || !got && w.Code != http.StatusUnauthorized {
					t.Errorf("%s: got %d %s", path, w.Code, w.Body)
				}
			}
			// Probes never carry one.
			if w := s.get(s.healthHandler(), dstack.PathReady, headers...); w.Code != http.StatusOK {
				t.Errorf("health: got %d", w.Code)
			}
		})
	}
}

// Why it is not ready is told to who has the token.
func TestReadyWithoutTheToken(t *testing.T) {
	s := newHandler(t, nil, Options{TokenFile: writeToken(t, "s3cret")})
	for header, want := range map[string]string{"Bearer s3cret": "the policy is not known yet\n", "": "not ready\n"} {
		if w := s.get(s.decisionHandler(), dstack.PathReady, "Authorization", header); w.Code != http.StatusServiceUnavailable || w.Body.String() != want {
			t.Errorf("%q: got %d %s", header, w.Code, w.Body)
		}
	}
	s.publish(restricted())
	if w := s.get(s.decisionHandler(), dstack.PathReady); w.Code != http.StatusOK || w.Body.String() != "ok" {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestTokenBeforeTheSync(t *testing.T) {
	s := newHandler(t, nil, Options{TokenFile: writeToken(t, "s3cret")})
	for header, want := range map[string]int{"Bearer s3cret": 503, "Bearer wrong": 401, "": 503} {
		if w := s.post(runPath, plainTask(t), "Authorization", header); w.Code != want {
			t.Errorf("decision, %q: got %d, want %d", header, w.Code, want)
		}
		if w := s.get(s.decisionHandler(), dstack.PathReady, "Authorization", header); w.Code != want {
			t.Errorf("/readyz, %q: got %d, want %d", header, w.Code, want)
		}
	}
}

func TestTokenFileMustHoldOneToken(t *testing.T) {
	for name, tc := range map[string]struct{ content, want string }{
		"empty":             {"", "is empty: put the token into it"},
		"only space":        {" \n", "is empty: put the token into it"},
		"two words":         {"a b", "holds more than one word, or letters beyond ASCII: put one token into it"},
		"two lines":         {"a\nb\n", "holds more than one word"},
		"beyond ASCII":      {"schlüssel", "holds more than one word, or letters beyond ASCII"},
		"one byte too long": {strings.Repeat("t", 4097), "holds more than 4096 bytes: put one token into it"},
		"as long as may be": {strings.Repeat("t", 4096), ""},
		"one byte less":     {strings.Repeat("t", 4095), ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(Options{TokenFile: writeToken(t, tc.content)})
			if (err == nil) != (tc.want == "") || err != nil && !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got error %v", err)
			}
		})
	}
	if _, err := New(Options{TokenFile: "/nonexistent/token"}); err == nil || !strings.Contains(err.Error(), "read token file: open /nonexistent/token") {
		t.Errorf("got error %v", err)
	}
}

// Only what the file holds now is a token, and when it holds none, none is.
func TestTokenFileChanges(t *testing.T) {
	path := writeToken(t, "first")
	log, out := newLog(slog.LevelInfo)
	synctest.Test(t, func(t *testing.T) {
		token, err := openTokenFile(path, "", log)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		go token.watch(ctx)
		expect := func(presented string, want bool) {
			t.Helper()
			time.Sleep(3 * tokenInterval)
			synctest.Wait()
			if got := token.isRight(presented); got != want {
				t.Errorf("token %q: got %v", presented, got)
			}
		}
		write := func(content string) {
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		expect("first", true)
		write("other") // as long as the first
		expect("other", true)
		expect("first", false)
		write("")
		expect("", false)
		expect("other", false)
		write("third")
		expect("third", true)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		expect("third", false)
		write("third")
		expect("third", true)
		cancel()
	})
	for want, times := range map[string]int{"Read a new token": 3, "Lost the token": 2, "third": 0} {
		if got := strings.Count(out.String(), want); got != times {
			t.Errorf("%q was logged %d times, want %d:\n%s", want, got, times, out)
		}
	}
}

// Clients that were started before a change have the earlier token, until the
// manager has replaced them.
func TestEarlierTokens(t *testing.T) {
	dir := t.TempDir()
	path := writeToken(t, "current")
	put := func(name, content string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("isolation-policy-main-token-0f1e2d3c", "earlier\n")
	put("isolation-policy-main-token-1f1e2d3c", "still-earlier")
	put("empty", "")
	put("..data", "hidden")
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	for presented, want := range map[string]bool{
		"current": true, "earlier": true, "still-earlier": true, "": false, "hidden": false, "other": false, "current earlier": false,
	} {
		token, err := openTokenFile(path, dir, logr.Discard())
		if err != nil {
			t.Fatal(err)
		}
		if got := token.isRight(presented); got != want {
			t.Errorf("token %q: got %v", presented, got)
		}
	}

	token, err := openTokenFile(path, dir, logr.Discard())
	if err != nil {
		t.Fatal(err)
	}
	reload := func(want error) {
		t.Helper()
		if err := token.load(); (err == nil) != (want == nil) {
			t.Fatal(err)
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	reload(nil)
	if token.isRight("earlier") || !token.isRight("current") {
		t.Error("an earlier token must not be accepted once its file is gone")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	put("again", "earlier")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	reload(os.ErrInvalid)
	if token.isRight("earlier") {
		t.Error("without a current token no earlier one may be accepted")
	}
}
