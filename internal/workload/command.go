package workload

import (
	"path"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// command is what a container's command and arguments show of the process that they
// start: words, also those of a script that is given to a shell. What an image's
// entrypoint or a script in a file does is not seen.
type command []string

// commandOf reads a container's command line.
func commandOf(c *corev1.Container) command {
	var words command
	for _, argument := range slices.Concat(c.Command, c.Args) {
		for line := range strings.Lines(expansion.ReplaceAllString(argument, "$${$1}")) {
			for _, word := range strings.FieldsFunc(line, separates) {
				if strings.HasPrefix(word, "#") {
					break // The rest is a comment.
				}
				words = append(words, unquoted.Replace(word))
			}
		}
	}
	return words
}

// expansion matches a variable that Kubernetes puts into an argument.
var expansion = regexp.MustCompile(`\$\(([A-Za-z_][A-Za-z0-9_]*)\)`)

var unquoted = strings.NewReplacer(`"`, "", `'`, "")

func separates(r rune) bool { return strings.ContainsRune(" \t\r\n;&|()`", r) }

// assigned are the values that a variable is given.
func (c command) assigned(name string) []string {
	var values []string
	for _, word := range c {
		if value, found := strings.CutPrefix(word, name+"="); found {
			values = append(values, value)
		}
	}
	return values
}

// changes tells whether a variable is not as the container's env has it.
func (c command) changes(name string) bool { return len(c.assigned(name)) > 0 || c.unsets(name) }

// unsets tells whether a variable is taken out of the environment.
func (c command) unsets(name string) bool {
	for i, word := range c {
		switch {
		case word == "unset":
			for _, next := range c[i+1:] {
				if next == name {
					return true
				}
				if strings.Contains(next, "=") || path.Base(next) != next {
					break
				}
			}
		case word == "--unset="+name, word == "-u"+name:
			return true
		case (word == "-u" || word == "--unset") && i+1 < len(c) && c[i+1] == name:
			return true
		}
	}
	return false
}

// afresh names the program by which the process gets a new environment, so that
// nothing of the container's own reaches it; "" for none.
func (c command) afresh() string {
	for i, word := range c {
		options := c[i+1:]
		if n := slices.IndexFunc(options, func(o string) bool { return !strings.HasPrefix(o, "-") }); n >= 0 {
			options = options[:n]
		}
		has := func(names ...string) bool {
			return slices.ContainsFunc(options, func(o string) bool { return slices.Contains(names, o) })
		}
		switch program := path.Base(word); {
		case program == "env" && has("-i", "-", "--ignore-environment"),
			(program == "su" || program == "runuser") && has("-", "-l", "--login"),
			program == "setpriv" && has("--reset-env"),
			program == "sudo" && !has("-E", "--preserve-env"):
			return program
		}
	}
	return ""
}

// switchesUser names the program by which the process becomes another user; "" for
// none.
func (c command) switchesUser() string {
	for _, word := range c {
		switch program := path.Base(word); program {
		case "su", "sudo", "runuser", "gosu", "su-exec", "setpriv", "setuidgid", "s6-setuidgid", "chpst":
			return program
		}
	}
	return ""
}

var python = regexp.MustCompile(`^python([0-9]+([.][0-9]+)?)?$`)

// ignoresPythonPath names the option by which Python reads none of its variables; ""
// for none.
func (c command) ignoresPythonPath() string {
	for i, word := range c {
		if !python.MatchString(path.Base(word)) {
			continue
		}
		for n := i + 1; n < len(c); n++ {
			option, isOption := strings.CutPrefix(c[n], "-")
			if !isOption || option == "" {
				break
			}
			ignores, takesNext, last := pythonOption(option)
			switch {
			case ignores != "":
				return ignores
			case takesNext:
				n++
			}
			if last {
				break
			}
		}
	}
	return ""
}

// pythonOption reads one word of options: which of them makes Python ignore its
// variables, whether the next word belongs to it, and whether it is the last.
func pythonOption(letters string) (ignores string, takesNext, last bool) {
	if strings.HasPrefix(letters, "-") {
		return "", letters == "-check-hash-based-pycs", false
	}
	for i, letter := range letters {
		switch letter {
		case 'E', 'I':
			return "-" + string(letter), false, false
		case 'X', 'W':
			return "", i == len(letters)-1, false
		case 'c', 'm':
			return "", false, true
		}
	}
	return "", false, false
}
