// Package sshproxy knows what dstack's SSH proxy and its users must agree on:
// host keys, their fingerprints, the lines for known_hosts, the address and the
// shape of the API token. It is pure, and its errors quote no key and no token.
package sshproxy

import (
	"bytes"
	"cmp"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// hostKeyTypes are the types that the proxy and today's SSH clients both use.
var hostKeyTypes = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA,
}

// pemBegin begins every PEM block.
var pemBegin = []byte("-----BEGIN ")

// HostKeys are the public halves of the proxy's host keys, one a type.
type HostKeys []ssh.PublicKey

// NewHostKey makes a private ed25519 host key in OpenSSH's format.
func NewHostKey() ([]byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a host key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		return nil, fmt.Errorf("write a host key: %w", err)
	}
	return pem.EncodeToMemory(block), nil
}

// ParseHostKeys reads private keys, one PEM block after the other, as the proxy
// does, but more strictly: the proxy skips what it takes for no block, and of
// two keys of one type it presents the last.
func ParseHostKeys(private []byte) (HostKeys, error) {
	var keys HostKeys
	for rest := bytes.TrimSpace(private); len(rest) > 0; {
		block, after := pem.Decode(rest)
		if block == nil || !bytes.HasPrefix(rest, pemBegin) || bytes.Count(rest[:len(rest)-len(after)], pemBegin) > 1 {
			return nil, fmt.Errorf("key %d is not a whole PEM block: put private keys there and nothing else", len(keys)+1)
		}
		key, err := parseHostKey(block)
		if err != nil {
			return nil, fmt.Errorf("key %d %w", len(keys)+1, err)
		}
		if slices.ContainsFunc(keys, func(k ssh.PublicKey) bool { return k.Type() == key.Type() }) {
			return nil, fmt.Errorf("key %d is the second of type %s, and the proxy presents only one a type: leave one out", len(keys)+1, key.Type())
		}
		keys = append(keys, key)
		rest = bytes.TrimSpace(after)
	}
	if len(keys) == 0 {
		return nil, errors.New("there is no key: put at least one private key there")
	}
	slices.SortFunc(keys, func(a, b ssh.PublicKey) int { return cmp.Compare(rank(a), rank(b)) })
	return keys, nil
}

func parseHostKey(block *pem.Block) (ssh.PublicKey, error) {
	if block.Type == "PUBLIC KEY" || block.Type == "SSH2 PUBLIC KEY" || block.Type == "CERTIFICATE" {
		return nil, errors.New("is not a private one: put the private key there")
	}
	signer, err := ssh.ParsePrivateKey(pem.EncodeToMemory(block))
	var encrypted *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &encrypted):
		return nil, errors.New("has a passphrase, which the proxy cannot ask for: take it away with ssh-keygen -p")
	case err != nil:
		return nil, errors.New("cannot be read as a private SSH key: make one with ssh-keygen -t ed25519")
	case rank(signer.PublicKey()) < 0:
		return nil, errors.New("is of a type that SSH clients no longer accept: make one with ssh-keygen -t ed25519")
	}
	return signer.PublicKey(), nil
}

// rank orders keys by their type; -1 for a type that is not used.
func rank(key ssh.PublicKey) int { return slices.Index(hostKeyTypes, key.Type()) }

// Fingerprints are those that an SSH client shows, such as "SHA256:…".
func (k HostKeys) Fingerprints() []string {
	var out []string
	for _, key := range k {
		out = append(out, ssh.FingerprintSHA256(key))
	}
	return out
}

// KnownHosts are lines for a user's known_hosts file.
func (k HostKeys) KnownHosts(at Address) []string {
	var out []string
	for _, key := range k {
		out = append(out, knownhosts.Line([]string{at.String()}, key))
	}
	return out
}

// Types are the types of the keys.
func (k HostKeys) Types() []string {
	var out []string
	for _, key := range k {
		out = append(out, key.Type())
	}
	return out
}

// NotPresented says what speaks against the claim that a proxy presents these keys; ""
// for nothing. Presented are the keys that it has proven to hold.
func (k HostKeys) NotPresented(presented []ssh.PublicKey) string {
	for _, want := range k {
		i := slices.IndexFunc(presented, func(p ssh.PublicKey) bool { return p.Type() == want.Type() })
		switch {
		case i < 0:
			return fmt.Sprintf("lacks the %s host key", want.Type())
		case !bytes.Equal(presented[i].Marshal(), want.Marshal()):
			return fmt.Sprintf("presents host key %s instead of %s", ssh.FingerprintSHA256(presented[i]), ssh.FingerprintSHA256(want))
		}
	}
	return ""
}

// Compare judges what proxies present, each its own list. Differs says how one of them
// differs from the wanted keys; "" if none does. Stands is true while one of them still
// presents the keys that were published.
func Compare(want, published HostKeys, presented [][]ssh.PublicKey) (differs string, stands bool) {
	for _, keys := range presented {
		differs = cmp.Or(differs, want.NotPresented(keys))
		stands = stands || published.NotPresented(keys) == ""
	}
	return differs, stands
}

// ParseKnownHosts reads the keys in lines that KnownHosts made; those of other lines
// are left out.
func ParseKnownHosts(lines []string) HostKeys {
	var keys HostKeys
	for _, line := range lines {
		if _, _, key, _, _, err := ssh.ParseKnownHosts([]byte(line)); err == nil && rank(key) >= 0 {
			keys = append(keys, key)
		}
	}
	return keys
}
