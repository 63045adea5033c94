package workload

import (
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Variable is what can be known of an environment variable from a container's
// spec.
type Variable struct {
	// Set is true when the variable is certainly there.
	Set bool
	// Known is true when Value is certainly its value, or Set is false and it is
	// certainly not there.
	Known bool
	// Value is the literal value.
	Value string
}

// Lookup tells what a container's spec says of a variable, by its env and by what its
// command makes of that.
func Lookup(c *corev1.Container, name string) Variable {
	line := commandOf(c)
	v := inEnv(c, name)
	if v.Set && line.unsets(name) {
		v = Variable{Known: true}
	}
	for i, text := range line.assigned(name) {
		value, literal := expand(name, text, v)
		if i > 0 && (!v.Known || value != v.Value) {
			literal = false
		}
		v = Variable{Set: true, Known: literal, Value: value}
	}
	if !v.Known {
		v.Value = ""
	}
	return v
}

// fallback matches what keeps a variable and gives it a value where it has none.
var fallback = regexp.MustCompile(`^\$\{([A-Za-z_]+):?[-=]([^$]*)\}$`)

// expand reads the value that a shell gives a variable; false for one that it makes
// of other things.
func expand(name, text string, before Variable) (string, bool) {
	if m := fallback.FindStringSubmatch(text); m != nil && m[1] == name {
		switch {
		case before.Set:
			return before.Value, before.Known
		default:
			return m[2], before.Known
		}
	}
	return text, !strings.Contains(text, "$")
}

// inEnv tells what a container's env says of a variable. Of several items of
// one name the last one counts, as the kubelet has it. A value that refers to
// another object or expands another variable is not known; neither is the
// absence of a variable where envFrom may bring it.
func inEnv(c *corev1.Container, name string) Variable {
	for i := len(c.Env) - 1; i >= 0; i-- {
		item := &c.Env[i]
		if item.Name != name {
			continue
		}
		if item.ValueFrom != nil {
			return Variable{Set: true}
		}
		if strings.Contains(item.Value, "$(") {
			return Variable{Set: true}
		}
		return Variable{Set: true, Known: true, Value: item.Value}
	}
	return Variable{Known: len(c.EnvFrom) == 0}
}

// Occurrences counts the items of one name in a container's env.
func Occurrences(c *corev1.Container, name string) int {
	n := 0
	for i := range c.Env {
		if c.Env[i].Name == name {
			n++
		}
	}
	return n
}

// Item finds the last env item of a name; nil if there is none.
func Item(c *corev1.Container, name string) *corev1.EnvVar {
	for i := len(c.Env) - 1; i >= 0; i-- {
		if c.Env[i].Name == name {
			return &c.Env[i]
		}
	}
	return nil
}
