package expression_test

import (
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/dstack-isolation/operator/internal/expression"
)

// FuzzHolds looks for an expression and a specification that end in a panic, in
// two answers, in minutes, or in an error that repeats what stands in the
// specification alone.
func FuzzHolds(f *testing.F) {
	for _, expr := range []string{
		`has(object.configuration.max_duration) && object.configuration.max_duration != null`,
		`object.configuration.env.exists(k, object.configuration.env[k].matches('a+'))`,
		`object[object.configuration.env.TOKEN] == 1`,
		`object.configuration.commands.map(c, c + c).filter(c, c.size() > 3).all(c, c in object.configuration.commands)`,
		`sets.contains(object.configuration.commands, ['a']) || object == object`,
		`quantity(object.configuration.env.TOKEN).isLessThan(quantity('1'))`,
		`[object].map(x, [x, x]).map(x, [x, x]).map(x, [x, x]).map(x, [x, x]) == []`,
		`object.configuration.?a[?0].orValue(1) > 0`,
		`user == `, `((((((((((1))))))))))`, `b'\x00' == bytes(user)`, `user.split('')[0].charAt(0) == ''`,
		`user.matches('(((a{9}){9}){9}){9}')`, `dyn([1, 'a', {}]) == object`,
	} {
		for _, spec := range []string{run, `{}`, `null`, `[[[]],{"a":{"a":{}}}]`, `{"a":1,"a":2}`, `{"configuration":{"env":{"TOKEN":1e400}}}`} {
			f.Add(expr, spec, "ada")
		}
	}
	f.Fuzz(func(t *testing.T, expr, spec, user string) {
		start := time.Now()
		p := expression.Compile(expr)
		checkText(t, p.Err(), expr)
		r, err := expression.NewRequest([]byte(spec), expression.Asker{User: user, Project: "p"})
		checkText(t, err, expr)
		if err != nil {
			return
		}
		holds, err := r.Holds(p)
		checkText(t, err, expr)
		if holds && err != nil {
			t.Error("both allowed and an error")
		}
		again, againErr := r.Refilled().Holds(p)
		if holds != again || (err == nil) != (againErr == nil) || err != nil && err.Error() != againErr.Error() {
			t.Errorf("got %t, %v, and the second time %t, %v", holds, err, again, againErr)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// checkText holds that an error is one short line without what only the
// specification has.
func checkText(t *testing.T, err error, expr string) {
	t.Helper()
	if err == nil {
		return
	}
	text := err.Error()
	if text == "" || len(text) > 4000 || strings.ContainsFunc(text, unicode.IsControl) {
		t.Errorf("error is not one short line: %q", text)
	}
	if strings.Contains(text, secret) && !strings.Contains(expr, secret) {
		t.Errorf("error quotes the specification: %s", text)
	}
}
