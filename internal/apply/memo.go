package apply

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// memo remembers what was applied last, so that an idle pass sends nothing. It
// only ever saves a request: after a restart everything is applied once more.
type memo struct {
	mu   sync.Mutex
	last map[string]string
}

func newMemo() *memo { return &memo{last: map[string]string{}} }

func (m *memo) same(key, sum string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.last[key] == sum
}

func (m *memo) set(key, sum string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last[key] = sum
}

func digest(config any) (string, error) {
	body, err := json.Marshal(config)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:]), nil
}

// isUIDMismatch recognises the answers to an apply that names the uid of an
// object which is not there, a conflict without causes, or which another one of
// its name has replaced.
func isUIDMismatch(err error) bool {
	if apierrors.IsConflict(err) {
		return strings.Contains(err.Error(), "uid mismatch")
	}
	cause, found := apierrors.StatusCause(err, metav1.CauseTypeFieldValueInvalid)
	return found && cause.Field == "metadata.uid"
}
