package policy_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/policy"
)

// TestMessagesOfRuns holds the refusal of each control to the letter.
func TestMessagesOfRuns(t *testing.T) {
	denied := v1alpha1.Controls{
		ServiceRouters: "Denied", ImportedFleets: "Denied", ServerAccess: "Denied", ServicesWithoutGateway: "Denied",
		Tags: "Denied", UnknownFields: "DeniedIfSet", ImportedGateways: "Denied",
	}
	manyFleets := make([]v1alpha1.FleetName, 64)
	for i := range manyFleets {
		manyFleets[i] = v1alpha1.FleetName("a-fleet-with-a-long-name-" + strings.Repeat("x", i+1))
	}
	tests := map[string]struct {
		controls v1alpha1.Controls
		spec     string
	}{
		"router":                 {denied, ofType("service", `"groups":[{},{"router":{"type":"sglang"}}]`)},
		"router-of-the-service":  {denied, ofType("service", `"router":{"type":"sglang"}`)},
		"imported-fleet":         {denied, task(`"fleets":[{"project":"other","name":"gpu"}]`)},
		"imported-instance":      {denied, withProfile("", `,"instances":[{"fleet":"other/gpu","instance":0}]`)},
		"server-access":          {denied, task(`"dstack":true`)},
		"no-gateway":             {denied, ofType("service", `"gateway":false`)},
		"imported-gateway":       {denied, ofType("service", `"gateway":{"project":"other","name":"gw"}`)},
		"service":                {v1alpha1.Controls{Services: "Denied"}, ofType("service", "")},
		"tags":                   {denied, task(`"tags":{"app":"web"}`)},
		"tags-of-the-profile":    {denied, withProfile("", `,"tags":{"app":"web"}`)},
		"fleet":                  {fleetList("a100", "other/h200"), task(`"fleets":["b200"]`)},
		"fleet-odd-name":         {fleetList("a100"), task(`"fleets":[{"project":"a\n","name":"\u202e\u0000` + strings.Repeat("x", 100) + `"}]`)},
		"fleet-of-many":          {fleetList(manyFleets...), task(`"fleets":["b200"]`)},
		"fleet-but-imported":     {both(fleetList("a100", "h200", "other/h200"), denied), task(`"fleets":["b200"]`)},
		"fleet-all-imported":     {both(fleetList("other/h200"), denied), task(`"fleets":["b200"]`)},
		"fleet-of-none":          {fleetList(), task(`"fleets":["b200"]`)},
		"no-fleet-of-none":       {fleetList(), task("")},
		"no-fleet-but-imported":  {both(fleetList("other/h200"), denied), task("")},
		"instance-by-name":       {fleetList("a100"), task(`"instances":[{"hostname":"10.0.0.1"}]`)},
		"instance-of-a-fleet":    {fleetList("a100"), task(`"instances":[{"fleet":"b200","instance":1}]`)},
		"backend":                {backendList("aws", "gcp"), task(`"backends":["aws","kubernetes"]`)},
		"no-backend":             {backendList("aws", "gcp"), task("")},
		"no-backend-of-none":     {backendList(), task("")},
		"image":                  {registryList("ghcr.io/example", "docker.io/library"), task(`"image":"quay.io/x/y:1"`)},
		"image-not-readable":     {registryList("ghcr.io/example"), task(`"image":"ghcr.io/${{ secrets.X }}"`)},
		"image-left-out":         {registryList("ghcr.io/example"), task("")},
		"image-of-docker":        {registryList("ghcr.io/example"), task(`"docker":true`)},
		"unknown-field":          {denied, ofType("service", `"groups":[{"resources":{"gpu":{"new":1}}}]`)},
		"unknown-object":         {denied, task(`"python":{"new_danger":"on"}`)},
		"field-of-another-kind":  {denied, ofType("dev-environment", `"nodes":2`)},
		"unknown-field-odd-name": {denied, task(`"a\n` + strings.Repeat("x", 100) + `":1`)},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := only(tc.controls)
			hint("Ask #gpu-platform.")(&p.Spec)
			eff := effective(p)
			d := policy.Decide(eff, policy.Running{NetworkMode: 3}, runRequest(tc.spec), noon)
			checkConsistent(t, d)
			if d.Allowed {
				t.Fatal("allowed")
			}
			got := strings.Replace(d.Message, "rev="+eff.Revision+"]", "rev=REVISION]", 1) + "\n"
			golden(t, filepath.Join("testdata", "messages", "run-"+name+".txt"), got)
		})
	}
}
