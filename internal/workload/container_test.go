package workload_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/dstack-isolation/operator/internal/testkit"
	"github.com/dstack-isolation/operator/internal/workload"
)

func TestContainer(t *testing.T) {
	cases := map[string]struct {
		pod       *testkit.ServerPod
		container string
		want      string
		wantErr   string
	}{
		"the only one":         {pod: testkit.MakeServerPod(), want: "server"},
		"the named one":        {pod: testkit.MakeServerPod().Sidecar("agent"), container: "agent", want: "agent"},
		"the named, only one":  {pod: testkit.MakeServerPod(), container: "server", want: "server"},
		"init ones aside":      {pod: testkit.MakeServerPod().With(addInit), want: "server"},
		"an init one is named": {pod: testkit.MakeServerPod().With(addInit), container: "migrate", wantErr: `Deployment dstack/dstack-server has no container "migrate" (it has server): set spec.workload.container to one that it has`},
		"two and none is named": {
			pod:     testkit.MakeServerPod().Sidecar("agent"),
			wantErr: "Deployment dstack/dstack-server has 2 containers (server, agent): set spec.workload.container to the one that runs dstack",
		},
		"no such one": {
			pod: testkit.MakeServerPod().Sidecar("agent"), container: "web",
			wantErr: `Deployment dstack/dstack-server has no container "web" (it has server, agent): set spec.workload.container to one that it has`,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := workload.FromDeployment(tc.pod.Deployment(testkit.WorkloadName)).Container(tc.container)
			if tc.wantErr != "" {
				if err == nil || err.Error() != tc.wantErr {
					t.Fatalf("got error %v, want %s", err, tc.wantErr)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got.Name != tc.want {
				t.Errorf("got container %s, want %s", got.Name, tc.want)
			}
		})
	}
}

func addInit(t *corev1.PodTemplateSpec) {
	t.Spec.InitContainers = append(t.Spec.InitContainers, corev1.Container{Name: "migrate", Image: "migrate:1"})
}

func TestFindConfig(t *testing.T) {
	const dir = "/root/.dstack/server"
	mount := func(name, at string) corev1.VolumeMount { return corev1.VolumeMount{Name: name, MountPath: at} }
	cases := map[string]struct {
		mounts     []corev1.VolumeMount
		wantVolume string
		wantPath   string
		wantClash  bool
	}{
		"no mount":                         {},
		"a mount elsewhere":                {mounts: []corev1.VolumeMount{mount("data", "/data")}},
		"the directory itself":             {mounts: []corev1.VolumeMount{mount("data", dir)}, wantVolume: "data", wantPath: "config.yml"},
		"a parent":                         {mounts: []corev1.VolumeMount{mount("data", "/root/.dstack")}, wantVolume: "data", wantPath: "server/config.yml"},
		"the root":                         {mounts: []corev1.VolumeMount{mount("data", "/")}, wantVolume: "data", wantPath: "root/.dstack/server/config.yml"},
		"trailing slashes":                 {mounts: []corev1.VolumeMount{mount("data", "/root/.dstack///")}, wantVolume: "data", wantPath: "server/config.yml"},
		"not a parent, only a prefix":      {mounts: []corev1.VolumeMount{mount("data", "/root/.dst")}},
		"a name that begins alike":         {mounts: []corev1.VolumeMount{mount("data", "/root/.dstack/server2")}},
		"below the directory":              {mounts: []corev1.VolumeMount{mount("data", dir+"/data")}},
		"a sibling of the file":            {mounts: []corev1.VolumeMount{mount("data", dir+"/config.yml.d")}},
		"relative, which is from the root": {mounts: []corev1.VolumeMount{mount("data", "root/.dstack")}, wantVolume: "data", wantPath: "server/config.yml"},
		"the longest of several, first":    {mounts: []corev1.VolumeMount{mount("deep", "/root/.dstack"), mount("top", "/root")}, wantVolume: "deep", wantPath: "server/config.yml"},
		"the longest of several, last":     {mounts: []corev1.VolumeMount{mount("all", "/"), mount("top", "/root"), mount("deep", "/root/.dstack")}, wantVolume: "deep", wantPath: "server/config.yml"},
		"long by slashes only":             {mounts: []corev1.VolumeMount{mount("deep", "/root/.dstack"), mount("top", "/root//////////////////")}, wantVolume: "deep", wantPath: "server/config.yml"},
		"the file itself":                  {mounts: []corev1.VolumeMount{mount("data", dir), mount("config", dir+"/config.yml")}, wantVolume: "config", wantClash: true},
		"the file itself, not clean":       {mounts: []corev1.VolumeMount{mount("config", dir+"/./config.yml/")}, wantVolume: "config", wantClash: true},
		"our own copy":                     {mounts: []corev1.VolumeMount{mount("data", dir), mount("ours", dir+"/config.yml")}, wantVolume: "data", wantPath: "config.yml"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := workload.FindConfig(&corev1.Container{VolumeMounts: tc.mounts}, dir, "ours")
			volume := ""
			if got.Mount != nil {
				volume = got.Mount.Name
			}
			if volume != tc.wantVolume || got.Path != tc.wantPath || got.Clash != tc.wantClash {
				t.Errorf("got volume %q, path %q, clash %t, want %q, %q, %t", volume, got.Path, got.Clash, tc.wantVolume, tc.wantPath, tc.wantClash)
			}
		})
	}
}

