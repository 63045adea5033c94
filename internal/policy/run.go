package policy

import (
	"slices"

	"github.com/go-json-experiment/json/jsontext"
)

// run is what the rules need to know of a run's specification.
type run struct {
	// kind is configuration.type.
	kind string
	// volumes are the instance volumes.
	volumes []instanceVolume
	// nodes is the number of nodes of the whole run, at least 1, and nodesField
	// where it is given.
	nodes      int
	nodesField string
	// sshKey is ssh_key_pub; nil when it is null or absent.
	sshKey *string
	// routers are the places where a router is set.
	routers []place
	// serverAccess and gateway tell whether "dstack" is set and "gateway" is
	// anything but null and false; namedGateway is the gateway if it has a name.
	serverAccess, gateway bool
	namedGateway          *reference
	// fleets and instances are those that the run may be placed on; any if there
	// are none.
	fleets    []reference
	instances []instanceRef
	// images of all its containers.
	images []image
	// fill is where lists can be put into the specification.
	fill fillPoint
	// offer tells that it is no run that somebody wants to start, but asks for
	// offers.
	offer bool
}

const (
	inConfiguration = "configuration"
	inProfile       = "profile"
	inGroups        = "configuration.groups"
	inReplicas      = "configuration.replicas"
	inVolumes       = "configuration.volumes"
)

type instanceVolume struct {
	place
	path string
}

// runReader reads one specification of a run in one pass.
type runReader struct {
	reader
	run run
	// spec is what is read; as is the run's kind when it is read a second time.
	spec []byte
	as   kindSet
	// foreign are the kinds of run that lack a member which carries a value here.
	foreign kindSet

	hasConfiguration bool
	// nodes, groupNodes: configuration.nodes, and the sum over groups; 0 if absent.
	nodes, groupNodes int
	// noNodes are the groups that do not give theirs.
	noNodes []place
	// configured and profiled are the parameters of configuration and profile.
	configured, profiled parameters
	// hasImage tells whether the configuration names an image; groups and
	// groupsWithImage count groups.
	hasImage                bool
	groups, groupsWithImage int
}

// finish judges what only the whole specification can tell.
func (r *runReader) finish() {
	configuration := place{index: -1, key: inConfiguration}
	switch {
	case r.hasConfiguration && r.run.kind == "" && !r.hasProblem(inConfig("type")):
		r.problem(inConfig("type"), "is missing; it is task, service or dev-environment")
	case !r.hasConfiguration && !r.hasProblem(configuration):
		r.problem(configuration, "is missing")
	}
	if r.run.kind == kindTask {
		for _, at := range r.noNodes {
			r.problem(at, "is missing; write how many nodes the group has")
		}
	}
	r.run.nodes, r.run.nodesField = max(r.nodes, 1), inConfiguration+".nodes"
	if r.groupNodes > r.run.nodes {
		r.run.nodes, r.run.nodesField = r.groupNodes, inGroups
	}
	r.finishPlacement()
	r.finishImages()
	slices.SortStableFunc(r.run.volumes, func(a, b instanceVolume) int { return a.compare(b.place) })
	slices.SortFunc(r.run.routers, place.compare)
}

func inConfig(key string) place { return place{object: inConfiguration, index: -1, key: key} }

const (
	kindTask           = "task"
	kindService        = "service"
	kindDevEnvironment = "dev-environment"
)

func (r *runReader) specMember(m member) error {
	at := place{index: -1, key: m.name}
	switch m.name {
	case inConfiguration:
		if kind := r.dec.PeekKind(); kind != '{' {
			return r.wrong(at, kind, "write an object")
		}
		r.hasConfiguration = true
		err := r.membersOf(configurationObject, r.configurationMember)
		r.run.fill.end = int(r.dec.InputOffset()) - len("}")
		return err
	case inProfile:
		switch kind := r.dec.PeekKind(); kind {
		case '{':
			return r.membersOf(profileObject, r.profileMember)
		case 'n':
			return r.skip(at)
		default:
			return r.wrong(at, kind, "write an object or null")
		}
	case "ssh_key_pub":
		if r.dec.PeekKind() == 'n' {
			return r.skip(at)
		}
		key, isString, err := r.text(at, "write one public key or null")
		if isString {
			r.run.sshKey = &key
		}
		return err
	}
	return r.walk(m.below)
}

func (r *runReader) configurationMember(m member) error {
	at, start := inConfig(m.name), r.dec.InputOffset()
	err := r.configurationValue(at, m.below)
	r.own(at, m.of, start)
	return err
}

func (r *runReader) configurationValue(at place, below object) error {
	switch at.key {
	case "type":
		return r.readKind(at)
	case "privileged", "docker":
		return r.flag(at)
	case "dstack":
		set, err := r.isSet(at)
		r.run.serverAccess = set
		return err
	case "volumes":
		return r.list(at, inVolumes, r.volume)
	case "groups":
		return r.list(at, inGroups, r.group)
	case "nodes":
		return r.count(at, &r.nodes)
	case "env":
		return r.environment(at)
	case "image":
		return r.image(at, &r.hasImage)
	}
	return r.serviceMember(at, below)
}

