package policy

import (
	"bytes"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/dstack-isolation/operator/internal/dstack"
)

// noImage is what dstack's client names as the image when it asks for offers. No
// such image exists, so that no job starts from it.
const noImage = "scratch"

// offerValues are what dstack's client writes into the configuration when it
// asks for offers, and what it leaves there of its own defaults.
var offerValues = map[string][]string{
	"type":     {`"task"`},
	"image":    {`"` + noImage + `"`},
	"commands": {`[":"]`},
	"user":     {`"root"`},
	"home_dir": {`"/root"`, "null"},
	"nodes":    {"1", "null"},
}

// offerFilters are what offers are asked for by: options of dstack's client, in
// the configuration, and what a profile can have for them.
var offerFilters = map[string]bool{
	"backends": true, "regions": true, "availability_zones": true, "instance_types": true, "reservation": true,
	"spot_policy": true, "retry": true, "max_duration": true, "stop_duration": true, "max_price": true,
	"creation_policy": true, "idle_duration": true, "utilization_policy": true, "startup_order": true,
	"stop_criteria": true, "fleets": true, "backend_options": true,
}

// isOffer tells whether a run is the very one with which "dstack offer" and
// "dstack preset create" ask for offers. Whatever carries a value beyond that
// makes it an ordinary run. It reads the specification a second time, and only
// where the image says that it may be one.
func isOffer(r *run, spec []byte) bool {
	if r.kind != kindTask || len(r.images) != 1 || r.images[0].place != inConfig("image") || r.images[0].name != noImage {
		return false
	}
	o := offerReader{plain: true, missing: len([]string{"type", "image", "commands", "user"})}
	err := decode(spec, func(dec *jsontext.Decoder) error {
		return members(dec, func(name string) error {
			switch kind := dec.PeekKind(); {
			case name == inConfiguration && kind == '{':
				return members(dec, func(name string) error { return o.configurationMember(dec, name) })
			case name == inProfile && kind == '{':
				return members(dec, func(name string) error { return o.profileMember(dec, name) })
			}
			return o.nothing(dec)
		})
	})
	return err == nil && o.plain && o.missing == 0
}

// offerReader looks for what makes a run an ordinary one.
type offerReader struct {
	plain   bool
	missing int
}

func (o *offerReader) configurationMember(dec *jsontext.Decoder, name string) error {
	values, fixed := offerValues[name]
	if !fixed {
		if name == "resources" || offerFilters[name] {
			return dec.SkipValue()
		}
		return o.nothing(dec)
	}
	raw, err := dec.ReadValue()
	if err != nil {
		return err
	}
	value := compact(raw)
	for _, want := range values {
		if value != want {
			continue
		}
		if len(values) == 1 {
			o.missing--
		}
		return nil
	}
	o.plain = false
	return nil
}

func (o *offerReader) profileMember(dec *jsontext.Decoder, name string) error {
	if name == "name" || name == "default" || offerFilters[name] {
		return dec.SkipValue()
	}
	return o.nothing(dec)
}

// nothing reads a value that must not carry any.
func (o *offerReader) nothing(dec *jsontext.Decoder) error {
	raw, err := dec.ReadValue()
	if err == nil && carriesValue(raw) {
		o.plain = false
	}
	return err
}

// compact is a value without the space between its parts.
func compact(raw jsontext.Value) string {
	value := jsontext.Value(bytes.Clone(raw))
	if value.Compact() != nil {
		return ""
	}
	return string(value)
}

// backendsSince are the backends that the releases of dstack have, each with the
// release since which it is sure to be there, or "" where all have it. dstack
// refuses a specification with a name that it does not know.
var backendsSince = map[string]string{
	"amddevcloud": "", "aws": "", "azure": "", "cloudrift": "", "crusoe": "", "cudo": "", "datacrunch": "",
	"digitalocean": "", "dstack": "", "gcp": "", "hotaisle": "", "jarvislabs": "", "kubernetes": "", "lambda": "", "nebius": "",
	"oci": "", "remote": "", "runpod": "", "slurm": "", "tensordock": "", "vastai": "", "verda": "", "vultr": "",
	"seeweb": "0.21.5", "daytona": "0.22.5", "lium": "0.22.5",
}

// offerable are the backends of a list that can be filled into a request for
// offers: those that the asking release is sure to know.
func offerable(list []string, release string) []string {
	var names []string
	for _, name := range list {
		since, known := backendsSince[name]
		if known && (since == "" || release != "" && !dstack.Before(release, since)) {
			names = append(names, name)
		}
	}
	return names
}
