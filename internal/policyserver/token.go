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
	log  logr.Logger
	// digest of the current token; nil when the file holds none, and then no
	// token is the right one.
	digest atomic.Pointer[[sha256.Size]byte]
}

// openTokenFile reads the token for the first time. An empty path means no
// tokens.
func openTokenFile(path string, log logr.Logger) (*tokenFile, error) {
	if path == "" {
		return nil, nil
	}
	t := &tokenFile{path: path, log: log}
	if err := t.load(); err != nil {
		return nil, err
	}
	return t, nil
}

// load takes the token that the file holds now. When it holds none, no token is
// accepted any more: whoever removed it meant that.
func (t *tokenFile) load() error {
	token, err := readToken(t.path)
	if err != nil {
		t.digest.Store(nil)
		return fmt.Errorf("read token file: %w", err)
	}
	digest := sha256.Sum256(token)
	t.digest.Store(&digest)
	return nil
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
		before := t.digest.Load()
		err := t.load()
		after := t.digest.Load()
		switch {
		case err != nil && readable:
			t.log.Error(err, "Lost the token, so that no token is accepted until there is one")
		case err == nil && (before == nil || *before != *after):
			t.log.Info("Read a new token")
		}
		readable = err == nil
	}
}

// isRight compares in a time that does not depend on the token.
func (t *tokenFile) isRight(presented string) bool {
	want := t.digest.Load()
	got := sha256.Sum256([]byte(presented))
	return want != nil && subtle.ConstantTimeCompare(got[:], want[:]) == 1
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
