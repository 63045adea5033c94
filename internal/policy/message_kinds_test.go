package policy_test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/policy"
)

// TestMessagesOfKinds is TestMessages for fleets, volumes and gateways.
func TestMessagesOfKinds(t *testing.T) {
	restricted := profile("research", v1alpha1.LevelRestricted, strict, hint("Ask #gpu-platform."))
	const aws = `"backends":["aws"]`
	tests := map[string]struct {
		kind dstack.ApplyKind
		spec string
		eff  *isolation.Effective
	}{
		"environment":        {kind: dstack.KindFleet, spec: fleet(aws + `,"env":{"LD_PRELOAD":"/x","DSTACK_DOCKER_PRIVILEGED":"1","http_proxy":"p"}`)},
		"environment-odd":    {kind: dstack.KindFleet, spec: fleet(aws + `,"env":{"A\nB":"x","c d":"y","":"z","E":"w"}`)},
		"environment-many":   {kind: dstack.KindFleet, spec: fleet(aws + `,"env":{` + strings.ReplaceAll(manyKeys(100), "null", `"x"`) + `}`)},
		"proxy-value":        {kind: dstack.KindFleet, spec: fleet(aws + `,"env":{"HTTPS_PROXY":"http://u:hunter2@p\"\nA=\"b"}`)},
		"proxy-unresolved":   {kind: dstack.KindFleet, spec: fleet(aws + `,"env":{"no_proxy":{"key":"no_proxy"}}`)},
		"ssh-fleet":          {kind: dstack.KindFleet, spec: fleet(sshConfig(""))},
		"blocks":             {kind: dstack.KindFleet, spec: fleet(aws + `,"blocks":"auto"`)},
		"blocks-of-a-host":   {kind: dstack.KindFleet, spec: fleet(sshConfig(`,{"hostname":"a","blocks":2}`))},
		"blocks-of-hosts":    {kind: dstack.KindFleet, spec: fleet(sshConfig(`,{"hostname":"a","blocks":2},{"hostname":"b","blocks":"auto"}`))},
		"unknown-in-hosts":   {kind: dstack.KindFleet, spec: fleet(sshConfig(`,{"hostname":"a","new":1},{"hostname":"b","proxy_jump":{"new":1}},{"hostname":"c","new":1},{"hostname":"d","new":1,"user":{"x":1}}`)), eff: effective(profile("p", v1alpha1.LevelBaseline))},
		"fleet-backend":      {kind: dstack.KindFleet, spec: fleet(`"backends":["vastai"]`)},
		"fleet-any-backend":  {kind: dstack.KindFleet, spec: fleet("")},
		"fleet-only-ssh":     {kind: dstack.KindFleet, spec: fleet(""), eff: effective(profile("p", v1alpha1.LevelOpen, allowedBackends("remote")))},
		"ssh-fleet-backend":  {kind: dstack.KindFleet, spec: fleet(sshConfig("")), eff: effective(profile("p", v1alpha1.LevelOpen, allowedBackends("aws", "gcp")))},
		"fleet-tags":         {kind: dstack.KindFleet, spec: fleetWithProfile(`"tags":{"a":"b"}`, aws+`,"tags":{"a":"b"}`)},
		"fleet-unknown":      {kind: dstack.KindFleet, spec: fleet(aws + `,"later":{"on":true}`)},
		"fleet-unknown-name": {kind: dstack.KindFleet, spec: fleet(aws + `,"a\u202e\n\"` + strings.Repeat("b", 100) + `":1`)},
		"fleet-privileged":   {kind: dstack.KindFleet, spec: `{"privileged":true,` + fleet(aws + `,"docker":true`)[1:]},
		"fleet-type":         {kind: dstack.KindFleet, spec: strings.Replace(fleet(aws), `"fleet"`, `"fleets"`, 1)},
		"fleet-everything": {kind: dstack.KindFleet, spec: `{"later":1,` + fleetWithProfile(`"tags":{"a":"b"}`,
			sshConfig(`,{"hostname":"a","blocks":2}`)+`,"backends":["lambda"],"env":{"A":"b"},"blocks":2,"privileged":true`)[1:]},
		"existing-volume":  {kind: dstack.KindVolume, spec: volume(`"backend":"aws","volume_id":"vol-1"`)},
		"existing-claim":   {kind: dstack.KindVolume, spec: volume(`"backend":"kubernetes","claim_name":"pvc"`), eff: effective(profile("p", v1alpha1.LevelRestricted))},
		"storage-class":    {kind: dstack.KindVolume, spec: volume(`"backend":"kubernetes","storage_class_name":"manual"`), eff: effective(profile("p", v1alpha1.LevelRestricted))},
		"storage-classes":  {kind: dstack.KindVolume, spec: volume(`"backend":"kubernetes","storage_class_name":""`), eff: effective(profile("p", v1alpha1.LevelRestricted, allowedClasses("fast", "slow")))},
		"volume-backend":   {kind: dstack.KindVolume, spec: volume(`"backend":"later\n"`)},
		"volume-nothing":   {kind: dstack.KindVolume, spec: volume(`"backend":"aws"`), eff: effective(profile("p", v1alpha1.LevelOpen, allowedBackends("aws")), profile("q", v1alpha1.LevelOpen, allowedBackends("gcp")))},
		"volume-tags":      {kind: dstack.KindVolume, spec: volume(`"backend":"aws","tags":{"a":"b"}`)},
		"gateway-backend":  {kind: dstack.KindGateway, spec: gateway(`"backend":"azure"`)},
		"gateway-tags":     {kind: dstack.KindGateway, spec: gateway(`"backend":"aws","tags":{"a":"b"}`)},
		"gateway-unknown":  {kind: dstack.KindGateway, spec: gateway(`"backend":"aws","certificate":{"type":"later","later":"x"}`)},
		"gateway-no-place": {kind: dstack.KindGateway, spec: gateway("")},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			if tc.eff == nil {
				tc.eff = effective(restricted)
			}
			req := &policy.Request{Kind: tc.kind, User: "ada", Project: "research-nlp", Spec: []byte(tc.spec)}
			d := policy.Decide(tc.eff, policy.Running{}, req, noon)
			checkConsistent(t, d)
			got := strings.Replace(d.Message, "rev="+tc.eff.Revision+"]", "rev=REVISION]", 1) + "\n"
			golden(t, filepath.Join("testdata", "messages", "kinds", name+".txt"), got)
		})
	}
}

