package policy_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/policy"
)

// fleet, volume and gateway are specifications with more in their
// configuration.
func fleet(more string) string { return objectOf("fleet", more, `,"profile":{"name":"default"}`) }

func volume(more string) string { return objectOf("volume", more, "") }

func gateway(more string) string { return objectOf("gateway", more, "") }

func objectOf(kind, more, rest string) string {
	if more != "" {
		more = "," + more
	}
	return `{"configuration":{"type":"` + kind + `"` + more + `},"configuration_path":null` + rest + `}`
}

// fleetWithProfile is a fleet whose profile has more in it.
func fleetWithProfile(more, configuration string) string {
	return strings.Replace(fleet(configuration), `"name":"default"`, `"name":"default",`+more, 1)
}

func sshConfig(more string) string {
	return `"ssh_config":{"user":"ubuntu","hosts":["192.0.2.1"` + more + `]}`
}

func decideKind(t testing.TB, kind dstack.ApplyKind, spec string, profiles ...v1alpha1.IsolationProfile) policy.Decision {
	t.Helper()
	req := &policy.Request{Kind: kind, User: "ada", Project: "research-nlp", Spec: []byte(spec)}
	d := policy.Decide(effective(profiles...), policy.Running{NetworkMode: 3}, req, noon)
	checkConsistent(t, d)
	if string(req.Spec) != spec {
		t.Error("the specification was changed")
	}
	return d
}

// strict denies all that can be denied to fleets, volumes and gateways.
func strict(s *v1alpha1.IsolationProfileSpec) {
	s.Controls = &v1alpha1.Controls{
		Tags: v1alpha1.Denied, Backends: &v1alpha1.AllowedBackends{Allowed: []v1alpha1.BackendName{"aws", "remote", "gcp"}},
	}
}

func allowedBackends(names ...v1alpha1.BackendName) func(*v1alpha1.IsolationProfileSpec) {
	return controls(v1alpha1.Controls{Backends: &v1alpha1.AllowedBackends{Allowed: names}})
}

func allowedClasses(names ...v1alpha1.StorageClassName) func(*v1alpha1.IsolationProfileSpec) {
	return controls(v1alpha1.Controls{ExistingVolumes: v1alpha1.ExistingVolumesAllowedStorageClasses, StorageClasses: names})
}

