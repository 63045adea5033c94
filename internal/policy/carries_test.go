package policy

import (
	"testing"

	"github.com/go-json-experiment/json/jsontext"
)

func TestCarriesValue(t *testing.T) {
	for raw, want := range map[string]bool{
		`null`: false, `false`: false, `0`: false, `0.0`: false, `-0`: false, `0e9`: false, `""`: false, `[]`: false, `{}`: false,
		`[null,{"a":0,"b":[{}]}]`: false, `{"a":"","b":{"c":false}}`: false,
		`true`: true, `1`: true, `1e-400`: true, `"x"`: true, `[0,1]`: true, `{"a":{"b":[""," "]}}`: true, `{"a":true}`: true, `"0"`: true,
	} {
		if got := carriesValue(jsontext.Value(raw)); got != want {
			t.Errorf("%s: got %v, want %v", raw, got, want)
		}
	}
}
