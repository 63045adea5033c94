package policy

import (
	"fmt"

	"github.com/go-json-experiment/json/jsontext"
)

// own looks at a member that was just read and that only runs of some kinds
// have. start is where its value began, or the space before it. Of which kind
// this run is may come later: the first reading only finds whether any member
// is of other kinds, which is rare; the second one finds where.
func (r *runReader) own(at place, of kindSet, start int64) {
	if of == 0 || of&r.as != 0 {
		return
	}
	value := r.spec[start:r.dec.InputOffset()]
	if r.as == 0 {
		// One member that they lack is enough.
		if r.foreign|^of != r.foreign && carriesValue(value) {
			r.foreign |= ^of
		}
		return
	}
	if at.index < 0 || hasGroups(r.as, at.object) {
		r.unknownField(value, fmt.Sprintf("is unknown in a %s", r.run.kind), func() place { return at })
	}
}

// readAgain prepares a second reading if the first one has found members that
// this kind of run does not have.
func (r *runReader) readAgain() bool {
	name, kind := r.run.kind, kindsOfRuns[r.run.kind]
	if r.foreign&kind == 0 {
		return false
	}
	*r = runReader{spec: r.spec, as: kind}
	r.run.kind = name
	return true
}

// hasGroups tells whether runs of a kind have groups in the list. Where they do
// not, the list itself is unknown.
func hasGroups(kind kindSet, list string) bool {
	return kind == ofServices || kind == ofTasks && list == inGroups
}

// environment reads the variables of a run. Those for which dstack's client has
// found no value are objects that say so.
func (r *runReader) environment(at place) error {
	raw, err := r.freeForm(at)
	if err != nil || !hasObjectBelow(raw) {
		return err
	}
	return decode(raw, func(dec *jsontext.Decoder) error {
		if _, err := dec.ReadToken(); err != nil {
			return err
		}
		for dec.PeekKind() != '}' {
			if _, err := dec.ReadValue(); err != nil {
				return err
			}
			value, err := dec.ReadValue()
			if err != nil {
				return err
			}
			if hasObject(value) && !isSentinel(value) {
				r.unknownField(value, holdsObject, func() place { return at })
			}
		}
		_, err := dec.ReadToken()
		return err
	}, jsontext.AllowDuplicateNames(true)) // whoever read it whole has found none
}

// isSentinel tells whether an object is {"key": NAME}.
func isSentinel(raw jsontext.Value) bool {
	only := raw.Kind() == '{'
	err := decode(raw, func(dec *jsontext.Decoder) error {
		if !only {
			_, err := dec.ReadValue()
			return err
		}
		return members(dec, func(name string) error {
			value, err := dec.ReadValue()
			only = only && (name == "key" && value.Kind() == '"' || err == nil && !carriesValue(value))
			return err
		})
	})
	return err == nil && only
}
