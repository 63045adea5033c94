package expression_test

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/dstack-isolation/operator/internal/expression"
)

// run is a specification as dstack sends it, with a secret in it.
const run = `{"run_name":null,"configuration":{"type":"task","nodes":2,"max_duration":7200,"max_price":1.5,"reservation":null,
"env":{"TOKEN":"` + secret + `","A":"1"},"commands":["python train.py","echo done"],"fleets":[],"privileged":false,
"resources":{"gpu":{"name":["A100","H100"],"count":{"min":1,"max":4},"memory":null},"shm_size":9007199254740993}}}`

const secret = "hunter2-secret"

func request(t testing.TB, spec string) *expression.Request {
	t.Helper()
	r, err := expression.NewRequest([]byte(spec), expression.Asker{User: "ada", Project: "research-nlp"})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestOffer(t *testing.T) {
	p := expression.Compile(`offer || object.configuration.type == 'service'`)
	for _, offer := range []bool{true, false} {
		r, err := expression.NewRequest([]byte(run), expression.Asker{Offer: offer})
		if err != nil {
			t.Fatal(err)
		}
		if holds, err := r.Holds(p); holds != offer || err != nil {
			t.Errorf("with offer %t: got %t, %v", offer, holds, err)
		}
	}
}

func TestHolds(t *testing.T) {
	tests := map[string]bool{
		`true`: true, `false`: false,
		`user == 'ada' && project == 'research-nlp'`: true,
		`user in ['bob', 'eve']`:                     false,
		`project.startsWith("research-")`:            true,

		// What is absent, what is null, and what has a value.
		`has(object.configuration.reservation)`:                                                     true,
		`has(object.configuration.reservation) && object.configuration.reservation != null`:         false,
		`has(object.configuration.priority)`:                                                        false,
		`has(object.configuration.max_duration) && object.configuration.max_duration <= 24 * 3600`:  true,
		`object.configuration.?resources.?gpu.?vendor.orValue('nvidia') == 'nvidia'`:                true,
		`object.configuration.resources.gpu.memory == null`:                                         true,
		`object.run_name == null`:                                                                   true,
		`'TOKEN' in object.configuration.env`:                                                       true,
		`has(object.configuration.schedule) ? object.configuration.schedule.cron != null : true`:    true,
		`has(object.configuration.groups) && object.configuration.groups.exists(g, g.nodes > 1)`:    false,
		`object.configuration.fleets.size() == 0 && object.configuration.fleets == []`:              true,
		`object.configuration.commands.exists(c, c.contains('train'))`:                              true,
		`object.configuration.resources.gpu.name.all(n, n in ['A100', 'H100'])`:                     true,
		`object.configuration.resources.gpu.count.max <= 4`:                                         true,
		`sets.intersects(object.configuration.resources.gpu.name, ['H100'])`:                        true,
		`object.configuration.commands.all(c, !c.matches('(^|\\s)docker(\\s|$)'))`:                  true,
		`object.configuration.env.exists(k, k == 'A')`:                                              true,
		`object.configuration.env.map(k, k) == ['A', 'TOKEN']`:                                      true,
		`object.configuration == object.configuration`:                                              true,
		`object.configuration.resources.gpu != object.configuration.resources`:                      true,
		`quantity('1Gi').isGreaterThan(quantity('1Mi')) && ip('10.0.0.1').family() == 4`:            true,
		`url('https://ghcr.io/a').getHost() == 'ghcr.io'`:                                           true,
		`semver('0.22.5').isGreaterThan(semver('0.21.0'))`:                                          true,
		`[1, 2].transformList(i, v, v + i) == [1, 3]`:                                               true,
		`timestamp('2026-01-01T10:00:00Z').getHours() == 10`:                                        true,
		`'a-b'.split('-').size() == 2 && 'A'.lowerAscii() == 'a' && 'task'.find('t.s') == 'tas'`:    true,
		"// comments\nuser != '' &&\n  project != ''":                                               true,
		`type(object.configuration.nodes) == int && type(object.configuration.max_price) == double`: true,

		// Numbers are what the API server makes of them.
		`object.configuration.nodes > 1`:                                  true,
		`object.configuration.nodes == 2.0`:                               true,
		`object.configuration.max_price < 2`:                              true,
		`object.configuration.resources.shm_size == 9007199254740993`:     true,
		`object.configuration.resources.shm_size % 2 == 1`:                true,
		`object.configuration.resources.shm_size + 1 == 9007199254740994`: true,
	}
	for text, want := range tests {
		p := expression.Compile(text)
		if p.Err() != nil {
			t.Errorf("%s: %v", text, p.Err())
			continue
		}
		if got, err := request(t, run).Holds(p); err != nil || got != want {
			t.Errorf("%s: got %t, %v, want %t", text, got, err, want)
		}
	}
}

func TestNumbers(t *testing.T) {
	for number, expr := range map[string]string{
		`9223372036854775807`:  `object == 9223372036854775807 && type(object) == int`,
		`-9223372036854775808`: `object < 0 && type(object) == int`,
		`9223372036854775808`:  `object == 9223372036854775808.0 && type(object) == double`,
		`1e3`:                  `object == 1000 && type(object) == double`,
		`1.0`:                  `object == 1 && type(object) == double`,
		`-0`:                   `object == 0 && type(object) == int`,
	} {
		if got, err := request(t, number).Holds(expression.Compile(expr)); err != nil || !got {
			t.Errorf("%s: %s: got %t, %v", number, expr, got, err)
		}
	}
}

func TestCompileErrors(t *testing.T) {
	tests := map[string]string{
		`objct.x == 1`:                "line 1, column 1: undeclared reference to 'objct'",
		"true &&\n  1":                "line 2, column 3: expected type 'bool' but found 'int'",
		`user == 1`:                   "line 1, column 6: found no matching overload for '_==_' applied to '(string, int)'",
		`object.configuration.docker`: "line 1, column 1: is of type dyn and not bool; compare it with a value, as in == true",
		`'yes'`:                       "line 1, column 1: is of type string and not bool; compare it with a value, as in == true",
		`a && b && c && d`: "line 1, column 1: undeclared reference to 'a'; line 1, column 6: undeclared reference to 'b'; " +
			"line 1, column 11: undeclared reference to 'c'; and 1 more",
		`user.replace('a', project) == ''`: "line 1, column 13: replace is not offered in rules, because what it makes can be of any size",
		`object.l.join(',') == ''`:         "line 1, column 14: join is not offered in rules, because what it makes can be of any size",
		`'%s'.format([object]) == ''`:      "line 1, column 12: format is not offered in rules, because what it makes can be of any size",
		`user.matches(project)`:            "line 1, column 13: matches needs its regular expression as a literal",
		`matches('a', user)`:               "line 1, column 8: matches needs its regular expression as a literal",
		`user.find(project) == ''`:         "line 1, column 10: find needs its regular expression as a literal",
		`user.matches('[a-z]{1,200}')`: "line 1, column 13: the regular expression is too large: it compiles to 401 instructions, " +
			"150 are allowed; compare lengths by size()",
		`timestamp('2026-01-01T10:00:00Z').getHours('Asia/Tokyo') == 19`: "line 1, column 43: getHours is not offered in rules for a time zone, " +
			"because the zones of two machines can differ: count in UTC",
		`[2, 1].sort() == [1, 2]`:         "line 1, column 12: undeclared reference to 'sort'",
		strings.Repeat("(", 300):          "expression recursion limit exceeded: 250",
		strings.Repeat("a", 4097):         "is longer than 4096 bytes",
		`user.matches('(')`:               "line 1, column 14: invalid matches argument",
		`authorizer.path('/').allowed()`:  "line 1, column 1: undeclared reference to 'authorizer'; line 1, column 29: found no matching overload for 'allowed' applied to 'kubernetes.authorization.PathCheck.()'",
		`duration('next week') == object`: "line 1, column 10: invalid duration argument",
	}
	for text, want := range tests {
		err := expression.Compile(text).Err()
		if err == nil || err.Error() != want {
			t.Errorf("%s:\n got %v\nwant %s", text, err, want)
		}
	}
	for _, text := range []string{``, `(`, `true)`, `true;`, "\x00", `"`, `object.`} {
		err := expression.Compile(text).Err()
		if err == nil || !strings.HasPrefix(err.Error(), "line 1, column ") || strings.ContainsAny(err.Error(), "\n\x00") || len(err.Error()) > 1000 {
			t.Errorf("%q: got %v", text, err)
		}
	}
}

func TestEvaluationErrors(t *testing.T) {
	const (
		noKey      = "the object has no key that it looks for: test it first with has()"
		overload   = "a value is of another type than an operator or function in it takes: test it first, as in != null"
		conversion = "a value cannot be converted to the type that is asked for"
		hidden     = "CEL reports an error that may quote the object, so it is not shown: try the expression on a specification"
		costs      = "it costs more than one evaluation may: look at less of the object, or write a rule for each part"
	)
	tests := map[string]string{
		`object.configuration.priority > 1`:                                             "the object has no key priority there: test it first with has()",
		`object.configuration['priority'] > 1`:                                          "the object has no key priority there: test it first with has()",
		`object.configuration.env[object.configuration.env.TOKEN] == ''`:                noKey,
		`object[object.configuration.env.TOKEN + 'x'] == ''`:                            noKey,
		`object.configuration.reservation.startsWith('a')`:                              overload,
		`object.configuration.commands[7] == ''`:                                        "an index is out of range: test size() first",
		`object.configuration.nodes / (object.configuration.nodes - 2) > 0`:             "a number is divided by zero or out of range",
		`object.configuration.nodes + 9223372036854775807 > 0`:                          "a number is divided by zero or out of range",
		`object.configuration.reservation.all(x, true)`:                                 overload,
		`int(object.configuration.env.TOKEN) > 0`:                                       conversion,
		`duration(object.configuration.env.TOKEN) > duration('1h')`:                     conversion,
		`timestamp(object.configuration.env.TOKEN) > timestamp('2026-01-01T00:00:00Z')`: conversion,
		`quantity(object.configuration.env.TOKEN).isGreaterThan(quantity('1'))`:         hidden,
		`url(object.configuration.env.TOKEN).getHost() == ''`:                           hidden,
		`[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, [1,2,3,4,5,6,7,8,9].all(d, [1,2,3,4,5,6,7,8,9].all(e, true)))))`: costs,
	}
	for text, want := range tests {
		holds, err := request(t, run).Holds(expression.Compile(text))
		if holds || err == nil || err.Error() != want {
			t.Errorf("%s:\n got %t, %v\nwant %s", text, holds, err, want)
		}
	}
}

// TestAllowsNothingThatDoesNotCompile: not even when its error is not looked
// at.
func TestAllowsNothingThatDoesNotCompile(t *testing.T) {
	if holds, err := request(t, run).Holds(expression.Compile(`1 +`)); holds || err == nil {
		t.Errorf("got %t, %v", holds, err)
	}
}

func TestSpecificationsThatRulesCannotBeAskedAbout(t *testing.T) {
	long := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("1,", n), ",") + "]" }
	many := func(n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat(long(1000)+",", n), ",") + "]"
	}
	keys := make([]string, 1025)
	for i := range keys {
		keys[i] = fmt.Sprintf(`"k%d":1`, i)
	}
	const (
		tooMany = "the specification has more than the 8192 values, or more than the 1024 entries in one list or object, that rules can be asked about"
		invalid = "the specification is not valid JSON"
	)
	tests := map[string]string{
		long(1024): "",
		long(1025): tooMany,
		many(8):    "",
		many(9):    tooMany,
		"{" + strings.Join(keys[:1024], ",") + "}":        "",
		"{" + strings.Join(keys, ",") + "}":               tooMany,
		strings.Repeat("[", 65) + strings.Repeat("]", 65): "",
		strings.Repeat("[", 66) + strings.Repeat("]", 66): "the specification is nested deeper than the 64 levels that rules can be asked about",
		`"` + strings.Repeat("a", 64<<10-2) + `"`:         "",
		`"` + strings.Repeat("a", 64<<10-1) + `"`:         "the specification is larger than the 65536 bytes that rules can be asked about",
		`{"a":1e999}`: "the specification has a number that is too large for rules",
		`{"` + secret + `":1,"` + secret + `":2}`: invalid,
		`{"a":1} {}`:             invalid,
		`{"a":`:                  invalid,
		``:                       invalid,
		`{"a":"` + "\xff" + `"}`: invalid,
		`{"a":tru}`:              invalid,
	}
	for spec, want := range tests {
		got := ""
		if _, err := expression.NewRequest([]byte(spec), expression.Asker{User: "u", Project: "p"}); err != nil {
			got = err.Error()
		}
		if got != want {
			t.Errorf("%.40s (%d bytes): got %q, want %q", spec, len(spec), got, want)
		}
	}
}

