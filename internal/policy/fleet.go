package policy

// fleet is what the rules need to know of a fleet's specification.
type fleet struct{}

// fleetReader reads one specification of a fleet in one pass.
type fleetReader struct {
	reader
	fleet fleet
}

func (r *fleetReader) specMember(name string) error {
	at := place{index: -1, key: name}
	r.checkName(at)
	return r.rest(at)
}

// finish judges what only the whole specification can tell.
func (r *fleetReader) finish() {}
