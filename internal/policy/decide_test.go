package policy_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/policy"
)

const plainKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ9mM0mO3nq9D1a5T8vI6U6wQ6n3nq9D1a5T8vI6U6wA"

// task is the specification of a task with more in its configuration.
func task(more string) string { return ofType("task", more) }

// ofType is task for any type. A service has a gateway unless more says otherwise.
func ofType(kind, more string) string {
	if kind == "service" && !strings.Contains(more, `"gateway"`) {
		more = strings.TrimSuffix(`"gateway":true,`+more, ",")
	}
	if more != "" {
		more = "," + more
	}
	return `{"configuration":{"type":"` + kind + `"` + more + `},"ssh_key_pub":null}`
}

func runRequest(spec string) *policy.Request {
	return &policy.Request{Kind: dstack.KindRun, User: "ada", Project: "research-nlp", Spec: []byte(spec)}
}

func decide(t testing.TB, spec string, profiles ...v1alpha1.IsolationProfile) policy.Decision {
	t.Helper()
	d := policy.Decide(effective(profiles...), policy.Running{NetworkMode: 3}, runRequest(spec), noon)
	checkConsistent(t, d)
	return d
}

// fields are the reasons as "control field", sorted.
func fields(reasons []policy.Reason) []string {
	all := []string{}
	for _, r := range reasons {
		all = append(all, r.Control+" "+r.Field)
	}
	slices.Sort(all)
	return all
}

func allowedPaths(paths ...v1alpha1.InstancePath) func(*v1alpha1.IsolationProfileSpec) {
	return func(s *v1alpha1.IsolationProfileSpec) {
		s.Controls = &v1alpha1.Controls{InstanceVolumes: &v1alpha1.InstanceVolumes{
			Mode: isolation.ModeAllowedPaths, Paths: paths,
		}}
	}
}

