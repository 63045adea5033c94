package workload

import (
	"cmp"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/internal/dstack"
)

// belowHome is dstack's directory in the home of the user that it runs as.
const belowHome = ".dstack/server"

// rootHome is the home of root in every usual image.
const rootHome = "/root"

// ServerDirProblem says why dstack in this container does not use serverDir, with the
// field that fixes it; "" when nothing says so. Where that cannot be seen, doubt says
// why. dstack takes DSTACK_SERVER_DIR, and without that .dstack/server in the home,
// which is HOME, or else what the image's list of users says.
func ServerDirProblem(pod *corev1.PodSpec, c *corev1.Container, serverDir string) (problem, doubt string) {
	switch dir := Lookup(c, dstack.EnvServerDir); {
	case dir.Set && !dir.Known:
		return fmt.Sprintf("%s takes %s from elsewhere, so it cannot be compared with spec.serverDir: write the directory as the variable's value", who(c, dstack.EnvServerDir), dstack.EnvServerDir), ""
	case dir.Set && dir.Value != serverDir:
		return fmt.Sprintf("%s sets %s, but spec.serverDir is %s: set spec.serverDir to the same directory", who(c, dstack.EnvServerDir), dstack.EnvServerDir, serverDir), ""
	case dir.Set:
		return "", ""
	}
	switch home := Lookup(c, dstack.EnvHome); {
	case !home.Set || home.Known && home.Value == "":
		return userProblem(pod, c, serverDir)
	case !home.Known:
		return fmt.Sprintf("%s takes HOME from elsewhere, so dstack's directory cannot be compared with spec.serverDir: %s to the directory", who(c, dstack.EnvHome), sayDir(c)), ""
	case !path.IsAbs(home.Value):
		return fmt.Sprintf("%s sets HOME to a relative path: %s to the directory", who(c, dstack.EnvHome), sayDir(c)), ""
	case path.Join(home.Value, belowHome) != serverDir:
		return fmt.Sprintf("%s sets HOME, so dstack uses %s in it and not spec.serverDir %s: set spec.serverDir to that directory, or %s to spec.serverDir",
			who(c, dstack.EnvHome), belowHome, serverDir, sayDir(c)), ""
	}
	return "", ""
}

// who is what gives a variable its value.
func who(c *corev1.Container, name string) string {
	if commandOf(c).changes(name) {
		return "the command of container " + c.Name
	}
	return "container " + c.Name
}

// sayDir is how to make sure of the directory.
func sayDir(c *corev1.Container) string {
	return fmt.Sprintf("set variable %s in container %s", dstack.EnvServerDir, c.Name)
}

// userProblem judges the home of the user that the process runs as.
func userProblem(pod *corev1.PodSpec, c *corev1.Container, serverDir string) (problem, doubt string) {
	user, nonRoot := runsAs(pod, c)
	unsure := func(why string) (string, string) {
		return "", fmt.Sprintf("%s, so it cannot be seen that dstack uses %s: %s to that", why, serverDir, sayDir(c))
	}
	switch program := commandOf(c).switchesUser(); {
	case program != "":
		return unsure(fmt.Sprintf("the command of container %s changes the user by %s", c.Name, program))
	case user != nil && *user != 0 && within(serverDir, rootHome):
		return fmt.Sprintf("container %s runs as user %d, whose home is not %s, so dstack does not use spec.serverDir %s: %s and spec.serverDir to the same directory",
			c.Name, *user, rootHome, serverDir, sayDir(c)), ""
	case user != nil && *user != 0:
		return unsure(fmt.Sprintf("container %s runs as user %d, whose home only the image defines", c.Name, *user))
	case user == nil && nonRoot:
		return unsure(fmt.Sprintf("container %s runs as a user of the image other than root", c.Name))
	case serverDir != dstack.DefaultServerDir:
		return unsure(fmt.Sprintf("container %s sets no %s", c.Name, dstack.EnvServerDir))
	}
	return "", ""
}

// runsAs is whom the container runs as, where the pod says so.
func runsAs(pod *corev1.PodSpec, c *corev1.Container) (user *int64, nonRoot bool) {
	if s := pod.SecurityContext; s != nil {
		user, nonRoot = s.RunAsUser, ptr.Deref(s.RunAsNonRoot, false)
	}
	if s := c.SecurityContext; s != nil {
		user, nonRoot = cmp.Or(s.RunAsUser, user), ptr.Deref(s.RunAsNonRoot, nonRoot)
	}
	return user, nonRoot
}

// Hides says by what the command of a container keeps the process from variables that
// the operator sets; "" when nothing does. Where the plugin is Python's, its folder
// must be on PYTHONPATH.
func Hides(c *corev1.Container, set []string, pythonPlugin bool, pluginDir string) string {
	line := commandOf(c)
	if program := line.afresh(); program != "" {
		return fmt.Sprintf("the command of container %s starts dstack by %s without the container's variables, so it gets none of the settings: remove that from the command", c.Name, program)
	}
	for _, name := range set {
		if name != dstack.EnvPythonPath && line.changes(name) {
			return fmt.Sprintf("the command of container %s changes %s, and the operator sets it: remove that from the command", c.Name, name)
		}
	}
	if !pythonPlugin {
		return ""
	}
	if option := line.ignoresPythonPath(); option != "" {
		return fmt.Sprintf("the command of container %s runs Python with %s, which ignores %s, so dstack does not find the plugin: leave the option out, or use spec.policyPlugin.delivery REST",
			c.Name, option, dstack.EnvPythonPath)
	}
	loses := slices.ContainsFunc(line.assigned(dstack.EnvPythonPath), func(value string) bool {
		return !keepsPath.MatchString(value) && !slices.Contains(strings.Split(value, ":"), pluginDir)
	})
	if loses || line.unsets(dstack.EnvPythonPath) {
		return fmt.Sprintf("the command of container %s replaces %s, so dstack does not find the plugin: append :%s to it there, or use spec.policyPlugin.delivery REST",
			c.Name, dstack.EnvPythonPath, pluginDir)
	}
	return ""
}

// keepsPath matches a value of PYTHONPATH that contains the one before.
var keepsPath = regexp.MustCompile(`\$\{?PYTHONPATH\b`)
