package policy

// volume is what the rules need to know of a volume's specification.
type volume struct{}

// volumeReader reads one specification of a volume in one pass.
type volumeReader struct {
	reader
	volume volume
}

func (r *volumeReader) specMember(name string) error {
	at := place{index: -1, key: name}
	r.checkName(at)
	return r.rest(at)
}

// finish judges what only the whole specification can tell.
func (r *volumeReader) finish() {}
