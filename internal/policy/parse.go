package policy

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/dstack-isolation/operator/internal/dstack"
)

var processKeys = []string{
	"pluginVersion", "dstackVersion", "jobNetworkMode", "sshProxyEnforced", "plugins", "last",
}

// Parse reads the body of a request of dstack's plugin protocol,
//
//	{"user": string, "project": string, "spec": …, "process": {…} or absent}
//
// strictly: a key twice or in other case, another type, an empty user or
// project, bytes that are not UTF-8 or follow the value, are errors. Other keys
// are passed over, so that plugin and policy server may differ in version. What
// is inside spec is left to [Decide], which can tell the user. Errors never
// quote what a request holds.
func Parse(kind dstack.ApplyKind, body []byte) (*Request, error) {
	if !slices.Contains(dstack.ApplyKinds(), kind) {
		return nil, errors.New("kind of object is not known")
	}
	if tooDeep(body) {
		return nil, fmt.Errorf("body is nested deeper than %d levels", maxDepth)
	}
	p := bodyReader{body: body, req: &Request{Kind: kind}}
	// Whether spec names a key twice is found by Decide.
	err := decode(body, p.read, jsontext.AllowDuplicateNames(true))
	if err != nil {
		if shape, ok := errors.AsType[*shapeError](err); ok {
			return nil, shape
		}
		return nil, errors.New("body " + describe(err))
	}
	if err := p.complete(); err != nil {
		return nil, err
	}
	return p.req, nil
}

// shapeError says which field of a body has another shape than the protocol's.
type shapeError struct{ field, message string }

func (e *shapeError) Error() string { return e.field + " " + e.message }

type bodyReader struct {
	dec                          *jsontext.Decoder
	body                         []byte
	req                          *Request
	user, project, spec, process bool
}

func (p *bodyReader) read(dec *jsontext.Decoder) error {
	p.dec = dec
	if kind := dec.PeekKind(); kind != '{' && kind != jsontext.KindInvalid {
		return wrongType("body", kind, "an object")
	}
	return members(dec, p.member)
}

func (p *bodyReader) member(name string) error {
	switch name {
	case "user":
		return p.text(name, &p.user, &p.req.User)
	case "project":
		return p.text(name, &p.project, &p.req.Project)
	case "spec":
		if err := once(name, &p.spec); err != nil {
			return err
		}
		raw, err := p.dec.ReadValue()
		end := int(p.dec.InputOffset())
		if err == nil {
			p.req.Spec = p.body[end-len(raw) : end : end]
		}
		return err
	case "process":
		if err := once(name, &p.process); err != nil {
			return err
		}
		raw, err := p.dec.ReadValue()
		if err != nil {
			return err
		}
		p.req.Process, err = parseProcess(raw)
		return err
	}
	return skipMember(p.dec, name)
}

func (p *bodyReader) complete() error {
	for _, part := range []struct {
		name string
		seen bool
	}{{"user", p.user}, {"project", p.project}, {"spec", p.spec}} {
		if !part.seen {
			return &shapeError{part.name, "is missing"}
		}
	}
	return nil
}

func (p *bodyReader) text(name string, seen *bool, into *string) error {
	if err := once(name, seen); err != nil {
		return err
	}
	if err := readString(p.dec, name, into); err != nil {
		return err
	}
	if *into == "" {
		return &shapeError{name, "is empty"}
	}
	return nil
}

func once(name string, seen *bool) error {
	if *seen {
		return &shapeError{name, "is given twice"}
	}
	*seen = true
	return nil
}

// skipMember passes over a key that is not the protocol's, unless it only
// looks like one.
func skipMember(dec *jsontext.Decoder, name string) error {
	if known := variantOf(name); known != "" {
		return &shapeError{known, "is written in another case"}
	}
	_, err := dec.ReadValue()
	return err
}

// parseProcess reads what the Python plugin says of its process. Null is
// something that the plugin could not read.
func parseProcess(raw jsontext.Value) (*Process, error) {
	switch raw.Kind() {
	case 'n':
		return nil, nil
	case '{':
	default:
		return nil, wrongType("process", raw.Kind(), "an object")
	}
	p := &Process{}
	err := decode(raw, func(dec *jsontext.Decoder) error {
		return members(dec, func(name string) error { return p.member(dec, name) })
	})
	if errors.Is(err, jsontext.ErrDuplicateName) {
		return nil, &shapeError{"process", describe(err)}
	}
	return p, err
}

func (p *Process) member(dec *jsontext.Decoder, name string) error {
	field := "process." + name
	switch name {
	case "pluginVersion":
		return readString(dec, field, &p.PluginVersion)
	case "dstackVersion":
		if dec.PeekKind() == 'n' {
			return skipMember(dec, name)
		}
		return readString(dec, field, &p.DstackVersion)
	case "jobNetworkMode":
		return readInt(dec, field, &p.JobNetworkMode)
	case "sshProxyEnforced":
		return readBool(dec, field, &p.SSHProxyEnforced)
	case "plugins":
		return readStrings(dec, field, &p.Plugins)
	case "last":
		return readBool(dec, field, &p.Last)
	}
	return skipProcessMember(dec, name)
}

// skipProcessMember is skipMember for process, whose keys have capitals.
func skipProcessMember(dec *jsontext.Decoder, name string) error {
	for _, key := range processKeys {
		if strings.EqualFold(key, name) {
			return &shapeError{"process." + key, "is written in another case"}
		}
	}
	_, err := dec.ReadValue()
	return err
}

func wrongType(field string, got jsontext.Kind, want string) error {
	return &shapeError{field, fmt.Sprintf("is %s and not %s", kindName(got), want)}
}

func readString(dec *jsontext.Decoder, field string, into *string) error {
	if kind := dec.PeekKind(); kind != '"' && kind != jsontext.KindInvalid {
		return wrongType(field, kind, "a string")
	}
	raw, err := dec.ReadValue()
	if err != nil {
		return err
	}
	*into, err = unquote(raw)
	return err
}

func readBool(dec *jsontext.Decoder, field string, into **bool) error {
	switch kind := dec.PeekKind(); kind {
	case 't', 'f':
		*into = new(kind == 't')
	case 'n', jsontext.KindInvalid:
	default:
		return wrongType(field, kind, "a boolean or null")
	}
	_, err := dec.ReadValue()
	return err
}

func readInt(dec *jsontext.Decoder, field string, into **int) error {
	kind := dec.PeekKind()
	if kind != '0' && kind != 'n' && kind != jsontext.KindInvalid {
		return wrongType(field, kind, "an integer or null")
	}
	raw, err := dec.ReadValue()
	if err != nil || kind == 'n' {
		return err
	}
	n, err := strconv.Atoi(string(raw))
	if err != nil {
		return &shapeError{field, "is not an integer"}
	}
	*into = &n
	return nil
}

func readStrings(dec *jsontext.Decoder, field string, into *[]string) error {
	kind := dec.PeekKind()
	if kind != '[' {
		if kind != 'n' && kind != jsontext.KindInvalid {
			return wrongType(field, kind, "a list or null")
		}
		_, err := dec.ReadValue()
		return err
	}
	if _, err := dec.ReadToken(); err != nil {
		return err
	}
	*into = []string{}
	for dec.PeekKind() != ']' {
		var s string
		if err := readString(dec, field, &s); err != nil {
			return err
		}
		*into = append(*into, s)
	}
	_, err := dec.ReadToken()
	return err
}
