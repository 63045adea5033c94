package policy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/policy"
)

func TestParse(t *testing.T) {
	const plain = `{"user":"ada","project":"research-nlp","spec":{"x":1}`
	request := func(p *policy.Process) *policy.Request {
		return &policy.Request{
			Kind: dstack.KindFleet, User: "ada", Project: "research-nlp", Spec: []byte(`{"x":1}`), Process: p,
		}
	}
	tests := map[string]struct {
		body string
		want *policy.Request
	}{
		"plain":        {plain + `}`, request(nil)},
		"other order":  {"\n" + `{ "spec" : {"x":1} , "project":"research-nlp", "user":"\u0061da" } ` + "\n", request(nil)},
		"unknown keys": {plain + `,"later":{"user":1},"Later":[]}`, request(nil)},
		"process null": {plain + `,"process":null}`, request(nil)},
		"process":      {plain + `,"process":{}}`, request(&policy.Process{})},
		"process unknown": {
			plain + `,"process":{"pluginVersion":"1","dstackVersion":null,"jobNetworkMode":null,"sshProxyEnforced":null,"plugins":null,"last":null,"later":{"last":1}}}`,
			request(&policy.Process{PluginVersion: "1"}),
		},
		"process known": {
			plain + `,"process":{"pluginVersion":"1","dstackVersion":"0.22.5","jobNetworkMode":3,"sshProxyEnforced":false,"plugins":["dstack_isolation"],"last":true}}`,
			request(&policy.Process{
				PluginVersion: "1", DstackVersion: "0.22.5", JobNetworkMode: new(3), SSHProxyEnforced: new(false),
				Plugins: []string{"dstack_isolation"}, Last: new(true),
			}),
		},
		"no plugins": {plain + `,"process":{"plugins":[]}}`, request(&policy.Process{Plugins: []string{}})},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := policy.Parse(dstack.KindFleet, []byte(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	const spec = `,"spec":{}`
	tests := map[string]struct{ body, want string }{
		"empty":               {``, "body is not valid JSON: it ends too early"},
		"cut off":             {`{"user":"ada"`, "body is not valid JSON in UTF-8 at byte 13"},
		"a list":              {`[]`, "body is a list and not an object"},
		"null":                {`null`, "body is null and not an object"},
		"more after it":       {`{"user":"a","project":"p"` + spec + `} {}`, "body is followed by something else"},
		"rubbish after it":    {`{"user":"a","project":"p"` + spec + `}x`, "body is not valid JSON in UTF-8 at byte 36"},
		"not UTF-8":           {`{"user":"a` + "\xff" + `","project":"p"` + spec + `}`, "body is not valid JSON in UTF-8 at byte 10"},
		"not UTF-8 in spec":   {`{"user":"a","project":"p","spec":{"x":"` + "\xff" + `"}}`, "body is not valid JSON in UTF-8 at byte 39"},
		"byte order mark":     {"\xef\xbb\xbf" + `{"user":"a","project":"p"` + spec + `}`, "body is not valid JSON in UTF-8 at byte 0"},
		"too deep":            {`{"spec":` + strings.Repeat(`{"a":`, 64) + `1` + strings.Repeat(`}`, 64) + `}`, "body is nested deeper than 64 levels"},
		"no user":             {`{"project":"p"` + spec + `}`, "user is missing"},
		"no project":          {`{"user":"a"` + spec + `}`, "project is missing"},
		"no spec":             {`{"user":"a","project":"p"}`, "spec is missing"},
		"user null":           {`{"user":null,"project":"p"` + spec + `}`, "user is null and not a string"},
		"user an object":      {`{"user":{"name":"a"},"project":"p"` + spec + `}`, "user is an object and not a string"},
		"project a number":    {`{"user":"a","project":1` + spec + `}`, "project is a number and not a string"},
		"user empty":          {`{"user":"","project":"p"` + spec + `}`, "user is empty"},
		"project empty":       {`{"user":"a","project":""` + spec + `}`, "project is empty"},
		"user twice":          {`{"user":"a","project":"p","user":"a"` + spec + `}`, "user is given twice"},
		"project twice":       {`{"user":"a","project":"p","projec\u0074":"q"` + spec + `}`, "project is given twice"},
		"spec twice":          {`{"user":"a","project":"p","spec":{}` + spec + `}`, "spec is given twice"},
		"process twice":       {`{"user":"a","project":"p","process":{},"process":null` + spec + `}`, "process is given twice"},
		"case of user":        {`{"user":"a","User":"b","project":"p"` + spec + `}`, "user is written in another case"},
		"case of project":     {`{"user":"a","PROJECT":"p"` + spec + `}`, "project is written in another case"},
		"case of spec":        {`{"user":"a","project":"p","\u017fpec":{}` + spec + `}`, "spec is written in another case"},
		"process a list":      {`{"user":"a","project":"p","process":[]` + spec + `}`, "process is a list and not an object"},
		"process, key twice":  {`{"user":"a","project":"p","process":{"last":true,"last":false}` + spec + `}`, "process has a key twice in one object"},
		"case in process":     {`{"user":"a","project":"p","process":{"Last":true}` + spec + `}`, "process.last is written in another case"},
		"mode a string":       {`{"user":"a","project":"p","process":{"jobNetworkMode":"3"}` + spec + `}`, "process.jobNetworkMode is a string and not an integer or null"},
		"mode a fraction":     {`{"user":"a","project":"p","process":{"jobNetworkMode":3.0}` + spec + `}`, "process.jobNetworkMode is not an integer"},
		"mode huge":           {`{"user":"a","project":"p","process":{"jobNetworkMode":99999999999999999999}` + spec + `}`, "process.jobNetworkMode is not an integer"},
		"last a number":       {`{"user":"a","project":"p","process":{"last":1}` + spec + `}`, "process.last is a number and not a boolean or null"},
		"plugins an object":   {`{"user":"a","project":"p","process":{"plugins":{}}` + spec + `}`, "process.plugins is an object and not a list or null"},
		"plugins of numbers":  {`{"user":"a","project":"p","process":{"plugins":[1]}` + spec + `}`, "process.plugins is a number and not a string"},
		"version null":        {`{"user":"a","project":"p","process":{"pluginVersion":null}` + spec + `}`, "process.pluginVersion is null and not a string"},
		"a secret in the way": {`{"user":"a","project":"p"` + spec + `,"password":s3cret}`, "body is not valid JSON in UTF-8 at byte 47"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			req, err := policy.Parse(dstack.KindRun, []byte(tc.body))
			if err == nil || err.Error() != tc.want || req != nil {
				t.Errorf("got %+v and %v, want the error %q", req, err, tc.want)
			}
		})
	}
	if _, err := policy.Parse("pod", []byte(`{"user":"a","project":"p","spec":{}}`)); err == nil {
		t.Error("a kind that dstack does not ask about is read")
	}
}
