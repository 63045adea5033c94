package controllers

import (
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// memory is what the manager remembers of one server from pass to pass. It saves
// requests and waits, and nothing more: one that restarts begins anew. One object is
// worked on by one worker at a time, so that no lock is needed.
type memory struct {
	// window in which planned settings settle.
	window window
	// config is what was found out about a config.yml that is mounted as a whole; nil
	// for nothing.
	config *mountedConfig
	// configNamed is when a config.yml that is mounted as a whole was last found to name
	// the plugin.
	configNamed time.Time
	// owned are the pods that were found to be the workload's own.
	owned map[types.UID]bool
	// counted is when the active runs were counted that a change meets.
	counted counting
	// strandedBy is the revision of the settings without an SSH proxy of which it was
	// said whom they keep out.
	strandedBy string
	// verdicts are what the server's processes made of the SSH proxy's token last. One
	// that does not answer for once has not changed.
	verdicts map[process]verdict
	// copies of Secrets that were noted last: whoever deletes the note deletes no copy.
	copies []string
	// noProxyLeft is true once no object of a managed SSH proxy is there that is not
	// wanted, noTokenLeft once no token of the operator's own is that is not used.
	noProxyLeft, noTokenLeft bool
}

// remember finds what is known of a server, by its uid.
func (r *DstackServerReconciler) remember(server types.UID) *memory {
	known, _ := r.memories.LoadOrStore(server, &memory{})
	return known.(*memory)
}
