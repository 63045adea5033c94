package policyserver

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/semaphore"
)

// Limits bound what one client, or all of them together, can ask of the
// server. dstack gives up on a plugin service after 8 s without an answer, so
// all times together stay well below that: a refusal that names its reason is
// better than a timeout that names none.
type Limits struct {
	// BodyBytes is the largest body that is read. Deciding the most hostile one of
	// this size takes less than 50 ms.
	BodyBytes int64
	// SmallBodyBytes is the largest body that is read without asking for a share
	// of LargeBodiesBytes. Real specifications have 2 to 20 kB.
	SmallBodyBytes int64
	// LargeBodiesBytes is what all larger bodies together may take at one time,
	// so that memory is bounded whatever the number of clients.
	LargeBodiesBytes int64
	// Requests is how many requests are decided at one time.
	Requests int
	// Scrapes is how many scrapes of the metrics are answered at one time; a further
	// one is answered 503. Anybody who reaches the port may scrape, and one takes 27
	// MiB where each of 500 profiles has refused by every control.
	Scrapes int
	// Connections is how many connections on which the token was presented stay
	// open at one time, whatever the number of their peers: many dstack servers may
	// come from one address. A further one ends with its answer.
	Connections int
	// Strangers is how many other connections are open at one time, and
	// StrangersOfPeer how many of them from one address: those that have presented
	// nothing yet, and those that never do. The oldest gives way to a new one. They
	// are fewer than Requests, so that they cannot take every turn where no token is
	// required.
	Strangers, StrangersOfPeer int
	// HeaderBytes is the largest request line with headers.
	HeaderBytes int
	// Queue is how long a request waits for its turn before it is answered 503.
	Queue time.Duration
	// ReadHeader, Read and Write bound the parts of one exchange. Read includes
	// the header, Write begins when the header has been read.
	ReadHeader, Read, Write time.Duration
	// Idle is how long a kept-alive connection may rest.
	Idle time.Duration
	// Shutdown is how long requests under way may take once the listener is
	// closed.
	Shutdown time.Duration
}

// DefaultLimits are for a pod of 256 MiB: 256 small bodies and the large ones
// take 48 MiB at most, and as much again while they are read. Two scrapes fit
// beside them.
func DefaultLimits() Limits {
	return Limits{
		BodyBytes:        1 << 20,
		SmallBodyBytes:   64 << 10,
		LargeBodiesBytes: 32 << 20,
		Requests:         256,
		Scrapes:          2,
		Connections:      1024,
		Strangers:        128,
		StrangersOfPeer:  64,
		HeaderBytes:      16 << 10,
		Queue:            time.Second,
		ReadHeader:       2 * time.Second,
		Read:             4 * time.Second,
		Write:            6 * time.Second,
		Idle:             2 * time.Minute,
		Shutdown:         8 * time.Second,
	}
}

// gate lets in as many requests as the limits allow.
type gate struct {
	limits Limits
	slots  chan struct{}
	large  *semaphore.Weighted
}

func newGate(limits Limits) *gate {
	return &gate{
		limits: limits,
		slots:  make(chan struct{}, limits.Requests),
		large:  semaphore.NewWeighted(limits.LargeBodiesBytes),
	}
}

// enter waits for a turn for a body of the given length, -1 for an unknown
// one, which must be within the limit. It returns false when there was none in time. Who entered leaves.
func (g *gate) enter(ctx context.Context, length int64) (leave func(), entered bool) {
	weight := length
	switch {
	case length < 0:
		weight = g.limits.BodyBytes
	case length <= g.limits.SmallBodyBytes:
		weight = 0
	}
	select {
	case g.slots <- struct{}{}:
		if g.large.TryAcquire(weight) {
			return func() { g.large.Release(weight); <-g.slots }, true
		}
		<-g.slots
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, g.limits.Queue)
	defer cancel()
	// The larger share first: who holds a slot must not wait for anything else.
	if g.large.Acquire(ctx, weight) != nil {
		return nil, false
	}
	select {
	case g.slots <- struct{}{}:
		return func() { g.large.Release(weight); <-g.slots }, true
	case <-ctx.Done():
		g.large.Release(weight)
		return nil, false
	}
}

var errBodyTooLarge = errors.New("body is too large")

// readBody reads the whole body, whose length must be within the limit if it
// is declared; then it goes into the buffers. Errors: errBodyTooLarge, an error
// that is os.ErrDeadlineExceeded when the client is too slow, or what the
// connection says.
func readBody(w http.ResponseWriter, r *http.Request, limits Limits, b *buffers) ([]byte, error) {
	if r.ContentLength >= 0 {
		// net/http hands out no more than was declared.
		body := b.forBody(int(r.ContentLength))
		_, err := io.ReadFull(r.Body, body)
		return body, err
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limits.BodyBytes))
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, errBodyTooLarge
	}
	return body, err
}

// isTooSlow tells whether a body was not read because its client took too
// long.
func isTooSlow(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) }
