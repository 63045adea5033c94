package dstack

// ApplyKind is a kind of object that dstack asks its plugins about.
type ApplyKind string

// The kinds that dstack asks about.
const (
	KindRun     ApplyKind = "run"
	KindFleet   ApplyKind = "fleet"
	KindVolume  ApplyKind = "volume"
	KindGateway ApplyKind = "gateway"
)

// ApplyKinds are all kinds that dstack asks about.
func ApplyKinds() []ApplyKind {
	return []ApplyKind{KindRun, KindFleet, KindVolume, KindGateway}
}

// ApplyPath is the path, appended to the plugin service's URI, to which dstack
// posts a specification of the kind (plugins/builtin/rest_plugin).
func ApplyPath(kind ApplyKind) string {
	return "/apply_policies/on_" + string(kind) + "_apply"
}

// Paths of the policy server that are not dstack's.
const (
	// PathReady answers 200 once the policy is known.
	PathReady = "/readyz"
	// PathRevision tells which policy is decided by.
	PathRevision = "/revision"
)
