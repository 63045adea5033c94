package sshproxy_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/dstack-isolation/operator/internal/sshproxy"
)

func TestNewHostKeyIsReadAsTheProxyReadsIt(t *testing.T) {
	private, err := sshproxy.NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.HasPrefix(private, []byte("-----BEGIN OPENSSH PRIVATE KEY-----\n")) {
		t.Error("is not in OpenSSH's format")
	}
	signer, err := ssh.ParsePrivateKey(private)
	if err != nil || signer.PublicKey().Type() != ssh.KeyAlgoED25519 {
		t.Errorf("got %v, want an ed25519 key", err)
	}
	other, err := sshproxy.NewHostKey()
	if err != nil || bytes.Equal(private, other) {
		t.Errorf("two keys are the same, %v", err)
	}
}

// pemKey is a private key in OpenSSH's format.
func pemKey(t *testing.T, key crypto.PrivateKey) string {
	t.Helper()
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block))
}

func newED25519(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newECDSA(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newRSA(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestParseHostKeys(t *testing.T) {
	ed, ec, rs := pemKey(t, newED25519(t)), pemKey(t, newECDSA(t)), pemKey(t, newRSA(t))
	pkcs8, err := x509.MarshalPKCS8PrivateKey(newECDSA(t))
	if err != nil {
		t.Fatal(err)
	}
	locked, err := ssh.MarshalPrivateKeyWithPassphrase(newED25519(t), "", []byte("s3same"))
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(newECDSA(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	p256 := ssh.KeyAlgoECDSA256
	notWhole := " is not a whole PEM block: put private keys there and nothing else"
	unreadable := " cannot be read as a private SSH key: make one with ssh-keygen -t ed25519"
	cases := map[string]struct {
		private string
		want    []string
		wantErr string
	}{
		"one":                         {private: ed, want: []string{ssh.KeyAlgoED25519}},
		"without a last newline":      {private: strings.TrimSpace(ed), want: []string{ssh.KeyAlgoED25519}},
		"three, the best first":       {private: rs + ec + ed, want: []string{ssh.KeyAlgoED25519, p256, ssh.KeyAlgoRSA}},
		"with empty lines":            {private: "\n" + ec + "\n\n" + ed + "\n", want: []string{ssh.KeyAlgoED25519, p256}},
		"with ends of lines as DOS":   {private: strings.ReplaceAll(ed, "\n", "\r\n"), want: []string{ssh.KeyAlgoED25519}},
		"PKCS #8":                     {private: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})), want: []string{p256}},
		"none":                        {private: "", wantErr: "there is no key: put at least one private key there"},
		"white space":                 {private: " \n\t\n", wantErr: "there is no key: put at least one private key there"},
		"text":                        {private: "sesame", wantErr: "key 1" + notWhole},
		"text before":                 {private: "sesame\n" + ed, wantErr: "key 1" + notWhole},
		"text after":                  {private: ed + "sesame", wantErr: "key 2" + notWhole},
		"half of a key":               {private: ed[:len(ed)/2], wantErr: "key 1" + notWhole},
		"half of a key before a key":  {private: ed[:len(ed)/2] + "\n" + ec, wantErr: "key 1" + notWhole},
		"a public key, one line":      {private: "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5 sesame", wantErr: "key 1" + notWhole},
		"a public key, PEM":           {private: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})), wantErr: "key 1 is not a private one: put the private key there"},
		"a certificate":               {private: ed + string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: public})), wantErr: "key 2 is not a private one: put the private key there"},
		"with a passphrase":           {private: string(pem.EncodeToMemory(locked)), wantErr: "key 1 has a passphrase, which the proxy cannot ask for: take it away with ssh-keygen -p"},
		"garbage in a block":          {private: string(pem.EncodeToMemory(&pem.Block{Type: "OPENSSH PRIVATE KEY", Bytes: []byte("sesame")})), wantErr: "key 1" + unreadable},
		"another kind of secret":      {private: string(pem.EncodeToMemory(&pem.Block{Type: "SESAME", Bytes: []byte("sesame")})), wantErr: "key 1" + unreadable},
		"two of one type":             {private: ed + ec + pemKey(t, newED25519(t)), wantErr: "key 3 is the second of type ssh-ed25519, and the proxy presents only one a type: leave one out"},
		"the second cannot be read":   {private: ed + string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: []byte("sesame")})), wantErr: "key 2" + unreadable},
		"a key, then half of another": {private: ec + ed[:len(ed)/2], wantErr: "key 2" + notWhole},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			keys, err := sshproxy.ParseHostKeys([]byte(tc.private))
			var types []string
			for _, k := range keys {
				types = append(types, k.Type())
			}
			if got := message(err); got != tc.wantErr {
				t.Errorf("got error %q, want %q", got, tc.wantErr)
			}
			if diff := cmp.Diff(tc.want, types); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func message(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// What the status shows must be what an SSH client checks.
func TestKnownHostsLetAClientIn(t *testing.T) {
	keys, err := sshproxy.ParseHostKeys([]byte(pemKey(t, newED25519(t)) + pemKey(t, newECDSA(t))))
	if err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]string{
		"ssh.example.com":       "ssh.example.com ",
		"ssh.example.com:22":    "ssh.example.com ",
		"SSH.Example.com:2222":  "[ssh.example.com]:2222 ",
		"203.0.113.7:30022":     "[203.0.113.7]:30022 ",
		"gpu-1.internal:65535":  "[gpu-1.internal]:65535 ",
		"localhost":             "localhost ",
		"xn--bcher-kva.example": "xn--bcher-kva.example ",
	} {
		at, err := sshproxy.ParseAddress(address)
		if err != nil {
			t.Fatal(err)
		}
		lines := keys.KnownHosts(at)
		for i, key := range keys {
			if wantLine := want + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key))); lines[i] != wantLine {
				t.Errorf("%s: got %q, want %q", address, lines[i], wantLine)
			}
		}
		file := filepath.Join(t.TempDir(), "known_hosts")
		if err := os.WriteFile(file, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		check, err := knownhosts.New(file)
		if err != nil {
			t.Fatal(err)
		}
		remote := &net.TCPAddr{IP: net.IPv4(203, 0, 113, 7), Port: at.Port}
		if err := check(at.String(), remote, keys[0]); err != nil {
			t.Errorf("%s: a client would not accept the key: %v", address, err)
		}
	}
}

