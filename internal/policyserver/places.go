package policyserver

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
)

// places are the connections that a port holds at one time. One on which the
// token was presented keeps its place for as long as it likes. All others are
// strangers: they end with their answer, and when there are too many, the oldest
// of them gives way to the newest. So strangers crowd out strangers only, and
// whoever has the token needs a place among them no longer than its first header
// takes.
type places struct {
	// most is how many connections keep a place, mostStrangers how many others
	// there are in all, and mostOfPeer how many of them are of one peer.
	most, mostStrangers, mostOfPeer int

	mu        sync.Mutex
	strangers []*conn // the oldest first
	kept      int
	dropped   int
}

func newPlaces(l Limits, kept int) *places {
	return &places{most: kept, mostStrangers: l.Strangers, mostOfPeer: l.StrangersOfPeer}
}

// conn is a connection with its place.
type conn struct {
	net.Conn
	places *places
	peer   netip.Prefix
	// isKept is written with the lock of places only.
	isKept atomic.Bool
	gone   bool
}

// placeListener gives each connection that it accepts a place.
type placeListener struct {
	net.Listener
	places *places
}

func (p *places) listen(l net.Listener) net.Listener { return &placeListener{l, p} }

func (l *placeListener) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: accepted, places: l.places, peer: peerOf(accepted.RemoteAddr())}
	if last := l.places.enter(c); last != nil {
		// It was of no use to anybody: an error of its end says nothing.
		_ = last.Conn.Close()
	}
	return c, nil
}

// enter takes a new connection in, and returns the one that has lost its place to
// it, nil if there was room.
func (p *places) enter(c *conn) *conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.last(c.peer)
	if last != nil {
		p.remove(last)
		p.dropped++
	}
	p.strangers = append(p.strangers, c)
	return last
}

// last is the stranger that gives way to a new one of the peer: the oldest of the
// same peer when that has too many, else, when all together are too many, the
// oldest of the peer that has most; nil when there is room.
func (p *places) last(peer netip.Prefix) *conn {
	if len(p.strangers) < min(p.mostOfPeer, p.mostStrangers) {
		return nil
	}
	of := make(map[netip.Prefix]int)
	for _, c := range p.strangers {
		of[c.peer]++
	}
	if of[peer] < p.mostOfPeer {
		if len(p.strangers) < p.mostStrangers {
			return nil
		}
		peer = p.strangers[0].peer
		for _, c := range p.strangers {
			if of[c.peer] > of[peer] {
				peer = c.peer
			}
		}
	}
	return p.strangers[slices.IndexFunc(p.strangers, func(c *conn) bool { return c.peer == peer })]
}

// remove frees the place of a connection; the caller has the lock.
func (p *places) remove(c *conn) {
	if c.gone {
		return
	}
	c.gone = true
	if c.isKept.Load() {
		p.kept--
	} else if i := slices.Index(p.strangers, c); i >= 0 {
		p.strangers = slices.Delete(p.strangers, i, i+1)
	}
}

// keep gives a connection on which the token was presented a place that it keeps.
// It is false when there is none left: then the connection must end with its
// answer. A nil connection is one of a test that has no listener.
func (c *conn) keep() bool {
	if c == nil || c.isKept.Load() {
		return true
	}
	p := c.places
	p.mu.Lock()
	defer p.mu.Unlock()
	i := slices.Index(p.strangers, c)
	if i < 0 || p.kept >= p.most {
		return false
	}
	p.strangers = slices.Delete(p.strangers, i, i+1)
	p.kept++
	c.isKept.Store(true)
	return true
}

// Close closes the connection and frees its place.
func (c *conn) Close() error {
	err := c.Conn.Close()
	c.places.mu.Lock()
	defer c.places.mu.Unlock()
	c.places.remove(c)
	return err
}

// CloseWrite lets net/http end an answer before the connection, so that a client
// which still sends gets to read it.
func (c *conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// count is how many connections keep a place, how many others there are, and how
// many of those have given way so far.
func (p *places) count() (kept, strangers, dropped int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.kept, len(p.strangers), p.dropped
}

// peerOf is the address of a peer, of IPv6 its network: a host has as many
// addresses of one as it likes. What has no IP address is one peer.
func peerOf(address net.Addr) netip.Prefix {
	tcp, isTCP := address.(*net.TCPAddr)
	if !isTCP {
		return netip.Prefix{}
	}
	const network = 64
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	peer, err := ip.Prefix(min(network, ip.BitLen()))
	if err != nil {
		return netip.Prefix{} // no address at all
	}
	return peer
}

type connKey struct{}

// withConn lets handlers find the connection of a request.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

func connOf(r *http.Request) *conn {
	c, _ := r.Context().Value(connKey{}).(*conn)
	return c
}

var connectionClose = []string{"close"}

// endsWithAnswer lets a connection end with the answer to this request.
func endsWithAnswer(w http.ResponseWriter) { w.Header()["Connection"] = connectionClose }
