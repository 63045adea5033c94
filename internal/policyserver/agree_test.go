package policyserver

import (
	"errors"
	"os"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/dstack-isolation/operator/config/crd"
	"github.com/dstack-isolation/operator/internal/objects"
)

// What a folder accepts an API server accepts, and the other way round, and
// both say the same of the same field.
func TestFolderAndAPIServerAgree(t *testing.T) {
	c, name := namespaced(t)
	reader, err := objects.NewReader(crd.FS)
	must(t, err)
	server := strings.Replace(strings.Replace(serverYAML, "%s", "main", 1), "namespace: dstack", "namespace: "+name.Namespace, 1)
	profile := strings.Replace(profileYAML, "namespace: dstack", "namespace: "+name.Namespace, 1)
	changes := map[string]struct {
		of, old, new string
		valid        bool
	}{
		"nothing":                    {profile, "level", "level", true},
		"a server":                   {server, "level", "level", true},
		"null for a default":         {server, "spec:", "spec:\n  serverDir: null", true},
		"null without default":       {profile, "spec:", "spec:\n  hint: null", true},
		"null for what is required":  {profile, "level: Restricted", "level: null", false},
		"empty controls":             {profile, "spec:", "spec:\n  controls: {}", true},
		"status":                     {profile, "spec:", "status: {observedGeneration: 3}\nspec:", true},
		"unknown field in status":    {profile, "spec:", "status: {observed: 3}\nspec:", false},
		"unknown field":              {profile, "spec:", "spec:\n  levle: x", false},
		"unknown field in metadata":  {profile, "metadata: {", "metadata: {lables: {}, ", false},
		"wrong type":                 {profile, "Restricted", "[]", false},
		"number for text":            {profile, "Restricted", "7", false},
		"yes for text":               {profile, "Restricted", "yes", false},
		"enum":                       {profile, "Restricted", "Strict", false},
		"pattern":                    {profile, "research-*", "a b", false},
		"too long":                   {profile, "research-*", strings.Repeat("x", 101), false},
		"as long as may be":          {profile, "research-*", strings.Repeat("x", 100), true},
		"duplicate in a set":         {profile, `["research-*"]`, `[a, a]`, false},
		"duplicate in a map":         {profile, "spec:", "spec:\n  exceptions: [{name: x, users: [a], controls: [privileged], reason: r}, {name: x, users: [a], controls: [privileged], reason: r}]", false},
		"time":                       {profile, "spec:", "spec:\n  exceptions: [{name: x, users: [a], controls: [privileged], reason: r, expiresAt: \"2026-12-31T23:59:59Z\"}]", true},
		"no time":                    {profile, "spec:", "spec:\n  exceptions: [{name: x, users: [a], controls: [privileged], reason: r, expiresAt: soon}]", false},
		"rule on a string":           {profile, "spec:", "spec:\n  hint: \"a\\tb\"", false},
		"rule on an object":          {profile, "spec:", "spec:\n  controls: {instanceVolumes: {mode: Denied, paths: [/a]}}", false},
		"rule on an item":            {profile, "spec:", "spec:\n  controls: {instanceVolumes: {mode: AllowedPaths, paths: [/a/../b]}}", false},
		"rule on a directory":        {server, "spec:", "spec:\n  serverDir: /a//b", false},
		"rule on the name":           {server, "name: main", "name: 1main", false},
		"bad name":                   {profile, "name: research", "name: Research", false},
		"bad label":                  {profile, "metadata: {", "metadata: {labels: {a: \"b c\"}, ", false},
		"minimum":                    {server, "spec:", "spec:\n  policyPlugin: {replicas: 0}", false},
		"quantity":                   {server, "spec:", "spec:\n  policyPlugin: {resources: {limits: {memory: 256Mi, cpu: 1}}}", true},
		"no quantity":                {server, "spec:", "spec:\n  policyPlugin: {resources: {limits: {memory: lots}}}", false},
		"missing":                    {server, "  workload: {kind: Deployment, name: dstack-server}\n", "", false},
		"several things at one time": {profile, "Restricted", "Strict\n  hint: \"" + strings.Repeat("x", 201) + "\"", false},
	}
	for name, tc := range changes {
		t.Run(name, func(t *testing.T) {
			changed := strings.ReplaceAll(tc.of, tc.old, tc.new)
			dir := newFolder(t, "object.yaml", changed)
			if tc.of == profile {
				dir.write(t, "server.yaml", server)
			}
			_, folderErr := reader.ReadFolder(os.DirFS(string(dir)))
			object := &unstructured.Unstructured{}
			must(t, yaml.Unmarshal([]byte(changed), &object.Object))
			object.SetGeneration(0)
			apiErr := c.Create(t.Context(), object, client.DryRunAll, client.FieldValidation("Strict"))
			if (folderErr == nil) != tc.valid || (apiErr == nil) != tc.valid {
				t.Fatalf("folder: %v\nAPI server: %v", folderErr, apiErr)
			}
			if !tc.valid && len(each(folderErr)) == 0 {
				t.Fatalf("the error names no field: %v", folderErr)
			}
			for _, wrong := range each(folderErr) {
				want := wrong.Field + ": " + wrong.Reason
				if strings.HasPrefix(wrong.Reason, "unknown field") {
					want = `unknown field "` + wrong.Field + `"`
				}
				if said := strings.Join(strings.Fields(apiErr.Error()), " "); !strings.Contains(said, want) {
					t.Errorf("the folder says   %s\nthe API server says %s", want, said)
				}
			}
		})
	}
}

func each(err error) []*objects.Error {
	joined, isJoined := err.(interface{ Unwrap() []error })
	if !isJoined {
		return nil
	}
	var all []*objects.Error
	for _, err := range joined.Unwrap() {
		var one *objects.Error
		if errors.As(err, &one) {
			all = append(all, one)
		}
	}
	return all
}
