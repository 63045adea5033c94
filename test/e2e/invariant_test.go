//go:build e2e

package e2e

import (
	"fmt"
	"sync"
	"time"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"
)

// invariant is looked at again and again, because what must hold at every moment
// cannot be seen afterwards.
type invariant struct {
	mu       sync.Mutex
	looked   int
	violated []string

	stop chan struct{}
	done chan struct{}
}

// always looks at something until the invariant is ended. look returns what is
// wrong, or "".
func always(every time.Duration, look func() string) *invariant {
	i := &invariant{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(i.done)
		ticker := time.NewTicker(every)
		defer ticker.Stop()
		for {
			i.note(look())
			select {
			case <-i.stop:
				return
			case <-ticker.C:
			}
		}
	}()
	// A spec that fails stops it too.
	DeferCleanup(i.end)
	return i
}

func (i *invariant) note(wrong string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.looked++
	if wrong != "" && len(i.violated) < 10 {
		i.violated = append(i.violated, time.Now().UTC().Format("15:04:05.000")+": "+wrong)
	}
}

// count is how often it was looked at so far.
func (i *invariant) count() int {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.looked
}

func (i *invariant) end() {
	select {
	case <-i.stop:
	default:
		close(i.stop)
	}
	<-i.done
}

// expectHeld lets it see the state as it is now, ends it, and expects that it was
// never violated.
func (i *invariant) expectHeld(what string) {
	GinkgoHelper()
	Eventually(i.count).WithTimeout(soon).Should(BeNumerically(">=", i.count()+2), "%s: it must be looked at", what)
	i.end()
	AddReportEntry(what, fmt.Sprintf("looked at %d times", i.looked))
	Expect(i.violated).To(BeEmpty(), what)
}
