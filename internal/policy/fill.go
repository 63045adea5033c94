package policy

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// fillPoint is where lists can be put into a specification: offsets of the end of
// the configuration's object and, if the configuration has the keys, of the ends
// of their values.
type fillPoint struct {
	end, fleets, backends int
}

// edit is what stands in a specification in place of the bytes from start to end.
type edit struct {
	start, end int
	text       []byte
}

// fill returns the specification with the lists put in that the policy has for
// what it leaves open, else nil: the allowed fleets for a run that names none,
// and the allowed backends for a request for offers that names none. It is the
// only change that is ever made to a specification: every other byte stays.
func (s *subject) fill(policy *isolation.Policy, spec []byte) []byte {
	if s.kind != dstack.KindRun {
		return nil
	}
	var edits []edit
	if refs := s.fillable(policy[isolation.Fleets].Value); len(refs) > 0 && len(s.run.fleets) == 0 {
		edits = append(edits, s.run.fill.put(spec, "fleets", s.run.fill.fleets, appendFleets(nil, refs)))
	}
	if names := s.offerable(policy[isolation.Backends].Value); len(names) > 0 && len(s.backends) == 0 {
		edits = append(edits, s.run.fill.put(spec, "backends", s.run.fill.backends, appendNames(nil, names)))
	}
	if edits == nil {
		return nil
	}
	slices.SortStableFunc(edits, func(a, b edit) int { return cmp.Compare(a.start, b.start) })
	var filled []byte
	at := 0
	for _, e := range edits {
		filled = append(append(filled, spec[at:e.start]...), e.text...)
		at = e.end
	}
	return append(filled, spec[at:]...)
}

// put puts a list in place of the value that ends at valueEnd, which is null or a
// list without entries; with a key of its own if there is none.
func (p fillPoint) put(spec []byte, key string, valueEnd int, list []byte) edit {
	if valueEnd == 0 {
		return edit{p.end, p.end, slices.Concat([]byte(`,"`+key+`":`), list)}
	}
	start := valueEnd - len("null")
	if spec[valueEnd-1] == ']' { // whatever space is in it
		start = bytes.LastIndexByte(spec[:valueEnd], '[')
	}
	return edit{start, valueEnd, list}
}

// offerable are the backends of the list with which a request for offers that
// names none can be filled in; none for whatever is not one.
func (s *subject) offerable(v isolation.Value) []string {
	if !s.run.offer || v.Mode != isolation.ModeAllowedList {
		return nil
	}
	return offerable(v.List, s.release)
}

// appendNames writes a list of names.
func appendNames(b []byte, names []string) []byte {
	b = append(b, '[')
	for i, name := range names {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, name)
	}
	return append(b, ']')
}

// appendFleets writes fleets as dstack itself sends them.
func appendFleets(b []byte, refs []reference) []byte {
	b = append(b, '[')
	for i, ref := range refs {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"project":`...)
		if ref.project == "" {
			b = append(b, "null"...)
		} else {
			b = appendString(b, ref.project)
		}
		b = append(appendString(append(b, `,"name":`...), ref.name), '}')
	}
	return append(b, ']')
}

// appendString writes a string; what is not UTF-8 in it is replaced.
func appendString(b []byte, s string) []byte {
	b, _ = jsontext.AppendQuote(b, s)
	return b
}