// TestDenied runs under Restricted, with network mode 3.
func TestDenied(t *testing.T) {
	tests := map[string]struct {
		spec string
		want []string
	}{
		"nothing special":            {task(""), []string{}},
		"null and false":             {task(`"privileged":false,"docker":null`), []string{}},
		"privileged":                 {task(`"privileged":true`), []string{"privileged configuration.privileged"}},
		"docker":                     {task(`"docker":true`), []string{"privileged configuration.docker"}},
		"docker beside false":        {task(`"privileged":false,"docker":true`), []string{"privileged configuration.docker"}},
		"both":                       {task(`"docker":true,"privileged":true`), []string{"privileged configuration.docker", "privileged configuration.privileged"}},
		"in a development machine":   {ofType("dev-environment", `"privileged":true`), []string{"privileged configuration.privileged"}},
		"in a group":                 {ofType("service", `"replicas":null,"groups":[{"replicas":{"min":1}},{"privileged":true}]`), []string{"privileged configuration.groups[1].privileged"}},
		"in a group, older shape":    {ofType("service", `"replicas":[{"count":{"min":0,"max":0},"docker":true}]`), []string{"privileged configuration.replicas[0].docker"}},
		"in both shapes":             {ofType("service", `"replicas":[{"privileged":true}],"groups":[{"docker":true}]`), []string{"privileged configuration.groups[0].docker", "privileged configuration.replicas[0].privileged"}},
		"in the groups of a task":    {task(`"groups":[{"nodes":1,"privileged":true}]`), []string{"privileged configuration.groups[0].privileged", "unknownFields configuration.groups[0].privileged"}},
		"in the replicas of a task":  {task(`"replicas":[{"privileged":true}]`), []string{"privileged configuration.replicas[0].privileged", "unknownFields configuration.replicas"}},
		"with escapes in the name":   {task(`"\u0070rivileged":true`), []string{"privileged configuration.privileged"}},
		"where no release has it":    {ofType("service", `"groups":[{"router":{"x":[{"docker":true}]}}]`), []string{`privileged configuration.groups[0].router."x".docker`, `unknownFields configuration.groups[0].router."x"`}},
		"hidden with escapes":        {task(`"setup":[[{"\u0064ocker":true}]]`), []string{"privileged configuration.setup.docker", "unknownFields configuration.setup"}},
		"hidden in the range":        {ofType("service", `"replicas":{"min":1,"privileged":true}`), []string{"privileged configuration.replicas.privileged", "unknownFields configuration.replicas.privileged"}},
		"hidden in an unknown field": {task(`"new_field":{"privileged":true}`), []string{`privileged configuration."new_field".privileged`, `unknownFields configuration."new_field"`}},
		"hidden but false":           {task(`"setup":[{"docker":false,"privileged":null}]`), []string{}},
		"names of variables":         {task(`"env":{"privileged":"true","Docker":"1","PRIVILEGED":"1","docker":"1","instance_path":"/"},"tags":{"Privileged":"true"}`), []string{}},
		"names in commands":          {task(`"commands":["docker --privileged","\"privileged\""],"image":"docker"`), []string{}},

		"volume":            {task(`"volumes":[{"instance_path":"/etc","path":"/x","optional":false}]`), []string{"instanceVolumes configuration.volumes[0].instance_path"}},
		"optional volume":   {task(`"volumes":[{"instance_path":"/etc","path":"/x","optional":true}]`), []string{"instanceVolumes configuration.volumes[0].instance_path"}},
		"second volume":     {task(`"volumes":[{"name":"data","path":"/d"},{"instance_path":"","path":"/x"}]`), []string{"instanceVolumes configuration.volumes[1].instance_path"}},
		"named volumes":     {task(`"volumes":[{"name":"data","path":"/etc"},{"name":["a","b"],"path":"/"}]`), []string{}},
		"volume of a group": {ofType("service", `"groups":[{"volumes":[{"instance_path":"/etc","path":"/x"}]}]`), []string{"instanceVolumes configuration.groups[0].volumes[0].instance_path", "unknownFields configuration.groups[0].volumes"}},

		"hidden in the profile":       {`{"configuration":{"type":"task"},"profile":{"x":{"docker":1}}}`, []string{`privileged profile."x".docker`, `unknownFields profile."x"`}},
		"hidden in the specification": {`{"configuration":{"type":"task"},"privileged":true}`, []string{"privileged privileged", "unknownFields privileged"}},
		"hidden in the resources":     {task(`"resources":{"gpu":{"docker":true}}`), []string{"privileged configuration.resources.gpu.docker", "unknownFields configuration.resources.gpu.docker"}},

		"one node":                   {task(`"nodes":1`), []string{}},
		"no nodes":                   {task(`"nodes":null,"groups":null`), []string{}},
		"two nodes":                  {task(`"nodes":2`), []string{"distributedTasks configuration.nodes"}},
		"one group of one":           {task(`"groups":[{"nodes":1}]`), []string{}},
		"two groups of one":          {task(`"groups":[{"nodes":1},{"nodes":1}]`), []string{"distributedTasks configuration.groups"}},
		"one group of two":           {task(`"nodes":1,"groups":[{"nodes":2}]`), []string{"distributedTasks configuration.groups"}},
		"nodes beside an empty list": {task(`"nodes":2,"groups":[]`), []string{"distributedTasks configuration.nodes"}},
		"groups of a service":        {ofType("service", `"groups":[{"replicas":{"min":3,"max":3}},{"replicas":{"min":2,"max":2}}]`), []string{}},

		"everything": {
			`{"configuration":{"type":"task","nodes":4,"privileged":true,"docker":true,"volumes":[{"instance_path":"/","path":"/h"}]},"ssh_key_pub":"command=\"x\" ` + plainKey + `"}`,
			[]string{
				"distributedTasks configuration.nodes", "hostSSH ssh_key_pub", "instanceVolumes configuration.volumes[0].instance_path",
				"privileged configuration.docker", "privileged configuration.privileged",
			},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := decide(t, tc.spec, profile("research", v1alpha1.LevelRestricted))
			if diff := cmp.Diff(tc.want, fields(d.Reasons)); diff != "" {
				t.Errorf("reasons (-want +got):\n%s%s", diff, d.Message)
			}
			if open := decide(t, tc.spec); !open.Allowed {
				t.Errorf("refused without a profile that denies: %s", open.Message)
			}
		})
	}
}