// TestKindsDenied runs under Restricted with tags denied and a list of backends.
func TestKindsDenied(t *testing.T) {
	const aws = `"backends":["aws"]`
	tests := map[string]struct {
		kind dstack.ApplyKind
		spec string
		want []string
	}{
		"nothing special": {dstack.KindFleet, fleet(aws + `,"nodes":{"min":0,"max":2},"env":{},"tags":null,"blocks":1`), []string{}},
		"all empty":       {dstack.KindFleet, fleet(aws + `,"env":null,"tags":{},"blocks":null,"ssh_config":null,"later":{"a":[0,false,""]}`), []string{}},

		"environment":           {dstack.KindFleet, fleet(aws + `,"env":{"DSTACK_DOCKER_PRIVILEGED":"0"}`), []string{"fleetEnvironment configuration.env"}},
		"several variables":     {dstack.KindFleet, fleet(aws + `,"env":{"LD_PRELOAD":"/x","A":""}`), []string{"fleetEnvironment configuration.env"}},
		"proxies":               {dstack.KindFleet, fleet(aws + `,"env":{"HTTP_PROXY":"http://p:1","https_proxy":"http://u:p@p:1/?a=b&c='%20","NO_PROXY":".a,b c"}`), []string{}},
		"proxy in mixed case":   {dstack.KindFleet, fleet(aws + `,"env":{"Http_Proxy":"x"}`), []string{"fleetEnvironment configuration.env"}},
		"other proxy":           {dstack.KindFleet, fleet(aws + `,"env":{"ALL_PROXY":"x"}`), []string{"fleetEnvironment configuration.env"}},
		"proxy with a space":    {dstack.KindFleet, fleet(aws + `,"env":{"HTTP_PROXY ":"x"}`), []string{"fleetEnvironment configuration.env"}},
		"long s in the name":    {dstack.KindFleet, fleet(aws + `,"env":{"http\u017f_proxy":"x"}`), []string{"fleetEnvironment configuration.env"}},
		"unresolved proxy":      {dstack.KindFleet, fleet(aws + `,"env":{"HTTP_PROXY":{"key":"HTTP_PROXY"}}`), []string{"fleetEnvironment configuration.env.HTTP_PROXY"}},
		"unresolved variable":   {dstack.KindFleet, fleet(aws + `,"env":{"A":{"key":"A"}}`), []string{"fleetEnvironment configuration.env"}},
		"names of no matter":    {dstack.KindFleet, fleet(aws + `,"env":{"privileged":"1","Docker":"1","instance_path":"/"}`), []string{"fleetEnvironment configuration.env"}},
		"environment and hosts": {dstack.KindFleet, fleet(sshConfig("") + `,"env":{"A":"b"}`), []string{"fleetEnvironment configuration.env", "sshFleets configuration.ssh_config"}},

		"hosts by SSH":    {dstack.KindFleet, fleet(sshConfig("")), []string{"sshFleets configuration.ssh_config"}},
		"SSH, but empty":  {dstack.KindFleet, fleet(`"ssh_config":{}`), []string{"sshFleets configuration.ssh_config"}},
		"SSH and a cloud": {dstack.KindFleet, fleet(sshConfig("") + `,"nodes":{"min":1}`), []string{"sshFleets configuration.ssh_config"}},

		"blocks":          {dstack.KindFleet, fleet(aws + `,"blocks":2`), []string{"sharedInstances configuration.blocks"}},
		"automatic":       {dstack.KindFleet, fleet(aws + `,"blocks":"auto"`), []string{"sharedInstances configuration.blocks"}},
		"with an escape":  {dstack.KindFleet, fleet(aws + `,"blocks":"\u0061uto"`), []string{"sharedInstances configuration.blocks"}},
		"blocks of hosts": {dstack.KindFleet, fleet(sshConfig(`,{"hostname":"a","blocks":1},{"hostname":"b","blocks":"auto"},{"hostname":"c","blocks":null},{"hostname":"d","blocks":8}`)), []string{"sharedInstances configuration.ssh_config.hosts[2].blocks", "sshFleets configuration.ssh_config"}},

		"other backend":         {dstack.KindFleet, fleet(`"backends":["aws","kubernetes","AWS"]`), []string{"backends configuration.backends[1]", "backends configuration.backends[2]"}},
		"any backend":           {dstack.KindFleet, fleet(""), []string{"backends configuration.backends"}},
		"null for backends":     {dstack.KindFleet, fleetWithProfile(`"backends":null`, `"backends":null`), []string{"backends configuration.backends"}},
		"no backend":            {dstack.KindFleet, fleetWithProfile(aws, `"backends":[]`), []string{"backends configuration.backends"}},
		"profile's backend":     {dstack.KindFleet, fleetWithProfile(`"backends":["gcp"]`, `"backends":null`), []string{}},
		"profile's other":       {dstack.KindFleet, fleetWithProfile(`"backends":["lambda"]`, ""), []string{"backends profile.backends[0]"}},
		"profile's no matter":   {dstack.KindFleet, fleetWithProfile(`"backends":["lambda"]`, aws), []string{}},
		"profile cannot loosen": {dstack.KindFleet, fleetWithProfile(aws, `"backends":["lambda"]`), []string{"backends configuration.backends[0]"}},

		"tags":              {dstack.KindFleet, fleet(aws + `,"tags":{"privileged":"true"}`), []string{"tags configuration.tags"}},
		"tags of a profile": {dstack.KindFleet, fleetWithProfile(`"tags":{"a":"b"}`, aws), []string{"tags profile.tags"}},
		"no tags":           {dstack.KindFleet, fleetWithProfile(`"tags":{ }`, aws+`,"tags":{}`), []string{}},

		"unknown field":           {dstack.KindFleet, fleet(aws + `,"later":true`), []string{`unknownFields configuration."later"`}},
		"unknown in spec":         {dstack.KindFleet, `{"later":1,` + fleet(aws)[1:], []string{`unknownFields "later"`}},
		"unknown in the profile":  {dstack.KindFleet, fleetWithProfile(`"later":{"a":1}`, aws), []string{`unknownFields profile."later"`}},
		"unknown in nodes":        {dstack.KindFleet, fleet(aws + `,"nodes":{"min":1,"later":1}`), []string{`unknownFields configuration.nodes."later"`}},
		"unknown in resources":    {dstack.KindFleet, fleet(aws + `,"resources":{"gpu":{"count":{"min":1,"later":1}}}`), []string{`unknownFields configuration.resources.gpu.count."later"`}},
		"unknown in the options":  {dstack.KindFleet, fleet(aws + `,"backend_options":[{"type":"vastai"},{"type":"x","later":"y"}]`), []string{`unknownFields configuration.backend_options[1]."later"`}},
		"unknown in ssh_config":   {dstack.KindFleet, fleet(`"ssh_config":{"later":"x"}`), []string{"sshFleets configuration.ssh_config", `unknownFields configuration.ssh_config."later"`}},
		"unknown in a host":       {dstack.KindFleet, fleet(sshConfig(`,{"hostname":"a","later":1}`)), []string{"sshFleets configuration.ssh_config", `unknownFields configuration.ssh_config.hosts[1]."later"`}},
		"unknown in a key":        {dstack.KindFleet, fleet(sshConfig(`,{"hostname":"a","proxy_jump":{"ssh_key":{"later":"x"}}}`)), []string{"sshFleets configuration.ssh_config", `unknownFields configuration.ssh_config.hosts[1].proxy_jump.ssh_key."later"`}},
		"known, but elsewhere":    {dstack.KindFleet, fleet(aws + `,"volume_id":"x"`), []string{"unknownFields configuration.volume_id"}},
		"object in a text":        {dstack.KindFleet, fleet(aws + `,"reservation":{"later":1},"regions":["{",[{"later":2}],{"a":0}]`), []string{"unknownFields configuration.regions", "unknownFields configuration.reservation"}},
		"unknown and empty":       {dstack.KindFleet, fleet(sshConfig(`,{"hostname":"a","later":{"a":[null,0]}}`)), []string{"sshFleets configuration.ssh_config"}},
		"privileged":              {dstack.KindFleet, fleet(aws + `,"privileged":true`), []string{"privileged configuration.privileged", "unknownFields configuration.privileged"}},
		"not privileged":          {dstack.KindFleet, fleet(aws + `,"privileged":false,"docker":null`), []string{}},
		"privileged on top":       {dstack.KindFleet, `{"docker":1,` + fleet(aws)[1:], []string{"privileged docker", "unknownFields docker"}},
		"privileged in a host":    {dstack.KindFleet, fleet(sshConfig(`,{"hostname":"a","docker":"yes"}`)), []string{"privileged configuration.ssh_config.hosts[1].docker", "sshFleets configuration.ssh_config", "unknownFields configuration.ssh_config.hosts[1].docker"}},
		"privileged, hidden":      {dstack.KindFleet, fleet(aws + `,"placement":[{"x":{"privilege\u0064":true}}]`), []string{"privileged configuration.placement.privileged", "unknownFields configuration.placement"}},
		"privileged, unknown":     {dstack.KindFleet, fleet(aws + `,"later":[{"privileged":true}]`), []string{`privileged configuration."later".privileged`, `unknownFields configuration."later"`}},
		"privileged in a profile": {dstack.KindFleet, fleetWithProfile(`"schedule":{"cron":[],"privileged":{}}`, aws), []string{"privileged profile.schedule.privileged"}},

		"new volume":            {dstack.KindVolume, volume(`"backend":"aws","size":100.0,"volume_id":null,"claim_name":null`), []string{}},
		"existing disk":         {dstack.KindVolume, volume(`"backend":"gcp","volume_id":"vol-1"`), []string{"existingVolumes configuration.volume_id"}},
		"existing without name": {dstack.KindVolume, volume(`"backend":"aws","volume_id":""`), []string{"existingVolumes configuration.volume_id"}},
		"existing claim":        {dstack.KindVolume, volume(`"backend":"kubernetes","claim_name":"pvc"`), []string{"backends configuration.backend", "existingVolumes configuration.claim_name"}},
		"both":                  {dstack.KindVolume, volume(`"backend":"aws","claim_name":"pvc","volume_id":"x"`), []string{"existingVolumes configuration.claim_name", "existingVolumes configuration.volume_id"}},
		"storage class":         {dstack.KindVolume, volume(`"backend":"kubernetes","storage_class_name":"manual"`), []string{"backends configuration.backend", "existingVolumes configuration.storage_class_name"}},
		"empty storage class":   {dstack.KindVolume, volume(`"backend":"aws","storage_class_name":""`), []string{"existingVolumes configuration.storage_class_name"}},
		"no storage class":      {dstack.KindVolume, volume(`"backend":"aws","storage_class_name":null`), []string{}},
		"later backend":         {dstack.KindVolume, volume(`"backend":"later"`), []string{"backends configuration.backend", "existingVolumes configuration.backend"}},
		"volume's tags":         {dstack.KindVolume, volume(`"backend":"aws","tags":{"a":"b"}`), []string{"tags configuration.tags"}},
		"volume's unknown":      {dstack.KindVolume, volume(`"backend":"aws","disk":"x"`), []string{"unknownFields configuration.disk"}},
		"volume, privileged":    {dstack.KindVolume, volume(`"backend":"aws","access_modes":[{"privileged":true}]`), []string{"privileged configuration.access_modes.privileged", "unknownFields configuration.access_modes"}},

		"gateway":             {dstack.KindGateway, gateway(`"backend":"aws","region":"r","public_ip":true,"certificate":{"type":"lets-encrypt"},"tags":null`), []string{}},
		"gateway's backend":   {dstack.KindGateway, gateway(`"backend":"azure"`), []string{"backends configuration.backend"}},
		"gateway's tags":      {dstack.KindGateway, gateway(`"backend":"gcp","tags":{"a":"b"}`), []string{"tags configuration.tags"}},
		"unknown certificate": {dstack.KindGateway, gateway(`"backend":"gcp","certificate":{"type":"later","command":"x"}`), []string{`unknownFields configuration.certificate."command"`}},
		"unknown on top":      {dstack.KindGateway, `{"profile":{"a":1},` + gateway(`"backend":"gcp"`)[1:], []string{"unknownFields profile"}},
		"gateway, docker":     {dstack.KindGateway, gateway(`"backend":"aws","load_balancer":{"type":"alb","docker":true}`), []string{"privileged configuration.load_balancer.docker", "unknownFields configuration.load_balancer.docker"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := decideKind(t, tc.kind, tc.spec, profile("research", v1alpha1.LevelRestricted, strict))
			if diff := cmp.Diff(tc.want, fields(d.Reasons)); diff != "" {
				t.Errorf("reasons (-want +got):\n%s%s", diff, d.Message)
			}
			if open := decideKind(t, tc.kind, tc.spec); !open.Allowed {
				t.Errorf("refused without a profile that denies: %s", open.Message)
			}
		})
	}
}

