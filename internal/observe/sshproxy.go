package observe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"regexp"
	"time"

	"github.com/dstack-isolation/operator/internal/dstack"
)

// maxBanner is the longest first line that SSH allows (RFC 4253).
const maxBanner = 255

// SSHProxy is what one SSH proxy says of itself.
type SSHProxy struct {
	// Version is what follows dstack's name in its banner.
	Version string
	// Err is why it did not say.
	Err error
}

// SSHProxies reads the banner that every address greets with. Each address is
// HOST:PORT. The result has one entry an address, in their order.
func (p *Prober) SSHProxies(ctx context.Context, addresses []string) []SSHProxy {
	answers := make([]SSHProxy, len(addresses))
	each(ctx, addresses, func(ctx context.Context, i int, address string) {
		answers[i] = p.sshProxy(ctx, address)
	})
	return answers
}

func (p *Prober) sshProxy(ctx context.Context, address string) SSHProxy {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	conn, err := p.dial(ctx, "tcp", address)
	if err != nil {
		return SSHProxy{Err: plainSSH(err)}
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	line, err := readBanner(conn)
	if err != nil {
		return SSHProxy{Err: plainSSH(err)}
	}
	version, found := bytes.CutPrefix(line, []byte(dstack.SSHProxyBanner))
	switch {
	case !found && bytes.HasPrefix(line, []byte("SSH-")):
		return SSHProxy{Err: errors.New("is another SSH server than dstack's proxy")}
	case !found:
		return SSHProxy{Err: errNoSSH}
	case !versionPattern.Match(version):
		return SSHProxy{Err: errNoSSH}
	}
	return SSHProxy{Version: string(version)}
}

// versionPattern keeps what the other side sent out of texts for people.
var versionPattern = regexp.MustCompile(`^[-.+0-9A-Za-z]{1,64}$`)

var errNoSSH = errors.New("did not answer in SSH")

// readBanner reads up to the first end of a line, and no byte more than a
// banner may have.
func readBanner(conn net.Conn) ([]byte, error) {
	line := make([]byte, 0, maxBanner)
	for len(line) < maxBanner {
		n, err := conn.Read(line[len(line):maxBanner])
		line = line[:len(line)+n]
		if end := bytes.IndexByte(line, '\n'); end >= 0 {
			return bytes.TrimSuffix(line[:end], []byte("\r")), nil
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