func TestFingerprints(t *testing.T) {
	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte("ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJGKJlC0nHPXAmENfA7Mh6PnJxWLhh9Szidn7YNn3QjD"))
	if err != nil {
		t.Fatal(err)
	}
	// What ssh-keygen -l shows of the same key.
	want := []string{"SHA256:K+BgTwBoimrQJYHCpOmbygtzppMyEw1a2EnUIEQv+3Q"}
	if diff := cmp.Diff(want, sshproxy.HostKeys{key}.Fingerprints()); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseHostKeys(f *testing.F) {
	private, err := sshproxy.NewHostKey()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(private)
	f.Add(append(slices.Clone(private), private...))
	f.Add([]byte("-----BEGIN A-----\n-----END A-----"))
	f.Fuzz(func(t *testing.T, data []byte) {
		keys, err := sshproxy.ParseHostKeys(data)
		if (err == nil) == (len(keys) == 0) {
			t.Errorf("got %d keys and %v", len(keys), err)
		}
	})
}

func publicKey(t *testing.T, key crypto.Signer) ssh.PublicKey {
	t.Helper()
	public, err := ssh.NewPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return public
}

func TestNotPresented(t *testing.T) {
	elliptic, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ed, other, ec := publicKey(t, newED25519(t)), publicKey(t, newED25519(t)), publicKey(t, elliptic)
	for name, tc := range map[string]struct {
		keys      sshproxy.HostKeys
		presented []ssh.PublicKey
		want      string
	}{
		"the one":          {sshproxy.HostKeys{ed}, []ssh.PublicKey{ed}, ""},
		"both":             {sshproxy.HostKeys{ed, ec}, []ssh.PublicKey{ec, ed}, ""},
		"more than wanted": {sshproxy.HostKeys{ed}, []ssh.PublicKey{ec, ed}, ""},
		"none is wanted":   {nil, []ssh.PublicKey{ed}, ""},
		"nothing":          {sshproxy.HostKeys{ed}, nil, "lacks the ssh-ed25519 host key"},
		"one of two":       {sshproxy.HostKeys{ed, ec}, []ssh.PublicKey{ed}, "lacks the ecdsa-sha2-nistp256 host key"},
		"another":          {sshproxy.HostKeys{ed}, []ssh.PublicKey{other}, "presents host key " + ssh.FingerprintSHA256(other) + " instead of " + ssh.FingerprintSHA256(ed)},
	} {
		if got := tc.keys.NotPresented(tc.presented); got != tc.want {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
}

func TestKnownHostsAreReadAgain(t *testing.T) {
	elliptic, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := sshproxy.HostKeys{publicKey(t, newED25519(t)), publicKey(t, elliptic)}
	lines := keys.KnownHosts(sshproxy.Address{Host: "ssh.example.com", Port: 2222})
	got := sshproxy.ParseKnownHosts(append([]string{"", "nonsense", "# a comment", "host ssh-dss AAAA"}, lines...))
	if diff := cmp.Diff(keys.Fingerprints(), got.Fingerprints()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"ssh-ed25519", "ecdsa-sha2-nistp256"}, got.Types()); diff != "" {
		t.Errorf("types (-want +got):\n%s", diff)
	}
}

func TestCompare(t *testing.T) {
	former, now := publicKey(t, newED25519(t)), publicKey(t, newED25519(t))
	both := func(keys ...ssh.PublicKey) (all [][]ssh.PublicKey) {
		for _, k := range keys {
			all = append(all, []ssh.PublicKey{k})
		}
		return all
	}
	differs := "presents host key " + ssh.FingerprintSHA256(former) + " instead of " + ssh.FingerprintSHA256(now)
	for name, tc := range map[string]struct {
		published sshproxy.HostKeys
		presented [][]ssh.PublicKey
		differs   string
		stands    bool
	}{
		"all have the new one":        {sshproxy.HostKeys{former}, both(now, now), "", false},
		"none has the new one yet":    {sshproxy.HostKeys{former}, both(former, former), differs, true},
		"one has":                     {sshproxy.HostKeys{former}, both(now, former), differs, true},
		"none has, another was told":  {sshproxy.HostKeys{now}, both(former, former), differs, false},
		"all have what was published": {sshproxy.HostKeys{now}, both(now, now), "", true},
	} {
		got, stands := sshproxy.Compare(sshproxy.HostKeys{now}, tc.published, tc.presented)
		if got != tc.differs || stands != tc.stands {
			t.Errorf("%s: got %q, %t, want %q, %t", name, got, stands, tc.differs, tc.stands)
		}
	}
}
