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
	r := runReader{dec: newDecoder(spec)}
	err := members(r.dec, r.specMember)
	if err == nil {
		err = atEnd(r.dec)
	}
	if err != nil {
		// Half of a specification says nothing about the rest.
		return run{}, []problem{{what: describe(err)}}
	}
	r.finish()
	return r.run, r.problems
}

// checkStructure looks at what can be said without reading keys.
func checkStructure(spec []byte) []problem {
	if tooDeep(spec) {
		return []problem{{what: fmt.Sprintf("is nested deeper than %d levels", maxDepth)}}
	}
	if kind := jsontext.Value(spec).Kind(); kind != '{' {
		return []problem{{what: fmt.Sprintf("is %s and not an object", kindName(kind))}}
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
	if !r.hasConfiguration {
		r.problem(place{index: -1, key: inConfiguration}, "is missing")
	} else if r.run.kind == "" && !slices.ContainsFunc(r.problems, isAboutType) {
		r.problem(inConfig("type"), "is missing; it is task, service or dev-environment")
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
	slices.SortStableFunc(r.run.volumes, func(a, b instanceVolume) int { return a.compare(b.place) })
	slices.SortFunc(r.problems, func(a, b problem) int {
		return cmp.Or(a.compare(b.place), cmp.Compare(a.what, b.what))
	})
}

func isAboutType(p problem) bool { return p.place == inConfig("type") }

func inConfig(key string) place { return place{object: inConfiguration, index: -1, key: key} }

const kindTask = "task"

var kinds = []string{kindTask, "service", "dev-environment"}

func (r *runReader) specMember(name string) error {
	at := place{index: -1, key: name}
	switch name {
	case inConfiguration:
		r.hasConfiguration = true
		if kind := r.dec.PeekKind(); kind != '{' {
			return r.wrong(at, kind, "write an object")
		}
		return members(r.dec, r.configurationMember)
	case "ssh_key_pub":
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
	if at.key = "nodes"; nodes == 0 && !slices.ContainsFunc(r.problems, func(p problem) bool { return p.place == at }) {
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
			_, isString, err := r.text(at, "write the path in the container")
			if err == nil && !isString {
				r.problem(at, "is null; write the path in the container")
			}
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
	switch {
	case err != nil:
	case isString:
		r.run.volumes = append(r.run.volumes, instanceVolume{at, path})
	default:
		r.problem(at, "is null; write an absolute path")
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
		r.hidden(newDecoder(raw), at)
	}
	return nil
}

// list reads null or a list of at most maxEntries.
func (r *runReader) list(at place, path string, entry func(place) error) error {
	switch kind := r.dec.PeekKind(); kind {
	case '[':
	case 'n':
		_, err := r.dec.ReadValue()
		return err
	default:
		return r.wrong(at, kind, "write a list")
	}
	if _, err := r.dec.ReadToken(); err != nil {
		return err
	}
	for i := 0; r.dec.PeekKind() != ']'; i++ {
		if i == maxEntries {
			r.problem(at, "has more than %d entries", maxEntries)
		}
		read := entry
		if i >= maxEntries {
			read = r.skip
		}
		if err := read(place{object: path, index: i}); err != nil {
			return err
		}
	}
	_, err := r.dec.ReadToken()
	return err
}

func (r *runReader) skip(place) error {
	_, err := r.dec.ReadValue()
	return err
}

// flag reads privileged or docker. What is neither null nor a boolean counts as
// set: dstack takes 1 and "true" for true.
func (r *runReader) flag(at place) error {
	raw, err := r.dec.ReadValue()
	if err != nil {
		return err
	}
	switch kind := raw.Kind(); kind {
	case 'n', 'f':
		return nil
	case 't':
	default:
		r.problem(at, "is %s; write true or false", kindName(kind))
	}
	r.run.flags = append(r.run.flags, at)
	return nil
}

// count reads a number of nodes; null is none.
func (r *runReader) count(at place, into *int) error {
	const most = 1_000_000
	raw, err := r.dec.ReadValue()
	if err != nil || raw.Kind() == 'n' {
		return err
	}
	n, err := strconv.Atoi(string(raw))
	switch {
	case raw.Kind() != '0':
		r.problem(at, "is %s; write a whole number", kindName(raw.Kind()))
	case err != nil || n < 1 || n > most:
		r.problem(at, "is not a whole number from 1 to %d", most)
	default:
		*into = n
	}
	return nil
}

// text reads a string or null.
func (r *runReader) text(at place, remedy string) (s string, isString bool, err error) {
	raw, err := r.dec.ReadValue()
	if err != nil {
		return "", false, err
	}
	switch kind := raw.Kind(); kind {
	case '"':
		s, err = unquote(raw)
		return s, true, err
	case 'n':
	default:
		r.problem(at, "is %s; %s", kindName(kind), remedy)
	}
	return "", false, nil
}

// freeForm passes over a map whose keys are the user's own.
func (r *runReader) freeForm(at place) error {
	if kind := r.dec.PeekKind(); kind != '{' && kind != 'n' {
		return r.wrong(at, kind, "write an object")
	}
	_, err := r.dec.ReadValue()
	return err
}

// rest passes over a value that no rule reads, unless it hides what one reads.
func (r *runReader) rest(at place) error {
	raw, err := r.dec.ReadValue()
	if err != nil {
		return err
	}
	if k := raw.Kind(); k != '{' && k != '[' {
		return nil
	}
	for _, sign := range [][]byte{[]byte(`"privileged"`), []byte(`"docker"`), []byte(`"instance_path"`), []byte(`\u`)} {
		if bytes.Contains(raw, sign) {
			at.key = label(at.key)
			return r.hidden(newDecoder(raw), at)
		}
	}
	return nil
}

// hidden looks at every depth for keys that rules read, in places where no
// release of dstack has them so far, and judges them as elsewhere.
func (r *runReader) hidden(dec *jsontext.Decoder, at place) error {
	switch dec.PeekKind() {
	case '{':
		return members(dec, func(name string) error {
			if name != "privileged" && name != "docker" && name != "instance_path" {
				return r.hidden(dec, at)
			}
			raw, err := dec.ReadValue()
			if err != nil {
				return err
			}
			within := place{object: at.String(), index: -1, key: name}
			switch kind := raw.Kind(); {
			case name == "instance_path":
				r.problem(within, "is in a place that is not known to this release; remove it")
			case kind != 'n' && kind != 'f' && len(r.run.flags) < maxProblems:
				r.run.flags = append(r.run.flags, within)
			}
			return nil
		})
	case '[':
		if _, err := dec.ReadToken(); err != nil {
			return err
		}
		for dec.PeekKind() != ']' {
			if err := r.hidden(dec, at); err != nil {
				return err
			}
		}
		_, err := dec.ReadToken()
		return err
	}
	_, err := dec.ReadValue()
	return err
}

// checkName refuses a name that only looks like a key of dstack's.
func (r *runReader) checkName(at place) {
	if known := variantOf(at.key); known != "" {
		at.key = known
		r.problem(at, "is written in another case")
	}
}

// wrong passes over a value of a kind that is not expected.
func (r *runReader) wrong(at place, got jsontext.Kind, remedy string) error {
	if _, err := r.dec.ReadValue(); err != nil {
		return err
	}
	r.problem(at, "is %s; %s", kindName(got), remedy)
	return nil
}
