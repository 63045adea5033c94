package policy

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/dstack-isolation/operator/internal/dstack"
)

// place is a key in an object of the specification.
type place struct {
	// object is the path of the object or of the list that it is in; index is its
	// position in that list, -1 for an object that is in none.
	object string
	index  int
	key    string
}

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

// in is the object that the key is in.
func (p place) in() place { return place{object: p.object, index: p.index} }

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.object, q.object), cmp.Compare(p.index, q.index), cmp.Compare(p.key, q.key))
}

// whole is the specification itself.
var whole = place{index: -1}

// problem is something in a specification that is not understood.
type problem struct {
	place
	// what is wrong and what to write instead.
	what string
}

// shared is what the specifications of several kinds can hold.
type shared struct {
	// flags are the places where privileged or docker is neither null nor false.
	flags []place
	// unknown are the fields that this release does not know and that carry a
	// value.
	unknown []unknownField
	// tags are the places where tags are set.
	tags []place
	// backends are the backends that are asked for, each with its place.
	backends []named
}

// unknownField is a field, and why this release does not know what it means.
type unknownField struct {
	place
	// why follows the field's name in a sentence.
	why string
}

func (f unknownField) compare(g unknownField) int {
	return cmp.Or(f.place.compare(g.place), cmp.Compare(f.why, g.why))
}

const (
	notKnown    = "is not known to this release"
	holdsObject = "holds an object, which is not known to this release"
)

// named is a name and where it stands.
type named struct {
	place
	name string
}

// facts are what the rules need to know of one specification: shared, and the
// part of its kind.
type facts struct {
	shared
	run     run
	fleet   fleet
	volume  volume
	gateway gateway
}

// reader reads one specification in one pass. The readers of each kind build on
// it.
type reader struct {
	dec      *jsontext.Decoder
	shared   shared
	problems []problem
}

// readSpec reads a specification. What it does not understand comes back as
// problems, in an order that does not depend on that of the keys. It is false
// for a specification that cannot be read, in which there is nothing to judge.
func readSpec(kind dstack.ApplyKind, spec []byte) (facts, []problem, bool) {
	if problems := checkStructure(spec); problems != nil {
		return facts{}, problems, false
	}
	var f facts
	var r *reader
	var object func() error
	var finish func()
	again := func() bool { return false }
	switch kind {
	case dstack.KindRun:
		run := &runReader{spec: spec}
		r, again = &run.reader, run.readAgain
		finish = func() { run.finish(); f.run = run.run; f.run.offer = isOffer(&f.run, spec) }
		object = func() error { return r.membersOf(specObject, run.specMember) }
	case dstack.KindFleet:
		fleet := &fleetReader{}
		r, finish = &fleet.reader, func() { fleet.finish(); f.fleet = fleet.fleet }
		object = func() error { return members(r.dec, fleet.specMember) }
	case dstack.KindVolume:
		volume := &volumeReader{}
		r, finish = &volume.reader, func() { volume.finish(); f.volume = volume.volume }
		object = func() error { return members(r.dec, volume.specMember) }
	case dstack.KindGateway:
		gateway := &gatewayReader{}
		r, finish = &gateway.reader, func() { gateway.finish(); f.gateway = gateway.gateway }
		object = func() error { return members(r.dec, gateway.specMember) }
	}
	read := func(dec *jsontext.Decoder) error {
		r.dec = dec
		return object()
	}
	err := decode(spec, read)
	if err == nil && again() {
		err = decode(spec, read)
	}
	if err != nil {
		// Half of a specification says nothing about the rest.
		return facts{}, []problem{{whole, describe(err)}}, false
	}
	finish()
	r.sort()
	f.shared = r.shared
	return f, r.problems, true
}

// sort brings what was found into an order that does not depend on that of the
// keys.
func (r *reader) sort() {
	s := &r.shared
	for _, places := range []*[]place{&s.flags, &s.tags} {
		slices.SortFunc(*places, place.compare)
		*places = slices.Compact(*places)
	}
	slices.SortFunc(s.unknown, unknownField.compare)
	s.unknown = slices.Compact(s.unknown)
	slices.SortFunc(s.backends, named.compare)
	slices.SortFunc(r.problems, func(a, b problem) int {
		return cmp.Or(a.place.compare(b.place), cmp.Compare(a.what, b.what))
	})
	r.problems = slices.Compact(r.problems)
}

func (n named) compare(m named) int {
	return cmp.Or(n.place.compare(m.place), cmp.Compare(n.name, m.name))
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

func (r *reader) problem(at place, format string, args ...any) {
	if len(r.problems) < maxProblems {
		r.problems = append(r.problems, problem{at, fmt.Sprintf(format, args...)})
	}
}

func (r *reader) hasProblem(at place) bool {
	return slices.ContainsFunc(r.problems, func(p problem) bool { return p.place == at })
}