// TestNoSecretsOfKinds: keys and values of variables are in no message.
func TestNoSecretsOfKinds(t *testing.T) {
	const secret = "hunter2"
	eff := effective(profile("research", v1alpha1.LevelRestricted, strict))
	key := func(value string) string { return `"ssh_config":{"hosts":["a"],"ssh_key":` + value + `}` }
	for name, spec := range map[string]string{
		"private key":      fleet(key(`{"private":"` + secret + `","public":"` + secret + `"}`)),
		"no object":        fleet(key(`"` + secret + `"`)),
		"twice":            fleet(key(`{"private":"` + secret + `","private":"` + secret + `"}`)),
		"below a key":      fleet(key(`{"private":{"privileged":"` + secret + `","` + secret + `":true}}`)),
		"unknown in a key": fleet(key(`{"later":"` + secret + `"}`)),
		"key of a host":    fleet(`"ssh_config":{"hosts":[{"hostname":"a","blocks":2,"ssh_key":{"private":"` + secret + `"},"proxy_jump":{"ssh_key":["` + secret + `"]}}]}`),
		"value":            fleet(`"env":{"A":"` + secret + `","HTTP_PROXY":"` + secret + `$"}`),
		"odd value":        fleet(`"env":{"A":["` + secret + `"]}`),
		"odd name":         fleet(`"env":{"PASSWORD=` + secret + `":{"key":"` + secret + `"}}`),
		"env a text":       fleet(`"env":"` + secret + `"`),
		"cut off":          fleet(key(`{"private":"` + secret)),
		"blocks":           fleet(`"blocks":"` + secret + `"`),
		"unknown field":    fleet(`"later":"` + secret + `"`),
	} {
		d := policy.Decide(eff, policy.Running{}, &policy.Request{Kind: dstack.KindFleet, User: "ada", Project: "research-nlp", Spec: []byte(spec)}, noon)
		if d.Allowed {
			t.Errorf("%s: allowed", name)
		}
		if text := fmt.Sprint(d); strings.Contains(text, secret) {
			t.Errorf("%s: the secret is in %s", name, text)
		}
	}
}
