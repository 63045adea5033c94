package workload_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

func shell(b *testkit.ServerPod, script string) *testkit.ServerPod {
	return b.WithServer(func(c *corev1.Container) { c.Command = []string{"sh", "-c", script} })
}

func podUser(b *testkit.ServerPod, s corev1.PodSecurityContext) *testkit.ServerPod {
	return b.With(func(t *corev1.PodTemplateSpec) { t.Spec.SecurityContext = &s })
}

func containerUser(b *testkit.ServerPod, s corev1.SecurityContext) *testkit.ServerPod {
	return b.WithServer(func(c *corev1.Container) { c.SecurityContext = &s })
}

func TestServerDirProblem(t *testing.T) {
	pod := testkit.MakeServerPod
	const (
		other  = "container server sets DSTACK_SERVER_DIR, but spec.serverDir is /root/.dstack/server: set spec.serverDir to the same directory"
		line   = "the command of container server sets DSTACK_SERVER_DIR, but spec.serverDir is /root/.dstack/server: set spec.serverDir to the same directory"
		hidden = "container server takes DSTACK_SERVER_DIR from elsewhere, so it cannot be compared with spec.serverDir: write the directory as the variable's value"
		unread = "the command of container server takes DSTACK_SERVER_DIR from elsewhere, so it cannot be compared with spec.serverDir: write the directory as the variable's value"
		home   = "container server sets HOME, so dstack uses .dstack/server in it and not spec.serverDir /root/.dstack/server: set spec.serverDir to that directory, or set variable DSTACK_SERVER_DIR in container server to spec.serverDir"
		user   = "container server runs as user 1000, whose home is not /root, so dstack does not use spec.serverDir /root/.dstack/server: set variable DSTACK_SERVER_DIR in container server and spec.serverDir to the same directory"
	)
	cases := map[string]struct {
		pod            *testkit.ServerPod
		dir            string
		problem, doubt string
	}{
		"dstack's image":                      {pod: pod()},
		"root, said by the pod":               {pod: podUser(pod(), corev1.PodSecurityContext{RunAsUser: ptr.To[int64](0)})},
		"root's own HOME":                     {pod: pod().Env("HOME", "/root")},
		"HOME with a slash":                   {pod: pod().Env("HOME", "/root/")},
		"an empty HOME is none":               {pod: pod().Env("HOME", "")},
		"the directory, whatever the home is": {pod: podUser(pod().Env("DSTACK_SERVER_DIR", serverDir).Env("HOME", "/data"), corev1.PodSecurityContext{RunAsUser: ptr.To[int64](1000)})},
		"a command that does nothing of it":   {pod: shell(pod(), "mkdir -p /root/.dstack && exec dstack server --host 0.0.0.0")},
		"a command that gives the directory":  {pod: shell(pod().Env("HOME", "/data"), "export DSTACK_SERVER_DIR='/root/.dstack/server'; exec dstack server")},
		"a command that only reads it":        {pod: shell(pod().Env("DSTACK_SERVER_DIR", serverDir), `mkdir -p "$DSTACK_SERVER_DIR/data"; exec dstack server`)},
		"a command that gives it where none is": {
			pod: shell(pod().Env("DSTACK_SERVER_DIR", serverDir), `export DSTACK_SERVER_DIR="${DSTACK_SERVER_DIR:-/data}"; exec dstack server`),
		},
		"a comment": {pod: shell(pod(), "# HOME=/data would be another\nexec dstack server # DSTACK_SERVER_DIR=/x")},
		"another home and the directory in it": {
			pod: pod().Env("HOME", "/data"), dir: "/data/.dstack/server",
		},

		"another directory":                    {pod: pod().Env("DSTACK_SERVER_DIR", "/srv"), problem: other},
		"an empty directory is another":        {pod: pod().Env("DSTACK_SERVER_DIR", ""), problem: other},
		"a directory by reference":             {pod: pod().EnvFromSecret("DSTACK_SERVER_DIR", "s", "k"), problem: hidden},
		"another directory by export":          {pod: shell(pod(), "export DSTACK_SERVER_DIR=/data/dstack; exec dstack server --host 0.0.0.0"), problem: line},
		"another directory before the program": {pod: shell(pod(), `DSTACK_SERVER_DIR="/data/dstack" dstack server`), problem: line},
		"another directory by env": {
			pod: pod().WithServer(func(c *corev1.Container) {
				c.Command, c.Args = []string{"env", "DSTACK_SERVER_DIR=/data"}, []string{"dstack", "server"}
			}), problem: line,
		},
		"the container's is overridden": {pod: shell(pod().Env("DSTACK_SERVER_DIR", serverDir), "export DSTACK_SERVER_DIR=/data\nexec dstack server"), problem: line},
		"one that the shell makes":      {pod: shell(pod(), "export DSTACK_SERVER_DIR=$DATA/dstack; exec dstack server"), problem: unread},
		"one of two":                    {pod: shell(pod(), "if x; then export DSTACK_SERVER_DIR=/root/.dstack/server; else export DSTACK_SERVER_DIR=/b; fi; exec dstack server"), problem: unread},
		"a fallback without a variable": {pod: shell(pod(), "export DSTACK_SERVER_DIR=${DSTACK_SERVER_DIR:-/data}; exec dstack server"), problem: line},
		"the container's is unset": {
			pod:     shell(pod().Env("DSTACK_SERVER_DIR", serverDir).Env("HOME", "/data"), "unset DSTACK_SERVER_DIR; exec dstack server"),
			problem: home,
		},
		"another home": {pod: pod().Env("HOME", "/data"), problem: home},
		"another home by export": {
			pod: shell(pod(), "export HOME=/data; exec dstack server"), problem: "the command of " + home,
		},
		"a home by reference": {
			pod:     pod().EnvVar(corev1.EnvVar{Name: "HOME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.annotations['home']"}}}),
			problem: "container server takes HOME from elsewhere, so dstack's directory cannot be compared with spec.serverDir: set variable DSTACK_SERVER_DIR in container server to the directory",
		},
		"a relative home": {
			pod:     pod().Env("HOME", "data"),
			problem: "container server sets HOME to a relative path: set variable DSTACK_SERVER_DIR in container server to the directory",
		},
		"another user of the pod":       {pod: podUser(pod(), corev1.PodSecurityContext{RunAsUser: ptr.To[int64](1000)}), problem: user},
		"another user of the container": {pod: containerUser(pod(), corev1.SecurityContext{RunAsUser: ptr.To[int64](1000)}), problem: user},
		"root in a pod of others": {
			pod: containerUser(podUser(pod(), corev1.PodSecurityContext{RunAsUser: ptr.To[int64](1000)}), corev1.SecurityContext{RunAsUser: ptr.To[int64](0)}),
		},

		"another user, whose home is not known": {
			pod: podUser(pod(), corev1.PodSecurityContext{RunAsUser: ptr.To[int64](1000)}), dir: "/.dstack/server",
			doubt: "container server runs as user 1000, whose home only the image defines, so it cannot be seen that dstack uses /.dstack/server: set variable DSTACK_SERVER_DIR in container server to that",
		},
		"a user of the image's": {
			pod:   podUser(pod(), corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true)}),
			doubt: "container server runs as a user of the image other than root, so it cannot be seen that dstack uses /root/.dstack/server: set variable DSTACK_SERVER_DIR in container server to that",
		},
		"another directory that only the image may say": {
			pod: pod(), dir: "/srv/dstack",
			doubt: "container server sets no DSTACK_SERVER_DIR, so it cannot be seen that dstack uses /srv/dstack: set variable DSTACK_SERVER_DIR in container server to that",
		},
		"a command that changes the user": {
			pod:   shell(pod(), "chown -R dstack /data; exec gosu dstack dstack server"),
			doubt: "the command of container server changes the user by gosu, so it cannot be seen that dstack uses /root/.dstack/server: set variable DSTACK_SERVER_DIR in container server to that",
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			dir := tc.dir
			if dir == "" {
				dir = serverDir
			}
			template := tc.pod.Template()
			problem, doubt := workload.ServerDirProblem(&template.Spec, &template.Spec.Containers[0], dir)
			if problem != tc.problem || doubt != tc.doubt {
				t.Errorf("\ngot  %q and %q\nwant %q and %q", problem, doubt, tc.problem, tc.doubt)
			}
		})
	}
}

