package policyserver

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
)

// tokenInterval is how often the token file is read again. The kubelet swaps a
// mounted Secret about a minute after its change, so seconds do not matter.
const tokenInterval = 2 * time.Second

// maxTokenBytes bounds the token file.
const maxTokenBytes = 4096

// tokenFile is the bearer token that clients present. A nil *tokenFile is a
// server without tokens.
type tokenFile struct {
	path string
	// earlier is a folder with tokens that are accepted too, one a file: clients that
	// were started before a change of the token have no other. Empty for none.
	earlier string
	log     logr.Logger
	// digests of the current token, which is the first, and of earlier ones; nil when
	// the file holds none, and then no token is the right one.
	digests atomic.Pointer[[]digest]
}

type digest = [sha256.Size]byte

// openTokenFile reads the token for the first time. An empty path means no
// tokens.
func openTokenFile(path, earlier string, log logr.Logger) (*tokenFile, error) {
	if path == "" {
		return nil, nil
	}
	t := &tokenFile{path: path, earlier: earlier, log: log}
	if err := t.load(); err != nil {
		return nil, err
	}
	return t, nil
}

// load takes the tokens that the files hold now. When the file of the current one
// holds none, no token is accepted any more: whoever removed it meant that. A file
// of an earlier one that cannot be read is none.
func (t *tokenFile) load() error {
	token, err := readToken(t.path)
	if err != nil {
		t.digests.Store(nil)
		return fmt.Errorf("read token file: %w", err)
	}
	accepted := []digest{sha256.Sum256(token)}
	for _, path := range t.earlierFiles() {
		if token, err := readToken(path); err == nil {
			accepted = append(accepted, sha256.Sum256(token))
		}
	}
	t.digests.Store(&accepted)
	return nil
}

// maxEarlierTokens bounds what each request is compared with.
const maxEarlierTokens = 8

// earlierFiles are the files in the folder of earlier tokens. The kubelet's own
// entries, which lead to them, begin with a dot.
func (t *tokenFile) earlierFiles() []string {
	if t.earlier == "" {
		return nil
	}
	entries, _ := os.ReadDir(t.earlier) // Sorted, so that the bound always leaves out the same.
	var files []string
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") && len(files) < maxEarlierTokens {
			files = append(files, filepath.Join(t.earlier, e.Name()))
		}
	}
	return files
}

func readToken(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	token := bytes.TrimSpace(data)
	switch {
	case len(token) == 0:
		return nil, fmt.Errorf("%s is empty: put the token into it", path)
	case len(token) > maxTokenBytes:
		return nil, fmt.Errorf("%s holds more than %d bytes: put one token into it", path, maxTokenBytes)
	case bytes.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return nil, fmt.Errorf("%s holds more than one word, or letters beyond ASCII: put one token into it", path)
	}
	return token, nil
}

// watch reads the file again and again until ctx ends.
func (t *tokenFile) watch(ctx context.Context) {
	ticker := time.NewTicker(tokenInterval)
	defer ticker.Stop()
	readable := true
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		before := t.digests.Load()
		err := t.load()
		after := t.digests.Load()
		switch {
		case err != nil && readable:
			t.log.Error(err, "Lost the token, so that no token is accepted until there is one")
		case err == nil && (before == nil || !slices.Equal(*before, *after)):
			t.log.Info("Read a new token", "earlierTokens", len(*after)-1)
		}
		readable = err == nil
	}
}

// isRight compares in a time that does not depend on the token.
func (t *tokenFile) isRight(presented string) bool {
	accepted := t.digests.Load()
	if accepted == nil {
		return false
	}
	got := sha256.Sum256([]byte(presented))
	right := 0
	for _, want := range *accepted {
		right |= subtle.ConstantTimeCompare(got[:], want[:])
	}
	return right == 1
}

var (
	errWrongToken = errors.New("the token is wrong: the dstack server and the policy server must hold the same one")
	errNoToken    = errors.New("a token is required: send it as \"Authorization: Bearer TOKEN\"")
)

// presented is what a request shows of the token.
type presented int

const (
	noToken presented = iota
	wrongToken
	rightToken
)

// read finds out what a request presents. Without a token file every token is as
// good as none.
func (t *tokenFile) read(header http.Header) presented {
	if t == nil {
		return noToken
	}
	token, isBearer := bearer(header)
	switch {
	case !isBearer:
		return noToken
	case t.isRight(token):
		return rightToken
	}
	return wrongToken
}

// check returns an error for a wrong token, and for none when one is required.
func (p presented) check(required bool) error {
	switch {
	case p == wrongToken:
		return errWrongToken
	case p == noToken && required:
		return errNoToken
	}
	return nil
}

// bearer finds the token in the headers. Other schemes are none of ours: the
// built-in rest_plugin sends Basic when its URL has a user. Several headers are
// never a right token.
func bearer(header http.Header) (token string, presented bool) {
	values := header.Values("Authorization")
	for _, value := range values {
		scheme, rest, _ := strings.Cut(value, " ")
		if strings.EqualFold(scheme, "Bearer") {
			token, presented = strings.TrimSpace(rest), true
		}
	}
	if len(values) > 1 {
		token = ""
	}
	return token, presented
}
