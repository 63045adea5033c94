package policy

// gateway is what the rules need to know of a gateway's specification beyond
// what is shared: nothing.
type gateway struct{}

// gatewayReader reads one specification of a gateway in one pass.
type gatewayReader struct {
	specReader
	gateway gateway
}

func (r *gatewayReader) specMember(name string) error {
	at := place{index: -1, key: name}
	if name == inConfiguration {
		return r.configuration(at, r.member)
	}
	return r.known(at, gatewaySpecKeys)
}

func (r *gatewayReader) member(at place) error {
	switch at.key {
	case "type":
		return r.kind(at, "gateway")
	case "backend":
		return r.oneBackend(at)
	case "tags":
		return r.tags(at)
	}
	return r.known(at, gatewayKeys)
}

// finish judges what only the whole specification can tell.
func (r *gatewayReader) finish() {
	r.complete("gateway")
	r.completeBackend()
}