func TestHides(t *testing.T) {
	const (
		afresh   = "the command of container server starts dstack by %s without the container's variables, so it gets none of the settings: remove that from the command"
		ignores  = "the command of container server runs Python with %s, which ignores PYTHONPATH, so dstack does not find the plugin: leave the option out, or use spec.policyPlugin.delivery REST"
		replaces = "the command of container server replaces PYTHONPATH, so dstack does not find the plugin: append :/opt/dstack-isolation to it there, or use spec.policyPlugin.delivery REST"
		changes  = "the command of container server changes DSTACK_SERVER_JOB_NETWORK_MODE, and the operator sets it: remove that from the command"
	)
	cases := map[string]struct {
		command []string
		want    string
		// rest is what is said with delivery REST.
		rest string
	}{
		"none":                       {nil, "", ""},
		"dstack itself":              {[]string{"dstack", "server", "--host", "0.0.0.0"}, "", ""},
		"python without options":     {[]string{"python", "-u", "-m", "dstack", "-E"}, "", ""},
		"an option of the script":    {[]string{"python3.11", "/usr/local/bin/dstack", "server", "-E"}, "", ""},
		"an option's own value":      {[]string{"python", "-W", "-E", "-X", "dev", "dstack"}, "", ""},
		"another program's option":   {[]string{"grep", "-E", "x"}, "", ""},
		"a longer path":              {[]string{"sh", "-c", `export PYTHONPATH="$PYTHONPATH:/plugins"; exec dstack server`}, "", ""},
		"a longer path, with braces": {[]string{"sh", "-c", "PYTHONPATH=/plugins:${PYTHONPATH} dstack server"}, "", ""},
		"a path of Kubernetes' own":  {[]string{"env", "PYTHONPATH=/plugins:$(PYTHONPATH)", "dstack", "server"}, "", ""},
		"a path with ours":           {[]string{"env", "PYTHONPATH=/plugins:/opt/dstack-isolation", "dstack", "server"}, "", ""},
		"another variable":           {[]string{"sh", "-c", "unset FOO; export MY_PYTHONPATH=/x; exec dstack server"}, "", ""},
		"sudo that keeps it":         {[]string{"sudo", "-E", "dstack", "server"}, "", ""},
		"su that keeps it":           {[]string{"su", "dstack", "-c", "dstack server"}, "", ""},

		"-E":              {[]string{"python", "-E", "/usr/local/bin/dstack", "server"}, fmt.Sprintf(ignores, "-E"), ""},
		"-I":              {[]string{"/usr/bin/python3.11", "-I", "-m", "dstack"}, fmt.Sprintf(ignores, "-I"), ""},
		"among others":    {[]string{"python3", "-X", "dev", "-W", "ignore", "--check-hash-based-pycs", "never", "-uE", "x"}, fmt.Sprintf(ignores, "-E"), ""},
		"in a shell":      {[]string{"sh", "-c", "migrate && exec python3 -Es /usr/local/bin/dstack server"}, fmt.Sprintf(ignores, "-E"), ""},
		"unset":           {[]string{"sh", "-c", "unset PYTHONPATH; exec dstack server"}, replaces, ""},
		"unset with more": {[]string{"sh", "-c", "unset -v FOO PYTHONPATH && dstack server"}, replaces, ""},
		"env -u":          {[]string{"env", "-u", "PYTHONPATH", "dstack", "server"}, replaces, ""},
		"env -uNAME":      {[]string{"env", "-uPYTHONPATH", "dstack", "server"}, replaces, ""},
		"another path":    {[]string{"sh", "-c", "export PYTHONPATH=/plugins; exec dstack server"}, replaces, ""},
		"an empty path":   {[]string{"sh", "-c", "PYTHONPATH= exec dstack server"}, replaces, ""},
		"env -i":          {[]string{"/usr/bin/env", "-i", "dstack", "server"}, fmt.Sprintf(afresh, "env"), fmt.Sprintf(afresh, "env")},
		"a login shell":   {[]string{"su", "-", "dstack", "-c", "dstack server"}, fmt.Sprintf(afresh, "su"), fmt.Sprintf(afresh, "su")},
		"sudo":            {[]string{"sudo", "-u", "dstack", "dstack", "server"}, fmt.Sprintf(afresh, "sudo"), fmt.Sprintf(afresh, "sudo")},
		"a setting":       {[]string{"sh", "-c", "export DSTACK_SERVER_JOB_NETWORK_MODE=2; dstack server"}, changes, changes},
		"a setting unset": {[]string{"sh", "-c", "unset DSTACK_SERVER_JOB_NETWORK_MODE; dstack server"}, changes, changes},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := &corev1.Container{Name: testkit.ServerContainer, Command: tc.command}
			set := []string{networkMode, "PYTHONPATH"}
			if got := workload.Hides(c, set, true, "/opt/dstack-isolation"); got != tc.want {
				t.Errorf("\ngot  %q\nwant %q", got, tc.want)
			}
			if got := workload.Hides(c, set, false, "/opt/dstack-isolation"); got != tc.rest {
				t.Errorf("REST:\ngot  %q\nwant %q", got, tc.rest)
			}
		})
	}
}

