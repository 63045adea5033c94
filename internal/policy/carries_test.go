package policy

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

func TestCarriesValue(t *testing.T) {
	for raw, want := range map[string]bool{
		`null`: false, `false`: false, `0`: false, `0.0`: false, `-0`: false, `0e9`: false, `""`: false, `[]`: false, `{}`: false,
		`[null,{"a":0,"b":[{}]}]`: false, `{"a":"","b":{"c":false}}`: false,
		`true`: true, `1`: true, `1e-400`: true, `"x"`: true, `[0,1]`: true, `{"a":{"b":[""," "]}}`: true, `{"a":true}`: true, `"0"`: true,
		"{ \"a\" : [ ] ,\n\"t\\\"\"\t:\r\n{ } }": false, `{"a":"\\\\","b":0}`: true, `["\""]`: true, `[0e10,-0.00E-5,false]`: false, `[0.01]`: true,
		`[0,0,10]`: true, `{"true":null}`: false, `{"a":{"1":[""]}}`: false,
	} {
		if got := carriesValue(jsontext.Value(raw)); got != want {
			t.Errorf("%s: got %v, want %v", raw, got, want)
		}
	}
}

// FuzzCarriesValue compares with a reader that builds the whole value.
func FuzzCarriesValue(f *testing.F) {
	for _, raw := range []string{`[0,"",{"a":[null]}]`, `{"t":0e5}`, `"\""`, `[-0.0,{"":[]}]`, `{"a" : "x"}`, `1E-400`, `["\\"]`} {
		f.Add(raw)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		dec := json.NewDecoder(strings.NewReader(raw))
		dec.UseNumber()
		var value any
		if !json.Valid([]byte(raw)) || dec.Decode(&value) != nil {
			return
		}
		if got, want := carriesValue(jsontext.Value(raw)), carries(value); got != want {
			t.Errorf("%s: got %v, want %v", raw, got, want)
		}
	})
}

func carries(value any) bool {
	switch v := value.(type) {
	case bool:
		return v
	case string:
		return v != ""
	case json.Number:
		mantissa, _, _ := strings.Cut(strings.ToLower(v.String()), "e")
		return strings.ContainsAny(mantissa, "123456789")
	case []any:
		return slices.ContainsFunc(v, carries)
	case map[string]any:
		return slices.ContainsFunc(slices.Collect(maps.Values(v)), carries)
	}
	return false
}
