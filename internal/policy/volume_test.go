package policy_test

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
)

// TestStorageClasses: a list allows its classes to new claims, and nothing else
// that exists already; of several lists what all have.
func TestStorageClasses(t *testing.T) {
	const kubernetes = `"backend":"kubernetes"`
	class := func(name string) string { return kubernetes + `,"storage_class_name":"` + name + `"` }
	some := allowedClasses("fast", "slow")
	type profiles = []func(*v1alpha1.IsolationProfileSpec)
	tests := map[string]struct {
		profiles profiles
		spec     string
		want     []string
	}{
		"in the list":       {profiles{some}, class("fast"), []string{}},
		"null":              {profiles{some}, kubernetes + `,"storage_class_name":null`, []string{}},
		"none":              {profiles{some}, kubernetes, []string{}},
		"outside":           {profiles{some}, class("manual"), []string{"existingVolumes configuration.storage_class_name"}},
		"empty":             {profiles{some}, class(""), []string{"existingVolumes configuration.storage_class_name"}},
		"another case":      {profiles{some}, class("Fast"), []string{"existingVolumes configuration.storage_class_name"}},
		"empty in the list": {profiles{allowedClasses("", "fast")}, class(""), []string{"existingVolumes configuration.storage_class_name"}},
		"a claim with it":   {profiles{some}, class("fast") + `,"claim_name":"pvc"`, []string{"existingVolumes configuration.claim_name"}},
		"a disk":            {profiles{some}, `"backend":"aws","volume_id":"x"`, []string{"existingVolumes configuration.volume_id"}},
		"in both lists":     {profiles{some, allowedClasses("fast")}, class("fast"), []string{}},
		"in one of two":     {profiles{some, allowedClasses("fast")}, class("slow"), []string{"existingVolumes configuration.storage_class_name"}},
		"in none of two":    {profiles{some, allowedClasses("x")}, class("fast"), []string{"existingVolumes configuration.storage_class_name"}},
		"beside Denied":     {profiles{some, controls(v1alpha1.Controls{ExistingVolumes: "Denied"})}, class("fast"), []string{"existingVolumes configuration.storage_class_name"}},
		"no list":           {profiles{allowedClasses()}, class("fast"), []string{"existingVolumes configuration.storage_class_name"}},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var all []v1alpha1.IsolationProfile
			for i, change := range tc.profiles {
				all = append(all, profile(fmt.Sprintf("p%d", i), v1alpha1.LevelOpen, change))
			}
			d := decideKind(t, dstack.KindVolume, volume(tc.spec), all...)
			if diff := cmp.Diff(tc.want, fields(d.Reasons)); diff != "" {
				t.Errorf("reasons (-want +got):\n%s%s", diff, d.Message)
			}
			if open := decideKind(t, dstack.KindVolume, volume(tc.spec)); !open.Allowed {
				t.Errorf("refused without a profile that denies: %s", open.Message)
			}
		})
	}
}