// TestKindsNotUnderstood: no level lets them pass.
func TestKindsNotUnderstood(t *testing.T) {
	tests := map[string]struct {
		kind           dstack.ApplyKind
		spec           string
		field, message string
	}{
		"no configuration":     {dstack.KindFleet, `{"profile":{}}`, "configuration", "is missing"},
		"configuration null":   {dstack.KindVolume, `{"configuration":null}`, "configuration", "is null; write an object"},
		"configuration a list": {dstack.KindGateway, `{"configuration":[]}`, "configuration", "is a list; write an object"},
		"no type":              {dstack.KindFleet, `{"configuration":{}}`, "configuration.type", "is missing; it is fleet"},
		"type null":            {dstack.KindFleet, `{"configuration":{"type":null}}`, "configuration.type", "is null; write fleet"},
		"type of a volume":     {dstack.KindVolume, `{"configuration":{"type":"fleet","backend":"aws"}}`, "configuration.type", `is "fleet", which is not known to this release; write volume`},
		"type of a gateway":    {dstack.KindGateway, `{"configuration":{"type":"Gateway","backend":"aws"}}`, "configuration.type", `is "Gateway", which is not known to this release; write gateway`},
		"in another case":      {dstack.KindFleet, fleet(`"Blocks":null`), "configuration.blocks", "is written in another case"},
		"another case below":   {dstack.KindFleet, fleet(sshConfig(`,{"hostname":"a","bloc\u212as":null}`)), "configuration.ssh_config.hosts[1].blocks", "is written in another case"},
		"another case on top":  {dstack.KindFleet, fleet("")[:len(fleet(""))-1] + `,"PROFILE":null}`, "profile", "is written in another case"},

		"blocks 0":           {dstack.KindFleet, fleet(`"blocks":0`), "configuration.blocks", "is not a whole number from 1"},
		"blocks a fraction":  {dstack.KindFleet, fleet(`"blocks":1.0`), "configuration.blocks", "is not a whole number from 1"},
		"blocks a boolean":   {dstack.KindFleet, fleet(`"blocks":true`), "configuration.blocks", "is a boolean; write a whole number or auto"},
		"blocks a text":      {dstack.KindFleet, fleet(`"blocks":"1"`), "configuration.blocks", "is a string; write a whole number or auto"},
		"blocks an object":   {dstack.KindFleet, fleet(sshConfig(`,{"hostname":"a","blocks":{}}`)), "configuration.ssh_config.hosts[1].blocks", "is an object; write a whole number or auto"},
		"env a list":         {dstack.KindFleet, fleet(`"env":["A=b"]`), "configuration.env", "is a list; write an object"},
		"env with a number":  {dstack.KindFleet, fleet(`"env":{"A":1}`), "configuration.env", "has a value that is a number; write strings"},
		"env with null":      {dstack.KindFleet, fleet(`"env":{"HTTP_PROXY":null}`), "configuration.env", "has a value that is null; write strings"},
		"ssh_config a text":  {dstack.KindFleet, fleet(`"ssh_config":"hosts"`), "configuration.ssh_config", "is a string; write an object"},
		"hosts an object":    {dstack.KindFleet, fleet(`"ssh_config":{"hosts":{}}`), "configuration.ssh_config.hosts", "is an object; write a list"},
		"host a number":      {dstack.KindFleet, fleet(sshConfig(`,1`)), "configuration.ssh_config.hosts[1]", "is a number; write a hostname or an object with one"},
		"backends a text":    {dstack.KindFleet, fleet(`"backends":"aws"`), "configuration.backends", "is a string; write a list"},
		"backend a number":   {dstack.KindFleet, fleetWithProfile(`"backends":[1]`, ""), "profile.backends[0]", "is a number; write the name of a backend"},
		"tags a list":        {dstack.KindFleet, fleet(`"tags":["a"]`), "configuration.tags", "is a list; write an object"},
		"profile a list":     {dstack.KindFleet, `{"configuration":{"type":"fleet"},"profile":[]}`, "profile", "is a list; write an object"},
		"too many hosts":     {dstack.KindFleet, fleet(sshConfig(strings.Repeat(`,"a"`, 4096))), "configuration.ssh_config.hosts", "has more than 4096 entries"},
		"too many backends":  {dstack.KindFleet, fleet(`"backends":[` + strings.Repeat(`"aws",`, 256) + `"aws"]`), "configuration.backends", "has more than 256 entries"},
		"instance path":      {dstack.KindFleet, fleet(`"instance_path":null`), "configuration.instance_path", "is in a place that is not known to this release; remove it"},
		"no backend":         {dstack.KindVolume, volume(""), "configuration.backend", "is missing; write the name of a backend"},
		"backend null":       {dstack.KindVolume, volume(`"backend":null`), "configuration.backend", "is null; write the name of a backend"},
		"backends of a kind": {dstack.KindGateway, gateway(`"backend":["aws"]`), "configuration.backend", "is a list; write the name of a backend"},
		"a class of numbers": {dstack.KindVolume, volume(`"backend":"aws","storage_class_name":1`), "configuration.storage_class_name", "is a number; write a name or null"},
		"volume_id a list":   {dstack.KindVolume, volume(`"backend":"aws","volume_id":[]`), "configuration.volume_id", "is a list; write a name or null"},
		"claim an object":    {dstack.KindVolume, volume(`"backend":"aws","claim_name":{}`), "configuration.claim_name", "is an object; write a name or null"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			d := decideKind(t, tc.kind, tc.spec)
			if len(d.Reasons) != 1 || d.Reasons[0].Control != policy.ControlSpec {
				t.Fatalf("got %+v, want one reason of the control %s", d.Reasons, policy.ControlSpec)
			}
			want := fmt.Sprintf(`this %s is not understood and so not allowed in project "research-nlp": %s %s`, tc.kind, tc.field, tc.message)
			if got := d.Reasons[0]; got.Field != tc.field || got.Message != want {
				t.Errorf("got  %s: %s\nwant %s: %s", got.Field, got.Message, tc.field, want)
			}
		})
	}
}