// TestDecisionLimit: one decision evaluates so much and no more, in the same
// order each time; an audit has its own.
func TestDecisionLimit(t *testing.T) {
	costly := expression.Compile(`[1,2,3,4,5,6,7,8,9].all(a, [1,2,3,4,5,6,7,8,9].all(b, [1,2,3,4,5,6,7,8,9].all(c, [1,2,3,4,5,6,7,8,9].all(d, true))))`)
	r := request(t, run)
	evaluated := 0
	for ; evaluated < 100; evaluated++ {
		if _, err := r.Holds(costly); err != nil {
			if want := "all rules together cost more than one decision may: write fewer or simpler ones"; err.Error() != want {
				t.Fatalf("got %v, want %s", err, want)
			}
			break
		}
	}
	if evaluated < 2 || evaluated > 20 {
		t.Errorf("%d costly expressions were evaluated", evaluated)
	}
	if holds, err := r.Holds(expression.Compile(`true`)); holds || err == nil {
		t.Errorf("a spent request allows: %v", err)
	}
	if holds, err := r.Refilled().Holds(costly); !holds || err != nil {
		t.Errorf("a refilled request cannot be asked: %v", err)
	}
}

// TestOrderOfKeysDoesNotMatter where an expression depends on the order in
// which it meets them.
func TestOrderOfKeysDoesNotMatter(t *testing.T) {
	p := expression.Compile(`object.map(k, object[k]) == [1, 2, 3, 4, 5, 6, 7, 8] && object.transformList(k, v, v)[0] == 1 && object.map(k, k)[7] == 'h'`)
	for range 50 {
		if holds, err := request(t, `{"h":8,"b":2,"e":5,"a":1,"d":4,"g":7,"f":6,"c":3}`).Holds(p); !holds || err != nil {
			t.Fatalf("got %t, %v", holds, err)
		}
	}
}

func TestCompilesOnceAsLongAsItIsHeld(t *testing.T) {
	const text = `user == 'compiled once'`
	p := expression.Compile(text)
	if expression.Compile(strings.Clone(text)) != p {
		t.Error("compiled twice")
	}
	broken := expression.Compile(`user == `)
	if expression.Compile(`user == `) != broken {
		t.Error("a broken one was compiled twice")
	}
	runtime.KeepAlive(broken)
	before := expression.Held()
	for i := range 200 {
		expression.Compile(fmt.Sprintf(`user == 'u%d'`, i))
	}
	deadline := time.Now().Add(10 * time.Second)
	for expression.Held() > before && time.Now().Before(deadline) {
		runtime.GC()
		time.Sleep(time.Millisecond)
	}
	if n := expression.Held(); n > before {
		t.Errorf("%d expressions are remembered, %d before", n, before)
	}
	if expression.Compile(text) != p {
		t.Error("one that is held was forgotten")
	}
}