// TestNotUnderstood: no level lets a specification pass that is not understood.
func TestNotUnderstood(t *testing.T) {
	deep := strings.Repeat(`[`, 70) + strings.Repeat(`]`, 70)
	tests := map[string]struct {
		spec, field, message string
	}{
		"not an object":     {`[]`, "spec", "it is a list and not an object"},
		"null":              {`null`, "spec", "it is null and not an object"},
		"empty":             {``, "spec", "it is nothing and not an object"},
		"cut off":           {`{"configuration":`, "spec", "it is not valid JSON in UTF-8 at byte 17"},
		"more after it":     {task("") + `{}`, "spec", "it is followed by something else"},
		"not UTF-8":         {task(`"name":"` + "\xff" + `"`), "spec", "it is not valid JSON in UTF-8 at byte 40"},
		"half a character":  {task(`"name":"\ud800"`), "spec", "it is not valid JSON in UTF-8 at byte 40"},
		"too deep":          {task(`"setup":` + deep), "spec", "it is nested deeper than 64 levels"},
		"key twice":         {task(`"privileged":false,"privileged":false`), "spec", "it has the key privileged twice in one object"},
		"key twice, hidden": {task(`"privileged":false,"privilege\u0064":true`), "spec", "it has the key privileged twice in one object"},
		"key twice below":   {task(`"env":{"MY_SECRET":"1","MY_SECRET":"2"}`), "spec", "it has a key twice in one object"},
		"key twice on top":  {`{"configuration":{"type":"task"},"configuration":{}}`, "spec", "it has the key configuration twice in one object"},

		"too many keys": {task(manyKeys(1025)), "spec", "it has more than 1024 keys in one object"},

		"no configuration":      {`{}`, "configuration", "configuration is missing"},
		"configuration null":    {`{"configuration":null}`, "configuration", "configuration is null; write an object"},
		"configuration a list":  {`{"configuration":[]}`, "configuration", "configuration is a list; write an object"},
		"no type":               {`{"configuration":{}}`, "configuration.type", "configuration.type is missing; it is task, service or dev-environment"},
		"type null":             {`{"configuration":{"type":null}}`, "configuration.type", "configuration.type is null; write task, service or dev-environment"},
		"type a number":         {`{"configuration":{"type":1}}`, "configuration.type", "configuration.type is a number; write task, service or dev-environment"},
		"type unknown":          {ofType("Task", ""), "configuration.type", `configuration.type is "Task", which is not known to this release; write task, service or dev-environment`},
		"case in spec":          {`{"Configuration":{"privileged":true},"configuration":{"type":"task"}}`, "configuration", "configuration is written in another case"},
		"case in configuration": {task(`"Privileged":true`), "configuration.privileged", "configuration.privileged is written in another case"},
		"long s":                {task(`"re\u017fources":{}`), "configuration.resources", "configuration.resources is written in another case"},
		"Kelvin sign":           {task(`"doc\u212aer":true`), "configuration.docker", "configuration.docker is written in another case"},
		"case in a group":       {ofType("service", `"groups":[{"DOCKER":true}]`), "configuration.groups[0].docker", "configuration.groups[0].docker is written in another case"},
		"case in a volume":      {task(`"volumes":[{"name":"a","path":"/a","Instance_path":"/"}]`), "configuration.volumes[0].instance_path", "configuration.volumes[0].instance_path is written in another case"},
		"key a number":          {`{"configuration":{"type":"task"},"ssh_key_pub":1}`, "ssh_key_pub", "ssh_key_pub is a number; write one public key or null"},

		"privileged 1":       {task(`"privileged":1`), "configuration.privileged", "configuration.privileged is a number; write true or false"},
		"privileged 0":       {task(`"privileged":0`), "configuration.privileged", "configuration.privileged is a number; write true or false"},
		"privileged text":    {task(`"privileged":"true"`), "configuration.privileged", "configuration.privileged is a string; write true or false"},
		"docker an object":   {task(`"docker":{}`), "configuration.docker", "configuration.docker is an object; write true or false"},
		"docker in a group":  {ofType("service", `"groups":[{"docker":[]}]`), "configuration.groups[0].docker", "configuration.groups[0].docker is a list; write true or false"},
		"groups an object":   {ofType("service", `"groups":{"0":{"privileged":true}}`), "configuration.groups", "configuration.groups is an object; write a list"},
		"group a string":     {ofType("service", `"groups":["privileged"]`), "configuration.groups[0]", "configuration.groups[0] is a string; write an object"},
		"group null":         {ofType("service", `"groups":[null]`), "configuration.groups[0]", "configuration.groups[0] is null; write an object"},
		"replicas a number":  {ofType("service", `"replicas":2`), "configuration.replicas", "configuration.replicas is a number; write a list"},
		"replicas of a list": {ofType("service", `"replicas":[[]]`), "configuration.replicas[0]", "configuration.replicas[0] is a list; write an object"},
		"env a list":         {task(`"env":["privileged=1"]`), "configuration.env", "configuration.env is a list; write an object"},

		"volumes an object":      {task(`"volumes":{"instance_path":"/"}`), "configuration.volumes", "configuration.volumes is an object; write a list"},
		"volume in one string":   {task(`"volumes":["/etc:/x"]`), "configuration.volumes[0]", "configuration.volumes[0] is a string; write an object with path, and name or instance_path"},
		"volume of both kinds":   {task(`"volumes":[{"name":"a","instance_path":"/","path":"/a"}]`), "configuration.volumes[0]", "configuration.volumes[0] is neither a named volume nor an instance volume; write either name or instance_path"},
		"volume of no kind":      {task(`"volumes":[{"path":"/a"}]`), "configuration.volumes[0]", "configuration.volumes[0] is neither a named volume nor an instance volume; write either name or instance_path"},
		"instance path null":     {task(`"volumes":[{"instance_path":null,"path":"/a"}]`), "configuration.volumes[0].instance_path", "configuration.volumes[0].instance_path is null; write an absolute path"},
		"instance path a list":   {task(`"volumes":[{"instance_path":["/"],"path":"/a"}]`), "configuration.volumes[0].instance_path", "configuration.volumes[0].instance_path is a list; write an absolute path"},
		"volume's name a number": {task(`"volumes":[{"name":1,"path":"/a"}]`), "configuration.volumes[0].name", "configuration.volumes[0].name is a number; write a name or a list of names"},
		"volume's path null":     {task(`"volumes":[{"name":"a","path":null}]`), "configuration.volumes[0].path", "configuration.volumes[0].path is null; write the path in the container"},
		"instance path hidden":   {task(`"setup":[{"instance_path":"/"}]`), "configuration.setup.instance_path", "configuration.setup.instance_path is in a place that is not known to this release; remove it"},
		"in the volume's name":   {task(`"volumes":[{"name":[{"instance_path":"/"}],"path":"/a"}]`), "configuration.volumes[0].name.instance_path", "configuration.volumes[0].name.instance_path is in a place that is not known to this release; remove it"},
		"too many volumes":       {task(`"volumes":[` + strings.Repeat(`{"name":"a","path":"/a"},`, 256) + `{"name":"a","path":"/a"}]`), "configuration.volumes", "configuration.volumes has more than 256 entries"},

		"nodes huge":         {task(`"nodes":99999999999999999999`), "configuration.nodes", "configuration.nodes is not a whole number from 1 to 1000000"},
		"nodes a fraction":   {task(`"nodes":1.0`), "configuration.nodes", "configuration.nodes is not a whole number from 1 to 1000000"},
		"nodes an exponent":  {task(`"nodes":1e0`), "configuration.nodes", "configuration.nodes is not a whole number from 1 to 1000000"},
		"nodes negative":     {task(`"nodes":-1`), "configuration.nodes", "configuration.nodes is not a whole number from 1 to 1000000"},
		"nodes zero":         {task(`"nodes":0`), "configuration.nodes", "configuration.nodes is not a whole number from 1 to 1000000"},
		"nodes a string":     {task(`"nodes":"1"`), "configuration.nodes", "configuration.nodes is a string; write a whole number"},
		"nodes true":         {task(`"nodes":true`), "configuration.nodes", "configuration.nodes is a boolean; write a whole number"},
		"group's nodes huge": {task(`"groups":[{"nodes":9223372036854775807},{"nodes":1}]`), "configuration.groups[0].nodes", "configuration.groups[0].nodes is not a whole number from 1 to 1000000"},
		"no nodes in group":  {task(`"groups":[{"nodes":1},{"name":"b"}]`), "configuration.groups[1].nodes", "configuration.groups[1].nodes is missing; write how many nodes the group has"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := decide(t, tc.spec)
			if len(d.Reasons) != 1 || d.Reasons[0].Control != policy.ControlSpec {
				t.Fatalf("got %+v, want one reason of the control %s", d.Reasons, policy.ControlSpec)
			}
			want := `this run is not understood and so not allowed in project "research-nlp": ` + tc.message
			if got := d.Reasons[0]; got.Field != tc.field || got.Message != want {
				t.Errorf("got  %s: %s\nwant %s: %s", got.Field, got.Message, tc.field, want)
			}
			if strict := decide(t, tc.spec, profile("research", v1alpha1.LevelRestricted)); strict.Allowed {
				t.Error("allowed under Restricted")
			}
		})
	}
}

