package observe

import (
	"context"

	"github.com/dstack-isolation/operator/internal/dstack"
)

// ServerAt asks a dstack server by its URL, such as https://dstack.example.com,
// for what Servers asks pods. One of its processes answers, whichever it is. The
// token goes to that host alone: no redirect is followed.
func (p *Prober) ServerAt(ctx context.Context, url, adminToken string) Server {
	return p.server(ctx, url, adminToken)
}

// SSHProxyTokenAt asks a dstack server by its URL for what SSHProxyTokens asks
// pods.
func (p *Prober) SSHProxyTokenAt(ctx context.Context, url, token string) SSHProxyToken {
	return p.sshProxyToken(ctx, url, token)
}

func (p *Prober) sshProxyToken(ctx context.Context, base, token string) SSHProxyToken {
	c := &dstack.Client{HTTP: p.http, BaseURL: base}
	state, err := c.CheckSSHProxyToken(ctx, token)
	if err != nil {
		err = plain(err)
	}
	return SSHProxyToken{State: state, Err: err}
}
