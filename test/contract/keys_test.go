package contract_test

import (
	"encoding/json"
	"maps"
	"slices"

	"github.com/dstack-isolation/operator/internal/dstack"
)

// keySet are the places of keys in specifications, such as
// "configuration.groups[].name", and whether one was seen to carry a value.
type keySet map[string]bool

// freeForm are objects whose keys users choose.
var freeForm = []string{"configuration.env", "configuration.tags", "profile.tags"}

// add adds the keys of a specification.
func (k keySet) add(spec []byte) error {
	var value any
	if err := json.Unmarshal(spec, &value); err != nil {
		return err
	}
	k.walk("", value)
	return nil
}

func (k keySet) walk(at string, value any) {
	switch value := value.(type) {
	case map[string]any:
		if slices.Contains(freeForm, at) {
			return
		}
		if at != "" {
			at += "."
		}
		for key, member := range value {
			k[at+key] = k[at+key] || carries(member)
			k.walk(at+key, member)
		}
	case []any:
		for _, item := range value {
			k.walk(at+"[]", item)
		}
	}
}

// carries tells whether there is more than null, false, 0, "", an empty list or
// object, or a tree of those: these are what dstack sends of a field that a user
// left out.
func carries(value any) bool {
	switch value := value.(type) {
	case map[string]any:
		return slices.ContainsFunc(slices.Collect(maps.Values(value)), carries)
	case []any:
		return slices.ContainsFunc(value, carries)
	case string:
		return value != ""
	case float64:
		return value != 0
	case bool:
		return value
	}
	return value != nil
}

// without are those that others lack, sorted.
func (k keySet) without(others keySet) []string {
	var places []string
	for place := range k {
		if _, there := others[place]; !there {
			places = append(places, place)
		}
	}
	slices.Sort(places)
	return places
}

// uncaptured are keys that captured cases lack, because dstack's built-in plugin
// leaves them out or the release that was captured does not have them.
var uncaptured = map[dstack.ApplyKind][]string{
	dstack.KindRun:     {"configuration.router"}, // of a service, in 0.20 beside the routers of its groups
	dstack.KindFleet:   {"autocreated"},
	dstack.KindGateway: {"configuration.load_balancer", "configuration.router"},
}

// knownKeys are all that releases were seen to send.
func knownKeys() map[dstack.ApplyKind]keySet {
	known := map[dstack.ApplyKind]keySet{}
	for _, kind := range dstack.ApplyKinds() {
		known[kind] = keySet{}
		for _, place := range uncaptured[kind] {
			known[kind][place] = false
		}
		for _, release := range releases {
			for _, c := range captures(release, kind) {
				if err := known[kind].add(c.Request.Spec); err != nil {
					panic(err) // it was decoded before
				}
			}
		}
	}
	return known
}
