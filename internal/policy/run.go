package policy

import (
	"bytes"
	"slices"
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
}

const (
	inConfiguration = "configuration"
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

	hasConfiguration bool
	// nodes, groupNodes: configuration.nodes, and the sum over groups; 0 if absent.
	nodes, groupNodes int
	// noNodes are the groups that do not give theirs.
	noNodes []place
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
	slices.SortStableFunc(r.run.volumes, func(a, b instanceVolume) int { return a.compare(b.place) })
}

func inConfig(key string) place { return place{object: inConfiguration, index: -1, key: key} }

const kindTask = "task"

var kinds = []string{kindTask, "service", "dev-environment"}

func (r *runReader) specMember(name string) error {
	at := place{index: -1, key: name}
	switch name {
	case inConfiguration:
		if kind := r.dec.PeekKind(); kind != '{' {
			return r.wrong(at, kind, "write an object")
		}
		r.hasConfiguration = true
		return members(r.dec, r.configurationMember)
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
	r.checkName(at)
	_, err := r.dec.ReadValue()
	return err
}

func (r *runReader) configurationMember(name string) error {
	at := inConfig(name)
	switch name {
	case "type":
		return r.kind(at)
	case "privileged", "docker":
		return r.flag(at)
	case "volumes":
		return r.list(at, inVolumes, r.volume)
	case "groups":
		return r.list(at, inGroups, r.group)
	case "replicas":
		// A range of a service, or, up to dstack 0.21.3, the list of its groups.
		if r.dec.PeekKind() == '{' {
			return r.rest(at)
		}
		return r.list(at, inReplicas, r.group)
	case "nodes":
		return r.count(at, &r.nodes)
	case "env", "tags":
		return r.freeForm(at)
	}
	r.checkName(at)
	return r.rest(at)
}

func (r *runReader) kind(at place) error {
	kind, isString, err := r.text(at, "write task, service or dev-environment")
	switch {
	case err != nil || !isString:
	case slices.Contains(kinds, kind):
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
	nodes := 0
	err := members(r.dec, func(name string) error {
		at.key = name
		switch name {
		case "privileged", "docker":
			return r.flag(at)
		case "nodes":
			return r.count(at, &nodes)
		case "volumes":
			return r.list(at, at.String(), r.volume)
		case "env", "tags":
			return r.freeForm(at)
		}
		r.checkName(at)
		return r.rest(at)
	})
	r.groupNodes += nodes
	if at.key = "nodes"; nodes == 0 && at.object == inGroups && !r.hasProblem(at) {
		r.noNodes = append(r.noNodes, at)
	}
	return err
}

// volume reads a named volume or an instance volume. The short form in one
// string never comes here: dstack writes it out before it asks.
func (r *runReader) volume(at place) error {
	if kind := r.dec.PeekKind(); kind != '{' {
		return r.wrong(at, kind, "write an object with path, and name or instance_path")
	}
	var named, instance bool
	entry := at
	err := members(r.dec, func(name string) error {
		at.key = name
		switch name {
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
		r.checkName(at)
		return r.rest(at)
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
	if kind == '[' && bytes.ContainsAny(raw, "{") {
		return r.searchHidden(raw, at)
	}
	return nil
}
