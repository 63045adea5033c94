package policy_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
)

// TestObjectsWhereNoneIsKnown: what a later dstack puts into a field that holds a
// text today is found as a new field is, in each place where one can be.
func TestObjectsWhereNoneIsKnown(t *testing.T) {
	unknown := only(v1alpha1.Controls{UnknownFields: "DeniedIfSet"})
	tests := map[string]struct {
		spec string
		want []string
	}{
		"a text":                   {task(`"python":{"new_danger":"on"}`), []string{"unknownFields configuration.python"}},
		"empty":                    {task(`"python":{"new_danger":false,"more":[{"a":""}]}`), []string{}},
		"of the specification":     {`{"repo_id":{"new":1},"configuration":{"type":"task"}}`, []string{"unknownFields repo_id"}},
		"a number":                 {task(`"priority":{"new":1}`), []string{"unknownFields configuration.priority"}},
		"a list of texts":          {task(`"commands":["a",{"new":1}]`), []string{"unknownFields configuration.commands"}},
		"a list of lists":          {task(`"regions":[[{"new":1}]]`), []string{"unknownFields configuration.regions"}},
		"a brace in a text":        {task(`"commands":["a \\\" {\"b\": 1}","${{ secrets.X }}"]`), []string{}},
		"of the profile":           {withProfile("", `,"spot_policy":{"new":"x"}`), []string{"unknownFields profile.spot_policy"}},
		"below a known object":     {task(`"resources":{"gpu":{"vendor":{"new":1}}}`), []string{"unknownFields configuration.resources.gpu.vendor"}},
		"in a list of objects":     {task(`"files":[{"path":"a"},{"path":{"new":1}}]`), []string{"unknownFields configuration.files[1].path"}},
		"of a group":               {ofType("service", `"groups":[{"python":{"new":1}}]`), []string{"unknownFields configuration.groups[0].python"}},
		"of a volume":              {task(`"volumes":[{"name":"a","path":"/a","optional":{"new":1}}]`), []string{"unknownFields configuration.volumes[0].optional"}},
		"names of a volume":        {task(`"volumes":[{"name":["a",{"new":1}],"path":"/a"}]`), []string{"unknownFields configuration.volumes[0].name"}},
		"of an instance":           {task(`"instances":[{"fleet":"a","instance":{"new":1}}]`), []string{"unknownFields configuration.instances[0].instance"}},
		"a variable":               {task(`"env":{"A":"1","B":{"new":1}}`), []string{"unknownFields configuration.env"}},
		"a variable in a list":     {task(`"env":{"B":[{"new":1}]}`), []string{"unknownFields configuration.env"}},
		"a variable without value": {task(`"env":{"A":"${{ secrets.X }}","B":{"key":"B"},"C":{"key":"C","new":null}}`), []string{}},
		"more in such a variable":  {task(`"env":{"B":{"key":"B","new":1}}`), []string{"unknownFields configuration.env"}},
		"a tag":                    {task(`"tags":{"a":{"new":1}}`), []string{"unknownFields configuration.tags"}},
		"known objects": {
			withProfile(`"retry":{"on_events":["error"],"duration":1},"schedule":{"cron":["* * * * *"]},`+
				`"utilization_policy":{"min_gpu_utilization":1,"time_window":1},"registry_auth":{"username":"a","password":"b"},`+
				`"backend_options":[{"type":"vastai","min_score":1}]`, `,"instances":[{"fleet":{"project":null,"name":"a"},"instance":1}]`),
			[]string{},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := decide(t, tc.spec, unknown)
			if diff := cmp.Diff(tc.want, fields(d.Reasons)); diff != "" {
				t.Errorf("reasons (-want +got):\n%s%s", diff, d.Message)
			}
			if open := decide(t, tc.spec); !open.Allowed {
				t.Errorf("refused where fields may be unknown: %s", open.Message)
			}
		})
	}
}

// TestFieldsOfOtherKinds: what only another kind of run has is unknown in this
// one, wherever its type stands.
func TestFieldsOfOtherKinds(t *testing.T) {
	unknown := only(v1alpha1.Controls{UnknownFields: "DeniedIfSet"})
	const dev = "dev-environment"
	typed := func(before, kind string) string { return `{"configuration":{` + before + `,"type":"` + kind + `"}}` }
	tests := map[string]struct {
		spec string
		want []string
	}{
		"nodes in a development environment": {ofType(dev, `"nodes":2`), []string{"unknownFields configuration.nodes"}},
		"type last":                          {typed(`"nodes":2`, dev), []string{"unknownFields configuration.nodes"}},
		"with spaces":                        {typed(`"nodes" : 2`, dev), []string{"unknownFields configuration.nodes"}},
		"null":                               {typed(`"nodes":null,"groups":[],"commands":[""]`, dev), []string{}},
		"commands":                           {ofType(dev, `"commands":["a"]`), []string{"unknownFields configuration.commands"}},
		"port in a task":                     {task(`"port":{"local_port":null,"container_port":80}`), []string{"unknownFields configuration.port"}},
		"gateway in a task":                  {typed(`"gateway":true,"auth":true`, "task"), []string{"unknownFields configuration.auth", "unknownFields configuration.gateway"}},
		"ide in a task":                      {task(`"ide":"vscode"`), []string{"unknownFields configuration.ide"}},
		"nodes in a service":                 {ofType("service", `"nodes":1`), []string{"unknownFields configuration.nodes"}},
		"ports in a service":                 {ofType("service", `"ports":[{"container_port":1}]`), []string{"unknownFields configuration.ports"}},
		"groups":                             {ofType(dev, `"groups":[{"nodes":1,"commands":["a"]}]`), []string{"unknownFields configuration.groups"}},
		"replicas in a task":                 {task(`"replicas":{"min":1,"max":1}`), []string{"unknownFields configuration.replicas"}},
		"image in a group of a task":         {task(`"groups":[{"nodes":1,"image":"a"}]`), []string{"unknownFields configuration.groups[0].image"}},
		"nodes in a group of a service":      {ofType("service", `"groups":[{},{"nodes":1}]`), []string{"unknownFields configuration.groups[1].nodes"}},
		"the same in the older shape":        {ofType("service", `"replicas":[{"ports":[1],"count":{"min":1}}]`), []string{"unknownFields configuration.replicas[0].ports"}},
		"a task":                             {task(`"nodes":1,"ports":[{"container_port":1}],"commands":["a"],"groups":[{"name":"a","nodes":1,"ports":[1],"commands":["b"]}]`), []string{}},
		"a service": {
			ofType("service", `"port":{"container_port":1},"auth":true,"model":{"name":"a"},"replicas":{"min":1},"commands":["a"],`+
				`"groups":[{"image":"a","replicas":{"min":1},"spot_policy":"auto","router":{"type":"dynamo"}}]`),
			[]string{},
		},
		"a development environment": {ofType(dev, `"ide":"vscode","init":["a"],"ports":[{"container_port":1}],"inactivity_duration":1`), []string{}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := decide(t, tc.spec, unknown)
			if diff := cmp.Diff(tc.want, fields(d.Reasons)); diff != "" {
				t.Errorf("reasons (-want +got):\n%s%s", diff, d.Message)
			}
		})
	}
}
