package observe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"regexp"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dstack-isolation/operator/internal/dstack"
)

const (
	// maxBanner is the longest first line that SSH allows (RFC 4253).
	maxBanner = 255
	// maxHandshake bounds what is read of a handshake: two packets of the size that
	// every SSH client must take, and more than any of them needs.
	maxHandshake = 2 * 35000
)

// SSHProxy is what one SSH proxy shows of itself.
type SSHProxy struct {
	// Version is what follows dstack's name in its banner.
	Version string
	// HostKeys are those that it presented, and has proven to hold the private half of.
	HostKeys []ssh.PublicKey
	// Err is why it did not say.
	Err error
}

// SSHProxies shakes hands with every address, HOST:PORT, once for each type of host
// key, as a user's client does that has such a key in its known_hosts. Without types
// the proxy chooses one. No credential is sent: each handshake ends when the host key
// is proven. The result has one entry an address, in their order.
func (p *Prober) SSHProxies(ctx context.Context, addresses, keyTypes []string) []SSHProxy {
	answers := make([]SSHProxy, len(addresses))
	each(ctx, addresses, func(ctx context.Context, i int, address string) {
		answers[i] = p.sshProxy(ctx, address, keyTypes)
	})
	return answers
}

func (p *Prober) sshProxy(ctx context.Context, address string, keyTypes []string) SSHProxy {
	if len(keyTypes) == 0 {
		keyTypes = []string{""}
	}
	var answer SSHProxy
	for _, keyType := range keyTypes {
		version, key, err := p.handshake(ctx, address, algorithmsOf(keyType))
		if err != nil {
			return SSHProxy{Err: plainSSH(err)}
		}
		answer.Version = version
		if key != nil {
			answer.HostKeys = append(answer.HostKeys, key)
		}
	}
	return answer
}

// algorithmsOf are those by which a key of a type is proven; nil means all.
func algorithmsOf(keyType string) []string {
	switch keyType {
	case "":
		return nil
	case ssh.KeyAlgoRSA:
		return []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}
	}
	return []string{keyType}
}

// errKeyProven ends a handshake as soon as the host key is proven.
var errKeyProven = errors.New("the host key is proven")

// handshake goes as far as the host key, which is nil when the other side has none for
// these algorithms.
func (p *Prober) handshake(ctx context.Context, address string, algorithms []string) (version string, key ssh.PublicKey, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := p.dial(ctx, "tcp", address)
	if err != nil {
		return "", nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	line, err := readBanner(conn)
	if err != nil {
		return "", nil, err
	}
	if version, err = readVersion(bytes.TrimRight(line, "\r\n")); err != nil {
		return "", nil, err
	}
	rest := &replayed{Conn: conn, from: io.MultiReader(bytes.NewReader(line), io.LimitReader(conn, maxHandshake))}
	_, _, _, err = ssh.NewClientConn(rest, address, &ssh.ClientConfig{
		HostKeyAlgorithms: algorithms,
		HostKeyCallback: func(_ string, _ net.Addr, presented ssh.PublicKey) error {
			key = presented
			return errKeyProven
		},
	})
	var different *ssh.AlgorithmNegotiationError
	switch {
	case key != nil, errors.As(err, &different) && algorithms != nil:
		return version, key, nil
	case ctx.Err() != nil:
		return "", nil, ctx.Err()
	default:
		return "", nil, errBrokenOff // The cause may be in the other side's words.
	}
}

// replayed is a connection of which the first line was read before.
type replayed struct {
	net.Conn
	from io.Reader
}

func (r *replayed) Read(p []byte) (int, error) { return r.from.Read(p) }

var errBrokenOff = errors.New("broke off the SSH handshake")

// readVersion finds what follows dstack's name in a banner.
func readVersion(banner []byte) (string, error) {
	version, found := bytes.CutPrefix(banner, []byte(dstack.SSHProxyBanner))
	switch {
	case !found && bytes.HasPrefix(banner, []byte("SSH-")):
		return "", errors.New("is another SSH server than dstack's proxy")
	case !found, !versionPattern.Match(version):
		return "", errNoSSH
	}
	return string(version), nil
}

// versionPattern keeps what the other side sent out of texts for people.
var versionPattern = regexp.MustCompile(`^[-.+0-9A-Za-z]{1,64}$`)

var errNoSSH = errors.New("did not answer in SSH")

// readBanner reads the first line with its end, byte by byte, so that nothing behind it
// is lost, and no byte more than a banner may have.
func readBanner(conn net.Conn) ([]byte, error) {
	line := make([]byte, 0, maxBanner)
	for len(line) < maxBanner {
		n, err := conn.Read(line[len(line) : len(line)+1])
		line = line[:len(line)+n]
		if n > 0 && line[len(line)-1] == '\n' {
			return line, nil
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, errNoSSH
}

// plainSSH is plain for a protocol that is not HTTP.
func plainSSH(err error) error {
	var network *net.OpError
	said := plain(err)
	switch {
	case errors.Is(err, io.EOF):
		return errors.New("closed the connection")
	case errors.As(said, &network):
		return errors.New("could not be reached") // In words of its own, which name the address.
	}
	return said
}

// SSHProxyToken is what one dstack server process makes of the proxy's token.
type SSHProxyToken struct {
	State dstack.SSHProxyToken
	// Err is why it did not say.
	Err error
}

// SSHProxyTokens asks every address of the dstack server, as the proxy would,
// whether it has the same token. The result has one entry an address, in their
// order.
func (p *Prober) SSHProxyTokens(ctx context.Context, addresses []string, port int, token string) []SSHProxyToken {
	answers := make([]SSHProxyToken, len(addresses))
	each(ctx, addresses, func(ctx context.Context, i int, address string) {
		answers[i] = p.sshProxyToken(ctx, baseURL(address, port), token)
	})
	return answers
}
