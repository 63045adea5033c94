package policy_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/policy"
)

// only is a profile that denies nothing but what the controls deny.
func only(c v1alpha1.Controls) v1alpha1.IsolationProfile {
	return profile("research", v1alpha1.LevelOpen, controls(c))
}

func fleetList(names ...v1alpha1.FleetName) v1alpha1.Controls {
	return v1alpha1.Controls{Fleets: &v1alpha1.AllowedFleets{Allowed: names}}
}

func backendList(names ...v1alpha1.BackendName) v1alpha1.Controls {
	return v1alpha1.Controls{Backends: &v1alpha1.AllowedBackends{Allowed: names}}
}

func registryList(names ...v1alpha1.RegistryName) v1alpha1.Controls {
	return v1alpha1.Controls{Registries: &v1alpha1.AllowedRegistries{Allowed: names}}
}

// withProfile is a task with more in its configuration and in its profile.
func withProfile(configuration, inProfile string) string {
	return strings.TrimSuffix(task(configuration), "}") + `,"profile":{"name":"p"` + inProfile + `}}`
}

// TestControlsOfRuns: each control alone denies what it is about and nothing
// else, which passes without it.
func TestControlsOfRuns(t *testing.T) {
	routers := v1alpha1.Controls{ServiceRouters: "Denied"}
	imported := v1alpha1.Controls{ImportedFleets: "Denied"}
	server := v1alpha1.Controls{ServerAccess: "Denied"}
	gateways := v1alpha1.Controls{ServicesWithoutGateway: "Denied"}
	importedGateways := v1alpha1.Controls{ImportedGateways: "Denied"}
	services := v1alpha1.Controls{Services: "Denied"}
	tags := v1alpha1.Controls{Tags: "Denied"}
	unknown := v1alpha1.Controls{UnknownFields: "DeniedIfSet"}
	fleets := fleetList("a100", "h200", "other/gpu", "research-nlp/own")
	tests := map[string]struct {
		controls v1alpha1.Controls
		spec     string
		want     []string
	}{
		"router":                  {routers, ofType("service", `"groups":[{},{"router":{"type":"sglang"}}]`), []string{"serviceRouters configuration.groups[1].router"}},
		"router, older shape":     {routers, ofType("service", `"replicas":[{"router":{"type":"smg"}}]`), []string{"serviceRouters configuration.replicas[0].router"}},
		"router of the service":   {routers, ofType("service", `"router":{"type":"sglang","policy":"random","pd_disaggregation":true}`), []string{"serviceRouters configuration.router"}},
		"router of unknown type":  {routers, ofType("service", `"groups":[{"router":{"type":"next"}}]`), []string{"serviceRouters configuration.groups[0].router"}},
		"router in another shape": {routers, ofType("service", `"groups":[{"router":"next"}]`), []string{"serviceRouters configuration.groups[0].router"}},
		"no router":               {routers, ofType("service", `"router":null,"groups":[{"router":null}]`), []string{}},

		"imported fleet":                  {imported, task(`"fleets":[{"project":null,"name":"a"},{"project":"other","name":"gpu"}]`), []string{"importedFleets configuration.fleets[1]"}},
		"imported fleet, short":           {imported, task(`"fleets":["a","other/gpu"]`), []string{"importedFleets configuration.fleets[1]"}},
		"imported by the profile":         {imported, withProfile("", `,"fleets":["other/gpu"]`), []string{"importedFleets profile.fleets[0]"}},
		"profile replaced":                {imported, withProfile(`"fleets":["a"]`, `,"fleets":["other/gpu"]`), []string{}},
		"profile replaced by nothing":     {imported, withProfile(`"fleets":[]`, `,"fleets":["other/gpu"]`), []string{}},
		"profile beside null":             {imported, withProfile(`"fleets":null`, `,"fleets":["other/gpu"]`), []string{"importedFleets profile.fleets[0]"}},
		"own project by name":             {imported, task(`"fleets":["research-nlp/a",{"project":"research-nlp","name":"b"}]`), []string{}},
		"own project in another case":     {imported, task(`"fleets":["Research-NLP/a"]`), []string{"importedFleets configuration.fleets[0]"}},
		"instance of an imported fleet":   {imported, task(`"instances":[{"fleet":{"project":"other","name":"gpu"},"instance":0}]`), []string{"importedFleets configuration.instances[0].fleet"}},
		"instance, short":                 {imported, withProfile("", `,"instances":[{"fleet":"a","instance":0},{"fleet":"other/gpu","instance":0}]`), []string{"importedFleets profile.instances[1].fleet"}},
		"instances by name and host name": {imported, task(`"instances":["a",{"name":"b"},{"hostname":"10.0.0.1"}]`), []string{}},

		"dstack":       {server, task(`"dstack":true`), []string{"serverAccess configuration.dstack"}},
		"dstack false": {server, task(`"dstack":false`), []string{}},
		"dstack null":  {server, task(`"dstack":null`), []string{}},

		"gateway false":          {gateways, ofType("service", `"gateway":false`), []string{"servicesWithoutGateway configuration.gateway"}},
		"gateway null":           {gateways, ofType("service", `"gateway":null`), []string{"servicesWithoutGateway configuration.gateway"}},
		"no gateway":             {gateways, strings.Replace(ofType("service", ""), `,"gateway":true`, "", 1), []string{"servicesWithoutGateway configuration.gateway"}},
		"default gateway":        {gateways, ofType("service", `"gateway":true`), []string{}},
		"gateway by name":        {gateways, ofType("service", `"gateway":"main"`), []string{}},
		"gateway of an object":   {gateways, ofType("service", `"gateway":{"project":"other","name":"main"}`), []string{}},
		"task without a gateway": {gateways, task(""), []string{}},

		"gateway of another project":        {importedGateways, ofType("service", `"gateway":{"project":"other","name":"gw"}`), []string{"importedGateways configuration.gateway"}},
		"gateway of another project, short": {importedGateways, ofType("service", `"gateway":"other/gw"`), []string{"importedGateways configuration.gateway"}},
		"gateway of this project":           {importedGateways, ofType("service", `"gateway":{"project":null,"name":"gw"}`), []string{}},
		"gateway of this project by name":   {importedGateways, ofType("service", `"gateway":{"project":"research-nlp","name":"gw"}`), []string{}},
		"gateway of another case":           {importedGateways, ofType("service", `"gateway":"Research-NLP/gw"`), []string{"importedGateways configuration.gateway"}},
		"gateway by its name":               {importedGateways, ofType("service", `"gateway":"gw"`), []string{}},
		"the default gateway":               {importedGateways, ofType("service", `"gateway":true`), []string{}},
		"no gateway at all":                 {importedGateways, ofType("service", `"gateway":false`), []string{}},
		"a gateway left out":                {importedGateways, ofType("service", `"gateway":null`), []string{}},

		"service":            {services, ofType("service", ""), []string{"services configuration.type"}},
		"no service":         {services, task(""), []string{}},
		"tags":               {tags, task(`"tags":{"app":"web"}`), []string{"tags configuration.tags"}},
		"tags of a profile":  {tags, withProfile("", `,"tags":{"app":"web"}`), []string{"tags profile.tags"}},
		"tags of both":       {tags, withProfile(`"tags":{}`, `,"tags":{"app":"web"}`), []string{"tags profile.tags"}},
		"tags of a group":    {tags, ofType("service", `"groups":[{"tags":{"app":"web"}}]`), []string{"tags configuration.groups[0].tags"}},
		"tag without a name": {tags, task(`"tags":{"":""}`), []string{"tags configuration.tags"}},
		"no tags":            {tags, withProfile(`"tags":{ }`, `,"tags":null`), []string{}},

		"fleets in the list":          {fleets, task(`"fleets":["h200",{"project":null,"name":"a100"},"research-nlp/a100","own","other/gpu"]`), []string{}},
		"fleet outside the list":      {fleets, task(`"fleets":["a100","b"]`), []string{"fleets configuration.fleets[1]"}},
		"fleet in another case":       {fleets, task(`"fleets":["A100"]`), []string{"fleets configuration.fleets[0]"}},
		"fleet of another project":    {fleets, task(`"fleets":["other/a100","gpu"]`), []string{"fleets configuration.fleets[0]", "fleets configuration.fleets[1]"}},
		"fleet of the profile":        {fleets, withProfile("", `,"fleets":["b"]`), []string{"fleets profile.fleets[0]"}},
		"instance in the list":        {fleets, task(`"instances":[{"fleet":"a100","instance":3}]`), []string{}},
		"instance outside the list":   {fleets, task(`"fleets":["a100"],"instances":[{"fleet":"b","instance":3}]`), []string{"fleets configuration.instances[0].fleet"}},
		"instance without a fleet":    {fleets, task(`"fleets":["a100"],"instances":["a",{"name":"b"},{"hostname":"c"},{}]`), []string{"fleets configuration.instances[0]", "fleets configuration.instances[1]", "fleets configuration.instances[2]", "fleets configuration.instances[3]"}},
		"instance with more":          {fleets, task(`"instances":[{"fleet":"a100","instance":3,"hostname":"b"}]`), []string{"fleets configuration.instances[0]"}},
		"instance of the profile":     {fleets, withProfile("", `,"instances":[{"hostname":"b"}]`), []string{"fleets profile.instances[0]"}},
		"instances replaced":          {fleets, withProfile(`"instances":[{"fleet":"a100","instance":1}]`, `,"instances":[{"hostname":"b"}]`), []string{}},
		"fleets, nothing allowed":     {both(fleetList("other/gpu"), imported), task(""), []string{"fleets configuration.fleets"}},
		"fleet by both":               {both(fleetList("other/gpu"), imported), task(`"fleets":["other/gpu"]`), []string{"importedFleets configuration.fleets[0]"}},
		"fleets of nobody's list":     {fleetList(), task(`"fleets":["a"]`), []string{"fleets configuration.fleets[0]"}},
		"no fleets of nobody's list":  {fleetList(), task(``), []string{"fleets configuration.fleets"}},
		"backends in the list":        {backendList("aws", "gcp"), task(`"backends":["gcp"]`), []string{}},
		"backend outside the list":    {backendList("aws", "gcp"), task(`"backends":["aws","kubernetes"]`), []string{"backends configuration.backends[1]"}},
		"backend in another case":     {backendList("aws"), task(`"backends":["AWS"]`), []string{"backends configuration.backends[0]"}},
		"backends of the profile":     {backendList("aws"), withProfile("", `,"backends":["aws","lium"]`), []string{"backends profile.backends[1]"}},
		"backends replaced":           {backendList("aws"), withProfile(`"backends":["aws"]`, `,"backends":["lium"]`), []string{}},
		"backends replaced by nought": {backendList("aws"), withProfile(`"backends":[]`, `,"backends":["aws"]`), []string{"backends configuration.backends"}},
		"no backends":                 {backendList("aws"), task(`"backends":null`), []string{"backends configuration.backends"}},
		"no backend is allowed":       {backendList(), task(`"backends":["aws"]`), []string{"backends configuration.backends[0]"}},

		"unknown field":          {unknown, task(`"new":1`), []string{`unknownFields configuration."new"`}},
		"of the specification":   {unknown, `{"configuration":{"type":"task"},"new":{"a":["x"]}}`, []string{`unknownFields "new"`}},
		"of the profile":         {unknown, withProfile("", `,"new":true`), []string{`unknownFields profile."new"`}},
		"of a group":             {unknown, ofType("service", `"groups":[{},{"resources":{"gpu":{"count":{"new":1}}}}]`), []string{`unknownFields configuration.groups[1].resources.gpu.count."new"`}},
		"of a volume":            {unknown, task(`"volumes":[{"name":"a","path":"/a","new":1}]`), []string{`unknownFields configuration.volumes[0]."new"`}},
		"of a list in a list":    {unknown, ofType("service", `"probes":[{},{"headers":[{},{"new":1}]}]`), []string{`unknownFields configuration.probes[1].headers[1]."new"`}},
		"of a fleet":             {unknown, task(`"fleets":[{"project":null,"name":"a","new":1}]`), []string{`unknownFields configuration.fleets[0]."new"`}},
		"of an instance":         {unknown, task(`"instances":[{"fleet":"a","new":1}]`), []string{`unknownFields configuration.instances[0]."new"`}},
		"variables of a group":   {unknown, ofType("service", `"groups":[{"env":{"A":"1"}}]`), []string{"unknownFields configuration.groups[0].env"}},
		"empty in a group":       {unknown, ofType("service", `"groups":[{"env":{},"tags":{ },"volumes":[]},{"env":null,"volumes":null}]`), []string{}},
		"known elsewhere":        {unknown, task(`"resources":{"image":"x"}`), []string{"unknownFields configuration.resources.image"}},
		"unknown but empty":      {unknown, task(`"new":{"a":[0,"",{"b":false}]},"newer":null,"newest":[]`), []string{}},
		"unknown below known":    {unknown, task(`"schedule":{"cron":["* * * * *"],"new":"x"}`), []string{`unknownFields configuration.schedule."new"`}},
		"variables and tags":     {unknown, task(`"env":{"new":"1"},"tags":{"new":"1"}`), []string{}},
		"a key with odd letters": {unknown, task(`"a\n\u202e":1`), []string{`unknownFields configuration."a\n\u202e"`}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := decide(t, tc.spec, only(tc.controls))
			if diff := cmp.Diff(tc.want, fields(d.Reasons)); diff != "" {
				t.Errorf("reasons (-want +got):\n%s%s", diff, d.Message)
			}
			if open := decide(t, tc.spec); !open.Allowed {
				t.Errorf("refused without a profile that denies: %s", open.Message)
			}
			watched := only(tc.controls)
			audit(&watched.Spec)
			d = decide(t, tc.spec, watched)
			if diff := cmp.Diff(tc.want, fields(d.Audited)); diff != "" || !d.Allowed || d.Filled != nil {
				t.Errorf("audited (-want +got):\n%s", diff)
			}
		})
	}
}

