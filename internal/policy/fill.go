package policy

import (
	"bytes"
	"slices"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
)

// fillPoint is where a list of fleets can be put into a specification: offsets
// of the end of the configuration's object and, if the configuration has the key
// fleets, of the end of its value.
type fillPoint struct {
	end, fleets int
}

// fill returns the specification with the list of allowed fleets put in, if the
// policy lists some and the run names none; else nil. It is the only change that
// is ever made to a specification: every other byte stays.
func (s *subject) fill(policy *isolation.Policy, spec []byte) []byte {
	v := policy[isolation.Fleets].Value
	if s.kind != dstack.KindRun || v.Mode == isolation.ModeAllowed || len(s.run.fleets) > 0 {
		return nil
	}
	start, end := s.run.fill.end, s.run.fill.end
	var filled []byte
	if s.run.fill.fleets > 0 {
		// null, or a list without entries, whatever space is in it.
		end = s.run.fill.fleets
		if start = end - len("null"); spec[end-1] == ']' {
			start = bytes.LastIndexByte(spec[:end], '[')
		}
	} else {
		filled = []byte(`,"fleets":`)
	}
	filled = appendFleets(filled, s.fillable(v))
	return slices.Concat(spec[:start], filled, spec[end:])
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
