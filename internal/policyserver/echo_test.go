package policyserver

import (
	"bytes"
	"fmt"
	"net/http"
	"testing"
)

// FuzzEcho holds that a specification that is answered comes back byte for
// byte, whatever its spacing, order and forms of numbers, and that nothing else
// is ever answered with 200.
func FuzzEcho(f *testing.F) {
	for _, spec := range []string{
		`{}`, ` {"a":1}`, "\t{\r\n\"a\" : 1.50 ,\"b\":1e3,\"c\":-0.0}\n", `{"big":9223372036854775807,"tiny":1E-07}`,
		`{"s":"\u00e9\/\u2028é","":null}`, `{"configuration":{"type":"task","privileged":true}}`, `{"spec":{"spec":{}}}`,
		`{"a":1,"a":2}`, `[]`, `null`, `{"a":`, `{"a":NaN}`, `{"a":"` + "\xff" + `"}`, `{}}`, `{}, "spec": {}`,
	} {
		f.Add(spec)
	}
	s := newHandler(f, restricted(), Options{})
	f.Fuzz(func(t *testing.T, spec string) {
		w := s.post(runPath, bodyOf(spec))
		switch w.Code {
		case http.StatusOK:
			body := w.Body.Bytes()
			// What is fuzzed may end the specification and begin another key.
			sent := specOf(t, []byte(bodyOf(spec)))
			rest, found := bytes.CutPrefix(body, fmt.Appendf(nil, `{"spec":%s,"error":`, sent))
			if !found {
				t.Fatalf("sent %q\ngot  %q", spec, body)
			}
			if string(rest) != "null}" && (len(rest) < 4 || rest[0] != '"' || string(rest[len(rest)-2:]) != `"}`) {
				t.Fatalf("got the error %q", rest)
			}
		case http.StatusBadRequest:
		default:
			t.Fatalf("got status %d: %s", w.Code, w.Body)
		}
	})
}