func TestFindConfigKeepsTheMountsSubPath(t *testing.T) {
	c := &corev1.Container{VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/root", SubPath: "home", ReadOnly: true}}}
	got := workload.FindConfig(c, "/root/.dstack/server", "ours")
	if got.Mount == nil || got.Mount.SubPath != "home" || !got.Mount.ReadOnly || got.Path != ".dstack/server/config.yml" {
		t.Errorf("got %+v, want the mount with its subPath and the path below it", got)
	}
}

func TestLookup(t *testing.T) {
	secret := &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{Key: "k"}}
	from := []corev1.EnvFromSource{{}}
	cases := map[string]struct {
		env  []corev1.EnvVar
		from []corev1.EnvFromSource
		want workload.Variable
	}{
		"absent":                               {want: workload.Variable{Known: true}},
		"another":                              {env: []corev1.EnvVar{{Name: "Y", Value: "1"}}, want: workload.Variable{Known: true}},
		"another case":                         {env: []corev1.EnvVar{{Name: "x", Value: "1"}}, want: workload.Variable{Known: true}},
		"a value":                              {env: []corev1.EnvVar{{Name: "X", Value: "1"}}, want: workload.Variable{Set: true, Known: true, Value: "1"}},
		"an empty value":                       {env: []corev1.EnvVar{{Name: "X"}}, want: workload.Variable{Set: true, Known: true}},
		"twice: the last counts":               {env: []corev1.EnvVar{{Name: "X", Value: "1"}, {Name: "X", Value: "2"}}, want: workload.Variable{Set: true, Known: true, Value: "2"}},
		"twice: the last is a reference":       {env: []corev1.EnvVar{{Name: "X", Value: "1"}, {Name: "X", ValueFrom: secret}}, want: workload.Variable{Set: true}},
		"twice: the first is a reference":      {env: []corev1.EnvVar{{Name: "X", ValueFrom: secret}, {Name: "X", Value: "2"}}, want: workload.Variable{Set: true, Known: true, Value: "2"}},
		"a reference":                          {env: []corev1.EnvVar{{Name: "X", ValueFrom: secret}}, want: workload.Variable{Set: true}},
		"a field":                              {env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{}}}}, want: workload.Variable{Set: true}},
		"another variable in the value":        {env: []corev1.EnvVar{{Name: "X", Value: "a$(Y)b"}}, want: workload.Variable{Set: true}},
		"an escaped one, which may be left so": {env: []corev1.EnvVar{{Name: "X", Value: "$$(Y)"}}, want: workload.Variable{Set: true}},
		"a dollar":                             {env: []corev1.EnvVar{{Name: "X", Value: "a$b"}}, want: workload.Variable{Set: true, Known: true, Value: "a$b"}},
		"perhaps by envFrom":                   {from: from, want: workload.Variable{}},
		"env wins over envFrom":                {from: from, env: []corev1.EnvVar{{Name: "X", Value: "1"}}, want: workload.Variable{Set: true, Known: true, Value: "1"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := &corev1.Container{Env: tc.env, EnvFrom: tc.from}
			if got := workload.Lookup(c, "X"); got != tc.want {
				t.Errorf("got %+v, want %+v", got, tc.want)
			}
		})
	}
}

