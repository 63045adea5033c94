package manifests_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/dstack-isolation/operator/internal/manifests"
)

// What is kept is read again as it was, for every case, and as this build would make
// it.
func TestApprovedIsReadAsItWas(t *testing.T) {
	for name, w := range worlds {
		t.Run(name, func(t *testing.T) {
			in := w.input(t)
			want := manifests.Settings(in)
			text := decode[corev1.ConfigMap](t, manifests.Approved(w.obj(), want).Config).Data[manifests.ApprovedKey]
			if strings.Contains(text, options.Image) {
				t.Error("the image is kept too")
			}
			got, err := manifests.ReadApproved(text, in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(yamlOf(t, want), yamlOf(t, got)); diff != "" || got.Revision != want.Revision {
				t.Errorf("-want +got:\n%s", diff)
			}
		})
	}
}

func TestApprovedThatIsNotWhatItSays(t *testing.T) {
	w := world{mode: 3}
	in := w.input(t)
	text := decode[corev1.ConfigMap](t, manifests.Approved(w.obj(), manifests.Settings(in)).Config).Data[manifests.ApprovedKey]
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
		if _, err := manifests.ReadApproved(changed, in); err == nil {
			t.Errorf("%s: it was read", name)
		}
	}
}