// both are the controls of two.
func both(a, b v1alpha1.Controls) v1alpha1.Controls {
	a.ImportedFleets = b.ImportedFleets
	return a
}

func TestRegistries(t *testing.T) {
	allowed := registryList("ghcr.io/example", "docker.io/library", "registry.local:5000")
	tests := map[string]struct {
		configuration string
		want          string // the image, or "" when it is allowed
	}{
		"below":                   {`"image":"ghcr.io/example/train:1"`, ""},
		"below, by digest":        {`"image":"ghcr.io/example/a/b@sha256:` + strings.Repeat("a", 64) + `"`, ""},
		"below, by both":          {`"image":"ghcr.io/example/a:1@sha256:` + strings.Repeat("a", 64) + `"`, ""},
		"with a port":             {`"image":"registry.local:5000/a/b"`, ""},
		"official":                {`"image":"ubuntu"`, ""},
		"official with tag":       {`"image":"ubuntu:22.04"`, ""},
		"official, written out":   {`"image":"docker.io/library/ubuntu"`, ""},
		"official, halfway":       {`"image":"docker.io/ubuntu"`, ""},
		"official, by its alias":  {`"image":"index.docker.io/library/ubuntu"`, ""},
		"elsewhere":               {`"image":"quay.io/example/train"`, `image "quay.io/example/train" is not`},
		"another path":            {`"image":"ghcr.io/examples/train"`, `image "ghcr.io/examples/train" is not`},
		"the whole component":     {`"image":"ghcr.io/example"`, ""},
		"a beginning":             {`"image":"ghcr.io/exam/ple"`, `image "ghcr.io/exam/ple" is not`},
		"other host":              {`"image":"ghcr.io.evil.com/example/a"`, `image "ghcr.io.evil.com/example/a" is not`},
		"other port":              {`"image":"ghcr.io:8443/example/a"`, `image "ghcr.io:8443/example/a" is not`},
		"port left out":           {`"image":"registry.local/a"`, `image "registry.local/a" is not`},
		"no registry":             {`"image":"example/train"`, `image "example/train" is not`},
		"localhost":               {`"image":"localhost/example/train"`, `image "localhost/example/train" is not`},
		"up":                      {`"image":"ghcr.io/example/../evil/a"`, `image "ghcr.io/example/../evil/a" cannot be read as the name of one, and is not`},
		"nothing between":         {`"image":"ghcr.io/example//a"`, `image "ghcr.io/example//a" cannot be read as the name of one, and is not`},
		"empty":                   {`"image":""`, `image "" cannot be read as the name of one, and is not`},
		"capitals":                {`"image":"ghcr.io/Example/a"`, `image "ghcr.io/Example/a" cannot be read as the name of one, and is not`},
		"capitals, host":          {`"image":"GHCR.io/example/a"`, `image "GHCR.io/example/a" is not`},
		"space":                   {`"image":"ghcr.io/example/a "`, `image "ghcr.io/example/a " cannot be read as the name of one, and is not`},
		"userinfo":                {`"image":"ghcr.io/example@evil.com/a"`, `image "ghcr.io/example@evil.com/a" cannot be read as the name of one, and is not`},
		"scheme":                  {`"image":"docker://ghcr.io/example/a"`, `image "docker://ghcr.io/example/a" cannot be read as the name of one, and is not`},
		"control character":       {`"image":"ghcr.io/example/a\u0000\n"`, `image "ghcr.io/example/a\x00\n" cannot be read as the name of one, and is not`},
		"interpolation":           {`"image":"ghcr.io/example/${{ secrets.X }}"`, `image "ghcr.io/example/${{ secrets.X }}" cannot be read as the name of one, and is not`},
		"interpolation, all":      {`"image":"${{ secrets.X }}"`, `image "${{ secrets.X }}" cannot be read as the name of one, and is not`},
		"too long":                {`"image":"ghcr.io/example/` + strings.Repeat("a", 2000) + `"`, `image "ghcr.io/example/` + strings.Repeat("a", 39) + `…" cannot be read as the name of one, and is not`},
		"none":                    {`"image":null`, `dstack's image "docker.io/dstackai/base", which a run without image gets, is not`},
		"docker":                  {`"image":"ubuntu","docker":true`, `dstack's image "docker.io/dstackai/dind", which docker asks for, is not`},
		"docker alone":            {`"docker":true`, `dstack's image "docker.io/dstackai/dind", which docker asks for, is not`},
		"of a group":              {`"image":"ubuntu","groups":[{"nodes":1},{"nodes":1,"image":"quay.io/a"}]`, `image "quay.io/a" is not`},
		"of a group, older shape": {`"image":"ubuntu","replicas":[{"image":"quay.io/a"}]`, `image "quay.io/a" is not`},
		"of all groups":           {`"groups":[{"nodes":1,"image":"ubuntu"},{"nodes":1,"image":"ubuntu"}]`, ""},
		"of some groups":          {`"groups":[{"nodes":1,"image":"ubuntu"},{"nodes":1}]`, `dstack's image "docker.io/dstackai/base", which a run without image gets, is not`},
		"docker in a group":       {`"image":"ubuntu","replicas":[{"docker":true}]`, `dstack's image "docker.io/dstackai/dind", which docker asks for, is not`},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := decide(t, task(tc.configuration), only(allowed))
			if tc.want == "" {
				if !d.Allowed {
					t.Errorf("refused: %s", d.Message)
				}
				return
			}
			if len(d.Reasons) != 1 || d.Reasons[0].Control != "registries" {
				t.Fatalf("got %+v", d.Reasons)
			}
			remedy := ""
			switch {
			case strings.Contains(tc.want, "/dind"):
				remedy = "set docker to false and "
			case strings.Contains(tc.want, "/base"):
				remedy = "set image and "
			}
			want := tc.want + ` allowed in project "research-nlp": ` + remedy +
				`use only images of "docker.io/library", "ghcr.io/example", "registry.local:5000"`
			if got := d.Reasons[0].Message; got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
	if d := decide(t, task(`"docker":true`), only(registryList("docker.io/dstackai"))); !d.Allowed {
		t.Errorf("dstack's own image is refused: %s", d.Message)
	}
	if d := decide(t, task(""), only(registryList("docker.io"))); !d.Allowed {
		t.Errorf("dstack's own image is refused: %s", d.Message)
	}
}

// TestShapesOfPlacement: what dstack never sends is not understood, and so
// refused under every profile.
func TestShapesOfPlacement(t *testing.T) {
	const noName = "does not name a fleet; write NAME or PROJECT/NAME"
	tests := map[string]struct{ spec, field, message string }{
		"fleets a string":       {task(`"fleets":"a"`), "configuration.fleets", "is a string; write a list"},
		"fleets of the profile": {withProfile("", `,"fleets":{}`), "profile.fleets", "is an object; write a list"},
		"a fleet null":          {task(`"fleets":[null]`), "configuration.fleets[0]", "is null; write the name of a fleet"},
		"a fleet a number":      {task(`"fleets":[1]`), "configuration.fleets[0]", "is a number; write the name of a fleet"},
		"a fleet empty":         {task(`"fleets":[""]`), "configuration.fleets[0]", noName},
		"a fleet without name":  {task(`"fleets":[{"project":"a"}]`), "configuration.fleets[0]", noName},
		"a fleet without keys":  {task(`"fleets":[{}]`), "configuration.fleets[0]", noName},
		"project empty":         {task(`"fleets":["/a"]`), "configuration.fleets[0]", noName},
		"project empty, object": {task(`"fleets":[{"project":"","name":"a"}]`), "configuration.fleets[0]", noName},
		"name empty":            {task(`"fleets":["a/"]`), "configuration.fleets[0]", noName},
		"three parts":           {task(`"fleets":["a/b/c"]`), "configuration.fleets[0]", noName},
		"slash in the name":     {task(`"fleets":[{"project":null,"name":"a/b"}]`), "configuration.fleets[0]", noName},
		"slash in the project":  {task(`"fleets":[{"project":"a/b","name":"c"}]`), "configuration.fleets[0]", noName},
		"instance a number":     {task(`"instances":[1]`), "configuration.instances[0]", "is a number; write an object with fleet and instance"},
		"fleet of an instance":  {task(`"instances":[{"fleet":"a/b/c","instance":0}]`), "configuration.instances[0].fleet", noName},
		"backend a number":      {task(`"backends":[1]`), "configuration.backends[0]", "is a number; write the name of a backend"},
		"gateway a number":      {ofType("service", `"gateway":1`), "configuration.gateway", "is a number; write the name of a gateway, true or false"},
		"gateway without name":  {ofType("service", `"gateway":{"project":"a"}`), "configuration.gateway", "does not name a gateway; write NAME or PROJECT/NAME"},
		"gateway empty":         {ofType("service", `"gateway":""`), "configuration.gateway", "does not name a gateway; write NAME or PROJECT/NAME"},
		"image a number":        {task(`"image":1`), "configuration.image", "is a number; write the name of an image or null"},
		"dstack a string":       {task(`"dstack":"true"`), "configuration.dstack", "is a string; write true or false"},
		"tags a list":           {task(`"tags":["a"]`), "configuration.tags", "is a list; write an object"},
		"profile a list":        {`{"configuration":{"type":"task"},"profile":[]}`, "profile", "is a list; write an object or null"},
		"case in the profile":   {withProfile("", `,"Fleets":[]`), "profile.fleets", "is written in another case"},
		"case in a fleet":       {task(`"fleets":[{"name":"a","Project":"b"}]`), "configuration.fleets[0].project", "is written in another case"},
		"case in the resources": {task(`"resources":{"gpu":{"Docker":null}}`), "configuration.resources.gpu.docker", "is written in another case"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := decide(t, tc.spec)
			if len(d.Reasons) != 1 || d.Reasons[0].Control != policy.ControlSpec {
				t.Fatalf("got %+v, want one reason of the control %s", d.Reasons, policy.ControlSpec)
			}
			want := `this run is not understood and so not allowed in project "research-nlp": ` + tc.field + " " + tc.message
			if got := d.Reasons[0]; got.Field != tc.field || got.Message != want {
				t.Errorf("got  %s: %s\nwant %s: %s", got.Field, got.Message, tc.field, want)
			}
		})
	}
}