// TestWrongCountsAsSet: what is not understood is also what it may be.
func TestWrongCountsAsSet(t *testing.T) {
	for name, tc := range map[string]struct {
		kind    dstack.ApplyKind
		spec    string
		control isolation.Control
	}{
		"blocks true":     {dstack.KindFleet, fleet(`"blocks":true`), isolation.SharedInstances},
		"blocks 0":        {dstack.KindFleet, fleet(`"blocks":0`), isolation.SharedInstances},
		"ssh_config true": {dstack.KindFleet, fleet(`"ssh_config":true`), isolation.SSHFleets},
		"variable":        {dstack.KindFleet, fleet(`"env":{"A":1}`), isolation.FleetEnvironment},
		"storage class 0": {dstack.KindVolume, volume(`"backend":"kubernetes","storage_class_name":0`), isolation.ExistingVolumes},
		"volume_id false": {dstack.KindVolume, volume(`"backend":"aws","volume_id":false`), isolation.ExistingVolumes},
	} {
		d := decideKind(t, tc.kind, tc.spec, profile("research", v1alpha1.LevelRestricted))
		if diff := cmp.Diff([]string{policy.ControlSpec, string(tc.control.Name())}, controlsOf(d.Reasons)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestProxyValues: values stand between double quotes in a file of systemd's.
func TestProxyValues(t *testing.T) {
	for value, allowed := range map[string]bool{
		"": true, "http://proxy.example:3128": true, "localhost,10.0.0.0/8,.example": true, "a b 'c' #d ;e %20 é": true,
		`a"b`: false, `a\`: false, "a`b`": false, "$A": false, "a\nB=c": false, "a\rb": false, "a\x00": false, "a\tb": false, "a\u0085b": false,
	} {
		spec := fleet(`"env":{"no_proxy":` + quoteJSON(t, value) + `}`)
		if d := decideKind(t, dstack.KindFleet, spec, profile("research", v1alpha1.LevelRestricted)); d.Allowed != allowed {
			t.Errorf("%q: allowed is %t", value, d.Allowed)
		}
	}
}

// TestBackendsOfFleets: an SSH fleet's backend is remote, whatever it names.
func TestBackendsOfFleets(t *testing.T) {
	onlyRemote, onlyAWS := allowedBackends("remote"), allowedBackends("aws")
	tests := map[string]struct {
		spec     string
		profiles []func(*v1alpha1.IsolationProfileSpec)
		want     []string
	}{
		"SSH where remote is allowed":   {fleet(sshConfig("")), []func(*v1alpha1.IsolationProfileSpec){onlyRemote}, []string{}},
		"SSH where it is not":           {fleet(sshConfig("")), []func(*v1alpha1.IsolationProfileSpec){onlyAWS}, []string{"backends configuration.ssh_config"}},
		"SSH that names another":        {fleet(sshConfig("") + `,"backends":["aws"]`), []func(*v1alpha1.IsolationProfileSpec){onlyAWS}, []string{"backends configuration.ssh_config"}},
		"SSH and a cloud":               {fleet(sshConfig("") + `,"backends":["aws"]`), []func(*v1alpha1.IsolationProfileSpec){onlyRemote}, []string{"backends configuration.backends[0]"}},
		"cloud where remote is allowed": {fleet(""), []func(*v1alpha1.IsolationProfileSpec){onlyRemote}, []string{"backends configuration.backends"}},
		"nothing in common":             {fleet(`"backends":["aws"]`), []func(*v1alpha1.IsolationProfileSpec){onlyAWS, onlyRemote}, []string{"backends configuration.backends[0]"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var profiles []v1alpha1.IsolationProfile
			for i, change := range tc.profiles {
				profiles = append(profiles, profile(fmt.Sprintf("p%d", i), v1alpha1.LevelOpen, change))
			}
			d := decideKind(t, dstack.KindFleet, tc.spec, profiles...)
			if diff := cmp.Diff(tc.want, fields(d.Reasons)); diff != "" {
				t.Errorf("reasons (-want +got):\n%s%s", diff, d.Message)
			}
		})
	}
}

// TestShapes: nothing that the models of a release can hold is unknown here.
func TestShapes(t *testing.T) {
	files, err := filepath.Glob("testdata/shapes/*.json")
	if err != nil || len(files) < 3 {
		t.Fatalf("found %q: %v", files, err)
	}
	open := profile("research", v1alpha1.LevelOpen, controls(v1alpha1.Controls{UnknownFields: v1alpha1.UnknownFieldsDeniedIfSet}))
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var shapes map[string]json.RawMessage
		if err := json.Unmarshal(data, &shapes); err != nil {
			t.Fatal(err)
		}
		for name, spec := range shapes {
			kind, _, _ := strings.Cut(name, "/")
			if d := decideKind(t, dstack.ApplyKind(kind), string(spec), open); !d.Allowed {
				t.Errorf("%s, %s: %s", file, name, d.Message)
			}
		}
	}
}

// TestManyHosts: a fleet may have more hosts than there are reasons, and what is
// wrong with many is one reason.
func TestManyHosts(t *testing.T) {
	hosts := strings.Repeat(`,{"hostname":"a","blocks":2}`, 1000)
	if d := decideKind(t, dstack.KindFleet, fleet(sshConfig(hosts))); !d.Allowed {
		t.Errorf("refused: %.300s", d.Message)
	}
	restricted := profile("research", v1alpha1.LevelRestricted)
	d := decideKind(t, dstack.KindFleet, fleet(sshConfig(hosts)+`,"blocks":2`), restricted)
	want := []string{"sharedInstances configuration.blocks", "sshFleets configuration.ssh_config"}
	if diff := cmp.Diff(want, fields(d.Reasons)); diff != "" {
		t.Errorf("reasons (-want +got):\n%s", diff)
	}
	const all = "set blocks to 1 in configuration and configuration.ssh_config.hosts[1] and 999 more hosts (profile"
	if !strings.Contains(d.Message, all) {
		t.Errorf("not in the message: %s\n%s", all, d.Message)
	}
	other := decideKind(t, dstack.KindFleet, fleet(`"blocks":2,`+sshConfig(hosts)), restricted)
	if diff := cmp.Diff(d, other); diff != "" {
		t.Errorf("the order of keys matters:\n%s", diff)
	}
}

// judgedOfKinds are the controls that refuse a fleet, a volume or a gateway with
// everything in it that can be refused.
func judgedOfKinds() map[string]bool {
	eff := effective(profile("research", v1alpha1.LevelRestricted, strict))
	got := make(map[string]bool)
	for kind, spec := range map[dstack.ApplyKind]string{
		dstack.KindFleet:   fleet(sshConfig("") + `,"blocks":2,"env":{"A":"b"}`),
		dstack.KindVolume:  volume(`"backend":"azure","volume_id":"x","tags":{"a":"b"}`),
		dstack.KindGateway: gateway(`"backend":"azure","later":1,"privileged":true`),
	} {
		req := &policy.Request{Kind: kind, User: "ada", Project: "research-nlp", Spec: []byte(spec)}
		for _, reason := range policy.Decide(eff, policy.Running{}, req, noon).Reasons {
			got[reason.Control] = true
		}
	}
	return got
}

// TestEveryControlOfKindsIsJudged: see TestEveryControlIsJudged.
func TestEveryControlOfKindsIsJudged(t *testing.T) {
	want := []string{
		"backends", "existingVolumes", "fleetEnvironment", "privileged", "sharedInstances", "sshFleets", "tags", "unknownFields",
	}
	if diff := cmp.Diff(want, sortedKeys(judgedOfKinds())); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
