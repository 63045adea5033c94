package manifests_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/dstack-isolation/operator/internal/manifests"
)

const sealedWith = "the operator's secret"

// approvedOf is what is kept of an intent.
func approvedOf(t *testing.T, w world, i manifests.Intent) map[string]string {
	t.Helper()
	return decode[corev1.ConfigMap](t, manifests.Approved(w.obj(), i, sealedWith).Config).Data
}

// What is kept is read again as it was, for every case, and as this build would make
// it.
func TestApprovedIsReadAsItWas(t *testing.T) {
	for name, w := range worlds {
		t.Run(name, func(t *testing.T) {
			in := w.input(t)
			want := manifests.Settings(in)
			data := approvedOf(t, w, want)
			if strings.Contains(data[manifests.ApprovedKey], options.Image) {
				t.Error("the image is kept too")
			}
			got, err := manifests.ReadApproved(data, in, sealedWith)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(yamlOf(t, want), yamlOf(t, got)); diff != "" || got.Revision != want.Revision {
				t.Errorf("-want +got:\n%s", diff)
			}
			if diff := cmp.Diff(in.SSH, got.SSHSettings()); diff != "" {
				t.Errorf("of the SSH proxy, -told +kept:\n%s", diff)
			}
		})
	}
}

// What was approved before pods had a label is still approved.
func TestApprovedWithoutALabel(t *testing.T) {
	w := world{mode: 3}
	in := w.input(t)
	before := manifests.Settings(in)
	before.Server = ""
	before = before.Anew()
	data := approvedOf(t, w, before)
	if strings.Contains(data[manifests.ApprovedKey], `"server":`) {
		t.Error("it names the label")
	}
	got, err := manifests.ReadApproved(data, in, sealedWith)
	if err != nil || got.Revision != before.Revision || got.Revision == manifests.Settings(in).Revision {
		t.Errorf("got revision %q and error %v", got.Revision, err)
	}
}

func TestApprovedThatIsNotWhatItSays(t *testing.T) {
	w := world{mode: 3}
	in := w.input(t)
	data := approvedOf(t, w, manifests.Settings(in))
	text := data[manifests.ApprovedKey]
	for name, changed := range map[string]string{
		"another value": strings.Replace(text, `"value":"3"`, `"value":"2"`, 1),
		"nothing":       "",
		"no object":     "[]",
		"empty":         "{}",
		"no plugin":     `{"container":"server","revision":"0123abcd"}`,
	} {
		if changed == text {
			t.Fatalf("%s: nothing was changed", name)
		}
		forged := maps.Clone(data)
		forged[manifests.ApprovedKey] = changed
		if _, err := manifests.ReadApproved(forged, in, sealedWith); err == nil {
			t.Errorf("%s: it was read", name)
		}
	}
}

// Whoever may write ConfigMaps can make settings of a revision that is right; they
// must not get into pods.
func TestApprovedByNobody(t *testing.T) {
	w := world{mode: 3}
	in := w.input(t)
	looser := world{mode: 2}
	forged := manifests.Settings(looser.input(t))
	theirs := decode[corev1.ConfigMap](t, manifests.Approved(w.obj(), forged, "a guess").Config).Data
	unsealed := maps.Clone(theirs)
	delete(unsealed, manifests.ApprovedSealKey)
	for name, data := range map[string]map[string]string{"another's seal": theirs, "no seal": unsealed} {
		_, err := manifests.ReadApproved(data, in, sealedWith)
		if err == nil || err.Error() != "the settings that were approved last do not bear the operator's seal" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := manifests.ReadApproved(theirs, in, ""); err == nil {
		t.Error("without a secret anything is read")
	}
}