func TestItemAndOccurrences(t *testing.T) {
	c := &corev1.Container{Env: []corev1.EnvVar{{Name: "X", Value: "1"}, {Name: "Y"}, {Name: "X", Value: "2"}}}
	for name, want := range map[string]int{"X": 2, "Y": 1, "Z": 0} {
		if got := workload.Occurrences(c, name); got != want {
			t.Errorf("%s occurs %d times, want %d", name, got, want)
		}
	}
	if got := workload.Item(c, "X"); got == nil || got.Value != "2" {
		t.Errorf("got %v, want the last item of X", got)
	}
	if got := workload.Item(c, "Z"); got != nil {
		t.Errorf("got %v, want no item of Z", got)
	}
}

func TestProxyInTheWay(t *testing.T) {
	const host = "isolation-policy-main.dstack.svc"
	cases := map[string]struct {
		pod  *testkit.ServerPod
		want string
	}{
		"none":                        {pod: testkit.MakeServerPod()},
		"HTTP_PROXY":                  {pod: proxied("HTTP_PROXY", ""), want: "HTTP_PROXY"},
		"http_proxy":                  {pod: proxied("http_proxy", ""), want: "http_proxy"},
		"ALL_PROXY":                   {pod: proxied("ALL_PROXY", ""), want: "ALL_PROXY"},
		"all_proxy":                   {pod: proxied("all_proxy", ""), want: "all_proxy"},
		"HTTPS_PROXY, for http":       {pod: proxied("HTTPS_PROXY", "")},
		"empty":                       {pod: testkit.MakeServerPod().Env("HTTP_PROXY", "")},
		"from a Secret":               {pod: testkit.MakeServerPod().EnvFromSecret("HTTP_PROXY", "proxy", "url"), want: "HTTP_PROXY"},
		"NO_PROXY is the host":        {pod: proxied("HTTP_PROXY", host)},
		"NO_PROXY is the domain":      {pod: proxied("HTTP_PROXY", "localhost, dstack.svc")},
		"NO_PROXY is .domain":         {pod: proxied("HTTP_PROXY", ".svc,localhost")},
		"NO_PROXY is everything":      {pod: proxied("HTTP_PROXY", "*")},
		"NO_PROXY is another":         {pod: proxied("HTTP_PROXY", "other.svc,cluster.local"), want: "HTTP_PROXY"},
		"NO_PROXY is part of a label": {pod: proxied("HTTP_PROXY", "main.dstack.svc"), want: "HTTP_PROXY"},
		"NO_PROXY is a longer host":   {pod: proxied("HTTP_PROXY", host+".cluster.local"), want: "HTTP_PROXY"},
		"NO_PROXY is from a Secret":   {pod: proxied("HTTP_PROXY", "").EnvFromSecret("NO_PROXY", "proxy", "no"), want: "HTTP_PROXY"},
		"NO_PROXY is empty":           {pod: proxied("HTTP_PROXY", "").Env("NO_PROXY", ""), want: "HTTP_PROXY"},
		"NO_PROXY has an empty entry": {pod: proxied("HTTP_PROXY", "localhost,,"), want: "HTTP_PROXY"},
		"NO_PROXY: * among others is no wildcard for Python": {pod: proxied("HTTP_PROXY", "localhost,*"), want: "HTTP_PROXY"},
		"NO_PROXY: *.svc is no wildcard for Python":          {pod: proxied("HTTP_PROXY", "*.svc"), want: "HTTP_PROXY"},
		"no_proxy wins over NO_PROXY":                        {pod: proxied("HTTP_PROXY", host).Env("no_proxy", "other"), want: "HTTP_PROXY"},
		"no_proxy is enough":                                 {pod: proxied("HTTP_PROXY", "other").Env("no_proxy", host)},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			c := tc.pod.Template().Spec.Containers[0]
			if got := workload.ProxyInTheWay(&c, host); got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}

func proxied(variable, noProxy string) *testkit.ServerPod {
	b := testkit.MakeServerPod().Env(variable, "http://proxy.example.com:3128")
	if noProxy != "" {
		b.Env("NO_PROXY", noProxy)
	}
	return b
}
