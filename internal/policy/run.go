package policy

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"
)

// run is what the rules need to know of a run's specification.
type run struct {
	// kind is configuration.type.
	kind string
	// flags are the places where privileged or docker is neither null nor false.
	flags []place
	// volumes are the instance volumes.
	volumes []instanceVolume
	// nodes is the number of nodes of the whole run, at least 1, and nodesField
	// where it is given.
	nodes      int
	nodesField string
	// sshKey is ssh_key_pub; nil when it is null or absent.
	sshKey *string
}

// place is a key in an object of the specification.
type place struct {
	// object is the path of the object or of the list that it is in; index is its
	// position in that list, -1 for an object that is in none.
	object string
	index  int
	key    string
}

const (
	inConfiguration = "configuration"
	inGroups        = "configuration.groups"
	inReplicas      = "configuration.replicas"
	inVolumes       = "configuration.volumes"
)

func (p place) String() string {
	s := p.object
	if p.index >= 0 {
		s += "[" + strconv.Itoa(p.index) + "]"
	}
	switch {
	case p.key == "":
		return s
	case s == "":
		return p.key
	}
	return s + "." + p.key
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.object, q.object), cmp.Compare(p.index, q.index), cmp.Compare(p.key, q.key))
}

type instanceVolume struct {
	place
	path string
}

// whole is the specification itself.
var whole = place{index: -1}

// problem is something in a specification that is not understood.
type problem struct {
	place
	// what is wrong and what to write instead.
	what string
}

// runReader reads one specification of a run in one pass.
type runReader struct {
	dec      *jsontext.Decoder
	run      run
	problems []problem

	hasConfiguration bool
	// nodes, groupNodes: configuration.nodes, and the sum over groups; 0 if absent.
	nodes, groupNodes int
	// noNodes are the groups that do not give theirs.
	noNodes []place
}

// readRun reads a specification. What it does not understand comes back as
// problems, in an order that does not depend on that of the keys.
func readRun(spec []byte) (run, []problem) {
	if problems := checkStructure(spec); problems != nil {
		return run{}, problems
	}
	var r runReader
	err := decode(spec, func(dec *jsontext.Decoder) error {
		r.dec = dec
		return members(dec, r.specMember)
	})
	if err != nil {
		// Half of a specification says nothing about the rest.
		return run{}, []problem{{whole, describe(err)}}
	}
	r.finish()
	return r.run, r.problems
}

// checkStructure looks at what can be said without reading keys.
func checkStructure(spec []byte) []problem {
	if tooDeep(spec) {
		return []problem{{whole, fmt.Sprintf("is nested deeper than %d levels", maxDepth)}}
	}
	if kind := jsontext.Value(spec).Kind(); kind != '{' {
		return []problem{{whole, fmt.Sprintf("is %s and not an object", kindName(kind))}}
	}
	return nil
}

func (r *runReader) problem(at place, format string, args ...any) {
	if len(r.problems) < maxProblems {
		r.problems = append(r.problems, problem{at, fmt.Sprintf(format, args...)})
	}
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
	slices.SortFunc(r.run.flags, place.compare)
	r.run.flags = slices.Compact(r.run.flags)
	slices.SortStableFunc(r.run.volumes, func(a, b instanceVolume) int { return a.compare(b.place) })
	slices.SortFunc(r.problems, func(a, b problem) int {
		return cmp.Or(a.compare(b.place), cmp.Compare(a.what, b.what))
	})
	r.problems = slices.Compact(r.problems)
}

func (r *runReader) hasProblem(at place) bool {
	return slices.ContainsFunc(r.problems, func(p problem) bool { return p.place == at })
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
