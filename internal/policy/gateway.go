package policy

// gateway is what the rules need to know of a gateway's specification.
type gateway struct{}

// gatewayReader reads one specification of a gateway in one pass.
type gatewayReader struct {
	reader
	gateway gateway
}

func (r *gatewayReader) specMember(name string) error {
	at := place{index: -1, key: name}
	r.checkName(at)
	return r.rest(at)
}

// finish judges what only the whole specification can tell.
func (r *gatewayReader) finish() {}