// What a pod's command makes of the settings counts, and not what its env shows.
func TestPodsWhoseCommandChangesSettings(t *testing.T) {
	told := func() *testkit.ServerPod {
		return asking().Env(networkMode, "3").EnvFromSecret("DSTACK_SSHPROXY_API_TOKEN", "s", "k").
			Env("DSTACK_SERVER_SSHPROXY_ADDRESS", "ssh.example.com").Env("DSTACK_SERVER_SSHPROXY_ENFORCED", "1").Env("DSTACK_FORBID_DSTACK_IN_RUNS", "1")
	}
	type enforced struct {
		policy, ssh, mode, denied int
	}
	cases := map[string]struct {
		script string
		want   enforced
	}{
		"nothing":              {"exec dstack server", enforced{1, 1, 3, 1}},
		"network mode":         {"DSTACK_SERVER_JOB_NETWORK_MODE=2 dstack server", enforced{1, 1, 2, 1}},
		"enforcing unset":      {"unset DSTACK_SERVER_SSHPROXY_ENFORCED; dstack server", enforced{1, 0, 3, 1}},
		"another SSH token":    {"export DSTACK_SSHPROXY_API_TOKEN=; dstack server", enforced{1, 0, 3, 1}},
		"no address":           {"unset DSTACK_SERVER_SSHPROXY_ADDRESS; dstack server", enforced{1, 0, 3, 1}},
		"no denial":            {"env -u DSTACK_FORBID_DSTACK_IN_RUNS dstack server", enforced{1, 1, 3, 0}},
		"no plugin":            {"python -E /usr/local/bin/dstack server", enforced{0, 1, 3, 1}},
		"no config":            {"export DSTACK_SERVER_CONFIG_DISABLED=1; dstack server", enforced{0, 1, 3, 1}},
		"another directory":    {"export DSTACK_SERVER_DIR=/data; dstack server", enforced{0, 1, 3, 1}},
		"another home":         {"export HOME=/data; dstack server", enforced{0, 1, 3, 1}},
		"another policy":       {"export DSTACK_ISOLATION_POLICY_URL=http://x; dstack server", enforced{0, 1, 3, 1}},
		"nothing but a reader": {`echo "$DSTACK_SERVER_JOB_NETWORK_MODE"; dstack server`, enforced{1, 1, 3, 1}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			pods := []corev1.Pod{*shell(told(), tc.script).Pod("p")}
			r := workload.Running(pods, testkit.ServerContainer, endpoint)
			got := enforced{int(r.PolicyPods), int(r.SSHEnforcedPods), int(r.NetworkMode), len(r.DeniedByServer)}
			if got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
			// It may ask all the same, so that its policy server is not deleted.
			if !workload.AnyUses(pods, endpoint) {
				t.Error("it would lose its policy server")
			}
		})
	}
	if d := workload.Running([]corev1.Pod{*asking().Env("HOME", "/data").Pod("p")}, testkit.ServerContainer, endpoint).Deliveries; len(d) > 0 {
		t.Errorf("a pod with another home counts as asking by %v", d)
	}
}