// TestNotBooleanCountsAsSet: dstack takes 1 and "true" for true.
func TestNotBooleanCountsAsSet(t *testing.T) {
	for _, value := range []string{`1`, `"true"`, `{}`, `[]`, `0`, `""`} {
		d := decide(t, task(`"privileged":`+value), profile("research", v1alpha1.LevelBaseline))
		want := []string{"privileged configuration.privileged", "spec configuration.privileged"}
		if diff := cmp.Diff(want, fields(d.Reasons)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", value, diff)
		}
	}
}

func TestAllowedPaths(t *testing.T) {
	const not = `instance volume %s is not allowed in project "research-nlp": `
	const below = `mount only what is in "/data", "/models/base"`
	const plain = `write it without control characters and without spaces at its ends, and ` + below
	tests := map[string]string{ // "" for an allowed one
		`/data`:              "",
		`/data/x`:            "",
		`/data/..x/...`:      "",
		`/models/base/1`:     "",
		`/`:                  below,
		``:                   below,
		`data`:               below,
		`../data`:            below,
		`/database`:          below,
		`/models`:            below,
		`/models/base2`:      below,
		`/etc`:               below,
		`//etc`:              below,
		`/data/../etc`:       below,
		`/data/x/../../etc`:  below,
		`/Data`:              below,
		`~/data`:             below,
		`//data`:             `write it as "/data"`,
		`/data/`:             `write it as "/data"`,
		`/data//x`:           `write it as "/data/x"`,
		`/data/./x`:          `write it as "/data/x"`,
		`/etc/../data/x`:     `write it as "/data/x"`,
		`/data/x/..`:         `write it as "/data"`,
		`/data `:             plain,
		` /data`:             plain,
		`/data\u0000`:        plain,
		`/data/\nx`:          plain,
		`/data/\tx`:          plain,
		`/data/\u007f`:       plain,
		`/data/\u0085`:       plain,
		`/data/x\u00a0`:      plain,
		`/data/x\u2028`:      plain,
		`/data/\u202e/x`:     "",
		`/models/\u202e/x\"`: below,
	}
	for path, remedy := range tests {
		t.Run(path, func(t *testing.T) {
			spec := task(`"volumes":[{"instance_path":"` + path + `","path":"/x","optional":true}]`)
			d := decide(t, spec, profile("research", v1alpha1.LevelRestricted, allowedPaths("/data", "/models/base")))
			if remedy == "" {
				if !d.Allowed {
					t.Errorf("refused: %s", d.Message)
				}
				return
			}
			if len(d.Reasons) != 1 {
				t.Fatalf("got %d reasons", len(d.Reasons))
			}
			shown := path // JSON and Go escape these alike
			for from, to := range map[string]string{`\u0000`: `\x00`, `\u007f`: `\x7f`} {
				shown = strings.ReplaceAll(shown, from, to)
			}
			if want := fmt.Sprintf(not, `"`+shown+`"`) + remedy; d.Reasons[0].Message != want {
				t.Errorf("got  %s\nwant %s", d.Reasons[0].Message, want)
			}
		})
	}
}

