package policyserver

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/policy"
)

// Source keeps the policy of one DstackServer up to date.
type Source interface {
	// Run publishes a snapshot as soon as the policy is known and again at each
	// change, from one goroutine, until ctx ends; then it returns nil. An error
	// means that there is no policy and will be none.
	Run(ctx context.Context, publish func(*Snapshot)) error
}

// Snapshot is all that decisions rest on. It is never changed once published.
type Snapshot struct {
	// Server is the DstackServer whose policy it is.
	Server types.NamespacedName
	// Effective is nil when there is no such DstackServer and was none: then
	// everything is refused.
	Effective *isolation.Effective
	// ServerGeneration of the DstackServer.
	ServerGeneration int64
	// Running is what the server's pods run with.
	Running policy.Running
	// TokenRequired is true when a request without a token cannot come from the
	// dstack server.
	TokenRequired bool
	// Stale tells why Effective is the last policy that was known rather than
	// that of the objects as they are; empty when it is the present one.
	Stale Stale
	// ResolveDuration is how long it took to resolve; zero when nothing was.
	ResolveDuration time.Duration
}

// Stale is why a policy is kept although its objects changed.
type Stale string

// The reasons, as the metric's label has them.
const (
	// StaleServerDeleted: the DstackServer is being deleted. Its profiles may go
	// first, which must loosen nothing before the dstack server is released.
	StaleServerDeleted Stale = "ServerDeleted"
	// StaleServerGone: the DstackServer was there and is not any more.
	StaleServerGone Stale = "ServerGone"
	// StaleFolderInvalid: the folder cannot be read or holds something wrong.
	StaleFolderInvalid Stale = "FolderInvalid"
)

func staleReasons() []Stale { return []Stale{StaleServerDeleted, StaleServerGone, StaleFolderInvalid} }

// revision of the policy; empty when there is none.
func (s *Snapshot) revision() string {
	if s.Effective == nil {
		return ""
	}
	return s.Effective.Revision
}

// kept is the same policy, kept for a reason.
func (s *Snapshot) kept(because Stale) *Snapshot {
	kept := *s
	kept.Stale, kept.ResolveDuration = because, 0
	return &kept
}

// decide decides a request, or refuses it when there is no policy.
func (s *Snapshot) decide(req *policy.Request, now time.Time) policy.Decision {
	if s.Effective == nil {
		message := fmt.Sprintf("everything is refused, because DstackServer %s does not exist: "+
			"create it, or take the policy plugin out of the dstack server [isolation]", s.Server)
		return policy.Decision{Message: message, Reasons: []policy.Reason{{Control: controlNoServer, Message: message}}}
	}
	return policy.Decide(s.Effective, s.Running, req, now)
}

// controlNoServer stands where the name of a control would when there is no
// DstackServer.
const controlNoServer = "noDstackServer"

// never is longer than any policy is kept without a look at its objects.
const never = 365 * 24 * time.Hour

// nextChange is a timer for the moment at which an exception ends, which may
// change the plan; it never fires when there is none. last may be nil.
func nextChange(last *Snapshot) *time.Timer { return time.NewTimer(untilChange(last, time.Now())) }

// untilChange is how long it takes until then. An exception of a kept policy that
// has ended already changes nothing more: to resolve again would keep the same
// policy with the same end, again and again.
func untilChange(last *Snapshot, now time.Time) time.Duration {
	if last == nil || last.Effective == nil || last.Effective.NextExpiry.IsZero() {
		return never
	}
	left := last.Effective.NextExpiry.Sub(now)
	switch {
	case left > 0:
		return left
	case last.Stale != "":
		return never
	}
	return 0
}
