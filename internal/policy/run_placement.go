package policy

import (
	"cmp"
	"slices"
	"strings"
)

// reference is a fleet or a gateway that a run names; project is empty for the
// run's own.
type reference struct {
	place
	project, name string
}

// instanceRef is an instance that a run names. fleet is nil when it is named in
// a way that says nothing of its fleet.
type instanceRef struct {
	place
	fleet *reference
}

// parameters are those of configuration or profile that a rule reads.
type parameters struct {
	fleets    listOf[reference]
	instances listOf[instanceRef]
	backends  listOf[named]
}

// listOf is a list, and whether there is one: an empty one is there.
type listOf[T any] struct {
	set     bool
	entries []T
}

// over is what dstack takes of two lists: one of the configuration, also an
// empty one, replaces the profile's. What is replaced has no effect in any
// release, so that no rule looks at it.
func (l listOf[T]) over(profiled listOf[T]) []T {
	if l.set {
		return l.entries
	}
	return profiled.entries
}

// parameter reads a key that configuration and profile have in common.
func (r *runReader) parameter(at place, below object, into *parameters) error {
	switch at.key {
	case "fleets":
		err := read(r, at, &into.fleets, r.fleet)
		if at.object == inConfiguration {
			r.run.fill.fleets = int(r.dec.InputOffset())
		}
		return err
	case "instances":
		return read(r, at, &into.instances, r.instance)
	case "backends":
		err := read(r, at, &into.backends, func(at place) (named, bool, error) {
			name, isString, err := r.text(at, "write the name of a backend")
			return named{at, name}, isString, err
		})
		if at.object == inConfiguration {
			r.run.fill.backends = int(r.dec.InputOffset())
		}
		return err
	case "tags":
		return r.tags(at)
	}
	return r.walk(below)
}

// read reads a list or null.
func read[T any](r *runReader, at place, into *listOf[T], entry func(place) (T, bool, error)) error {
	kind := r.dec.PeekKind()
	if kind == 'n' {
		return r.skip(at)
	}
	into.set = kind == '['
	return r.list(at, at.String(), func(at place) error {
		value, ok, err := entry(at)
		if ok {
			into.entries = append(into.entries, value)
		}
		return err
	})
}

func (r *runReader) fleet(at place) (reference, bool, error) { return r.reference(at, "fleet") }

// reference reads NAME, PROJECT/NAME or an object of both, for what.
func (r *runReader) reference(at place, what string) (reference, bool, error) {
	ref := reference{place: at}
	wellFormed := true
	var err error
	switch kind := r.dec.PeekKind(); kind {
	case '"':
		ref.name, _, err = r.text(at, "")
		if project, name, found := strings.Cut(ref.name, "/"); found {
			ref.project, ref.name = project, name
			wellFormed = project != ""
		}
	case '{':
		wellFormed, err = r.referenceObject(&ref)
	default:
		return ref, false, r.wrong(at, kind, "write the name of a "+what)
	}
	if err != nil {
		return ref, false, err
	}
	if !wellFormed || ref.name == "" || strings.Contains(ref.project+ref.name, "/") {
		r.problem(at, "does not name a %s; write NAME or PROJECT/NAME", what)
		return ref, false, nil
	}
	return ref, true, nil
}

func (r *runReader) referenceObject(ref *reference) (wellFormed bool, err error) {
	wellFormed = true
	path := ref.String()
	err = r.membersOf(fleetRefObject, func(m member) error {
		in := place{object: path, index: -1, key: m.name}
		if m.name == "project" && r.dec.PeekKind() == 'n' {
			return r.skip(in)
		}
		text, isString, err := r.text(in, "write a name")
		wellFormed = wellFormed && isString && text != ""
		if m.name == "project" {
			ref.project = text
		} else {
			ref.name = text
		}
		return err
	})
	return wellFormed, err
}

// instance reads which instance of a fleet is meant: by fleet and number, or by
// its name or host name.
func (r *runReader) instance(at place) (instanceRef, bool, error) {
	ref := instanceRef{place: at}
	switch kind := r.dec.PeekKind(); kind {
	case '"':
		return ref, true, r.skip(at)
	case '{':
	default:
		return ref, false, r.wrong(at, kind, "write an object with fleet and instance")
	}
	otherwise := false
	err := r.membersOf(instanceObject, func(m member) error {
		in := place{object: at.String(), index: -1, key: m.name}
		switch kind := r.dec.PeekKind(); {
		case kind == 'n':
			return r.skip(in)
		case m.name == "fleet":
			fleet, named, err := r.reference(in, "fleet")
			if named {
				ref.fleet = &fleet
			}
			return err
		case m.name != "instance":
			otherwise = true
		}
		return r.walk(m.below)
	})
	if otherwise {
		ref.fleet = nil
	}
	return ref, true, err
}

func (r *runReader) finishPlacement() {
	r.run.fleets = r.configured.fleets.over(r.profiled.fleets)
	r.run.instances = r.configured.instances.over(r.profiled.instances)
	r.shared.backends = r.configured.backends.over(r.profiled.backends)
}

// image is the name of an image and where it is named. dstacks tells that dstack
// takes one of its own, because the run asks for it there or names none.
type image struct {
	named
	dstacks bool
}

// The images that dstack takes of its own accord. Both names can be changed for
// the whole server, as can the registry of names without one
// (DSTACK_SERVER_DEFAULT_DOCKER_REGISTRY): no specification tells of that.
const (
	baseImage   = "dstackai/base"
	dockerImage = "dstackai/dind"
)

func (r *runReader) image(at place, has *bool) error {
	if r.dec.PeekKind() == 'n' {
		return r.skip(at)
	}
	name, isString, err := r.text(at, "write the name of an image or null")
	if isString {
		*has = true
		r.run.images = append(r.run.images, image{named: named{at, name}})
	}
	return err
}

// finishImages adds the images that dstack takes of its own accord.
func (r *runReader) finishImages() {
	base := !r.hasImage && (r.groups == 0 || r.groupsWithImage < r.groups)
	for _, at := range r.shared.flags {
		if at.key != "docker" {
			continue
		}
		r.run.images = append(r.run.images, image{named{at, dockerImage}, true})
		if at == inConfig("docker") {
			base = false
		}
	}
	if base {
		r.run.images = append(r.run.images, image{named{inConfig("image"), baseImage}, true})
	}
	slices.SortFunc(r.run.images, func(a, b image) int {
		return cmp.Or(a.compare(b.named), cmp.Compare(len(a.name), len(b.name)))
	})
}
