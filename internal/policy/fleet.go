package policy

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// fleet is what the rules need to know of a fleet's specification.
type fleet struct {
	// isSSH tells whether ssh_config is given.
	isSSH bool
	// env are the environment variables.
	env []variable
	// split are the places where blocks is anything but 1.
	split []place
}

// variable is an environment variable without its value.
type variable struct {
	name string
	// wrong is what to do about its value where only plain ones may be.
	wrong string
}

// maxHosts is how many hosts a fleet may have.
const maxHosts = 4096

// fleetReader reads one specification of a fleet in one pass.
type fleetReader struct {
	specReader
	fleet fleet
	// configured and profiled are the backends that configuration and profile
	// name.
	configured, profiled backendList
}

// backendList is a list of backends; set when it is not null.
type backendList struct {
	set   bool
	names []named
}

func (r *fleetReader) specMember(name string) error {
	at := place{index: -1, key: name}
	switch name {
	case inConfiguration:
		return r.configuration(at, r.member)
	case "profile":
		return r.object(at, func(in place) error {
			switch in.key {
			case "backends":
				return r.backends(in, &r.profiled)
			case "tags":
				return r.tags(in)
			}
			return r.known(in, fleetProfileKeys)
		})
	}
	return r.known(at, fleetSpecKeys)
}

func (r *fleetReader) member(at place) error {
	switch at.key {
	case "type":
		return r.kind(at, "fleet")
	case "blocks":
		return r.blocks(at)
	case "env":
		return r.env(at)
	case "ssh_config":
		r.fleet.isSSH = r.dec.PeekKind() != 'n'
		return r.object(at, func(in place) error {
			if in.key == "hosts" {
				return r.longList(in, in.String(), maxHosts, r.host)
			}
			return r.known(in, sshConfigKeys)
		})
	case "backends":
		return r.backends(at, &r.configured)
	case "tags":
		return r.tags(at)
	}
	return r.known(at, fleetKeys)
}

// finish judges what only the whole specification can tell.
func (r *fleetReader) finish() {
	r.complete("fleet")
	// An empty list in the configuration takes over the profile's too.
	r.shared.backends = r.profiled.names
	if r.configured.set {
		r.shared.backends = r.configured.names
	}
	slices.SortFunc(r.fleet.env, func(a, b variable) int { return cmp.Compare(a.name, b.name) })
	slices.SortFunc(r.fleet.split, place.compare)
}

func (r *fleetReader) backends(at place, into *backendList) error {
	into.set = r.dec.PeekKind() != 'n'
	return r.list(at, at.String(), func(in place) error { return r.backend(in, &into.names) })
}

func (r *fleetReader) host(at place) error {
	switch kind := r.dec.PeekKind(); kind {
	case '"':
		return r.skip(at)
	case '{':
		return r.keys(at, func(in place) error {
			if in.key == "blocks" {
				return r.blocks(in)
			}
			return r.known(in, sshHostKeys)
		})
	default:
		return r.wrong(at, kind, "write a hostname or an object with one")
	}
}

// blocks reads into how many parts an instance is split. Null is 1 or, for a
// host, what the configuration says.
func (r *fleetReader) blocks(at place) error {
	raw, err := r.dec.ReadValue()
	if err != nil {
		return err
	}
	switch kind := raw.Kind(); kind {
	case 'n':
		return nil
	case '0':
		n, err := strconv.Atoi(string(raw))
		if err == nil && n == 1 {
			return nil
		}
		if err != nil || n < 1 {
			r.problem(at, "is not a whole number from 1")
		}
	case '"':
		if text, err := unquote(raw); err != nil || text != "auto" {
			r.problem(at, "is %s; write a whole number or auto", kindName(kind))
		}
	default:
		r.problem(at, "is %s; write a whole number or auto", kindName(kind))
	}
	r.fleet.split = append(r.fleet.split, at)
	return nil
}

func (r *fleetReader) env(at place) error {
	return r.object(at, func(in place) error {
		raw, err := r.dec.ReadValue()
		if err != nil {
			return err
		}
		v := variable{name: in.key}
		switch kind := raw.Kind(); kind {
		case '"':
			value, err := unquote(raw)
			if err != nil {
				return err
			}
			v.wrong = wrongWithValue(value)
		case '{':
			// One for which dstack's client has found no value.
			v.wrong = "write its value"
		default:
			r.problem(at, "has a value that is %s; write strings", kindName(kind))
		}
		r.fleet.env = append(r.fleet.env, v)
		return nil
	})
}

// wrongWithValue says what to do about the value of a variable, never quoting
// it. dstack writes values as they are between double quotes into a file of
// systemd's on the host, where some characters end the value or stand for
// something else.
func wrongWithValue(value string) string {
	if strings.ContainsAny(value, "\"\\`$") || strings.ContainsFunc(value, unicode.IsControl) {
		return "write its value without double quotes, backslashes, backticks, dollar signs and control characters"
	}
	return ""
}