func TestPublicKey(t *testing.T) {
	const (
		another = ", or use another key by --ssh-identity"
		lines   = "has more than one line: keep one line, with one key, in its .pub file" + another
		kind    = "does not begin with a known type of key such as ssh-ed25519: remove options and whatever else is before the type in its .pub file" + another
		unread  = "cannot be read as a public key: make a key with ssh-keygen -t ed25519 and use it by --ssh-identity"
		form    = "is not written in the usual form: write its .pub file as TYPE KEY COMMENT, with one space between them" + another
		comment = "has a comment with a single quote, a backslash, a backtick, a dollar sign or an invisible character: remove the comment from its .pub file"
	)
	tests := map[string]struct{ key, wrong string }{
		"plain":                {plainKey, ""},
		"comment":              {plainKey + " Ada L. <3", ""},
		"signs in a comment":   {plainKey + ` Ada "x" (#1); a|b & c > d * ? [e] {f} ! ~ ^ %s`, ""},
		"plain comment":        {plainKey + " Ada L. user+1@laptop-2.example/x:y=z,w", ""},
		"newline at the end":   {plainKey + " dstack\n", ""},
		"two newlines":         {plainKey + "\n\n", lines},
		"line end of Windows":  {plainKey + "\r\n", ""},
		"that after a comment": {plainKey + " a\r\n", ""},
		"two of Windows":       {plainKey + "\r\n\r\n", lines},
		"carriage return":      {plainKey + "\r" + plainKey, lines},
		"newline, return":      {plainKey + "\n\r", lines},
		"two returns":          {plainKey + "\r\r\n", lines},
		"two lines":            {plainKey + "\n" + plainKey, lines},
		"comment line first":   {"# x\n" + plainKey, lines},
		"empty":                {"", kind},
		"dummy":                {"(dummy)", kind},
		"options":              {`command="sh" ` + plainKey, kind},
		"option":               {"cert-authority " + plainKey, kind},
		"space first":          {" " + plainKey, kind},
		"certificate":          {"ssh-ed25519-cert-v01@openssh.com AAAA", kind},
		"old type":             {"ssh-dss AAAAB3NzaC1kc3M", kind},
		"not base64":           {"ssh-ed25519 '; touch x; '", unread},
		"no key":               {"ssh-ed25519", unread},
		"short key":            {"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ9m", unread},
		"other type":           {"ssh-rsa " + strings.Fields(plainKey)[1], unread},
		"two spaces":           {strings.Replace(plainKey, " ", "  ", 1), form},
		"tab":                  {plainKey + "\tx", form},
		"quote":                {plainKey + " x'; sh; '", comment},
		"backtick":             {plainKey + " `sh`", comment},
		"dollar":               {plainKey + " $(sh)", comment},
		"double quote":         {plainKey + ` "`, ""},
		"backslash":            {plainKey + ` a\b`, comment},
		"NUL":                  {plainKey + " a\x00b", comment},
		"NUL in the key":       {plainKey + "\x00", unread},
		"other letters":        {plainKey + " José 山田", ""},
		"account of Windows":   {plainKey + ` corp\jdoe@DESKTOP-1`, comment},
		"apostrophe":           {plainKey + " Ada's", comment},
		"C1 line end":          {plainKey + " a\u0085b", comment},
		"line separator":       {plainKey + " a\u2028b", comment},
		"right to left":        {plainKey + " a\u202eb", comment},
		"odd space":            {plainKey + " a\u00a0b", comment},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			spec := strings.Replace(task(""), "null", quoteJSON(t, tc.key), 1)
			d := decide(t, spec, profile("research", v1alpha1.LevelBaseline))
			var want []string
			if tc.wrong != "" {
				want = []string{`the public SSH key of this run is not allowed in project "research-nlp", because it ` + tc.wrong}
			}
			var got []string
			for _, r := range d.Reasons {
				got = append(got, r.Message)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if open := decide(t, spec); !open.Allowed {
				t.Errorf("refused where hostSSH is allowed: %s", open.Message)
			}
		})
	}
}