// serviceMember reads what only services have, and all else.
func (r *runReader) serviceMember(at place, below object) error {
	switch at.key {
	case "replicas":
		// A range of a service, or, up to dstack 0.21.3, the list of its groups.
		if r.dec.PeekKind() == '{' {
			return r.walk(below)
		}
		return r.list(at, inReplicas, r.group)
	case "gateway":
		return r.gateway(at)
	case "router":
		return r.router(at, below)
	}
	return r.parameter(at, below, &r.configured)
}

func (r *runReader) profileMember(m member) error {
	return r.parameter(place{object: inProfile, index: -1, key: m.name}, m.below, &r.profiled)
}

func (r *runReader) readKind(at place) error {
	kind, isString, err := r.text(at, "write task, service or dev-environment")
	switch {
	case err != nil || !isString:
	case kindsOfRuns[kind] != 0:
		r.run.kind = kind
	default:
		r.problem(at, "is %s, which is not known to this release; write task, service or dev-environment", quote(kind))
	}
	return err
}

// group reads a group of a task or a service, in either shape.
func (r *runReader) group(at place) error {
	if kind := r.dec.PeekKind(); kind != '{' {
		return r.wrong(at, kind, "write an object")
	}
	nodes, hasImage := 0, false
	err := r.membersOf(groupObject, func(m member) error {
		at.key = m.name
		start := r.dec.InputOffset()
		err := r.groupValue(at, m.below, &nodes, &hasImage)
		r.own(at, m.of, start)
		return err
	})
	r.groupNodes += nodes
	r.groups++
	if hasImage {
		r.groupsWithImage++
	}
	if at.key = "nodes"; nodes == 0 && at.object == inGroups && !r.hasProblem(at) {
		r.noNodes = append(r.noNodes, at)
	}
	return err
}

func (r *runReader) groupValue(at place, below object, nodes *int, hasImage *bool) error {
	switch at.key {
	case "privileged", "docker":
		return r.flag(at)
	case "nodes":
		return r.count(at, nodes)
	case "image":
		return r.image(at, hasImage)
	case "router":
		return r.router(at, below)
	case "volumes", "env", "tags":
		return r.strange(at)
	}
	return r.walk(below)
}

// strange reads what groups have in no release, as it would have to be read if
// one had it.
func (r *runReader) strange(at place) error {
	carries := false
	var err error
	if at.key == "volumes" {
		err = r.list(at, at.String(), func(in place) error { carries = true; return r.volume(in) })
	} else {
		var raw jsontext.Value
		raw, err = r.freeForm(at)
		carries = hasKeys(raw)
	}
	if carries && at.key == "tags" {
		r.shared.tags = append(r.shared.tags, at)
	}
	if carries && len(r.shared.unknown) < maxProblems {
		r.shared.unknown = append(r.shared.unknown, unknownField{at, notKnown})
	}
	return err
}

// router reads a router of any type: what is not null is one.
func (r *runReader) router(at place, below object) error {
	if r.dec.PeekKind() != 'n' {
		r.run.routers = append(r.run.routers, at)
	}
	return r.walk(below)
}

// gateway reads which gateway a service has: null for the project's default if
// it has one, false for none, true for the default, or the name of one.
func (r *runReader) gateway(at place) error {
	switch kind := r.dec.PeekKind(); kind {
	case 'n', 'f':
		return r.skip(at)
	case 't':
		r.run.gateway = true
		return r.skip(at)
	case '"', '{':
		ref, named, err := r.reference(at, "gateway")
		if named {
			r.run.gateway, r.run.namedGateway = true, &ref
		}
		return err
	default:
		return r.wrong(at, kind, "write the name of a gateway, true or false")
	}
}

// volume reads a named volume or an instance volume. The short form in one
// string never comes here: dstack writes it out before it asks.
func (r *runReader) volume(at place) error {
	if kind := r.dec.PeekKind(); kind != '{' {
		return r.wrong(at, kind, "write an object with path, and name or instance_path")
	}
	var named, instance bool
	entry := at
	err := r.membersOf(volumeObject, func(m member) error {
		at.key = m.name
		switch m.name {
		case "instance_path":
			instance = true
			return r.instancePath(at)
		case "name":
			named = true
			return r.volumeName(at)
		case "path":
			_, _, err := r.text(at, "write the path in the container")
			return err
		}
		return r.walk(m.below)
	})
	if named == instance {
		r.problem(entry, "is neither a named volume nor an instance volume; write either name or instance_path")
	}
	return err
}

func (r *runReader) instancePath(at place) error {
	path, isString, err := r.text(at, "write an absolute path")
	if isString {
		r.run.volumes = append(r.run.volumes, instanceVolume{at, path})
	}
	return err
}

// volumeName reads one name, or a list of names of which dstack takes one.
func (r *runReader) volumeName(at place) error {
	raw, err := r.dec.ReadValue()
	if err != nil {
		return err
	}
	kind := raw.Kind()
	if kind != '"' && kind != '[' {
		r.problem(at, "is %s; write a name or a list of names", kindName(kind))
	}
	if kind == '[' && hasObject(raw) {
		r.unknownField(raw, holdsObject, func() place { return at })
		return r.searchHidden(raw, func() place { return at })
	}
	return nil
}
