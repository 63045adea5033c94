package app_test

import (
	"testing"

	"github.com/dstack-isolation/operator/internal/app"
	"github.com/dstack-isolation/operator/internal/uninstall"
)

func TestCleanupOptions(t *testing.T) {
	for name, tc := range map[string]struct {
		options app.CleanupOptions
		want    string
	}{
		"by hand":      {app.CleanupOptions{Release: uninstall.Release{Namespace: "gpu"}, Revision: 1}, ""},
		"by the chart": {app.CleanupOptions{Release: uninstall.Release{Namespace: "gpu", Name: "a", Manager: "a-manager"}, Revision: 7}, ""},
		"no namespace": {app.CleanupOptions{}, "--namespace must be set, or POD_NAMESPACE in the environment"},
		"no manager": {
			app.CleanupOptions{Release: uninstall.Release{Namespace: "gpu", Name: "a"}, Revision: -1},
			"--manager-deployment must be set with --release: it identifies the release's manager\n--release-revision must not be negative, as -1 is",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got := ""
			if err := tc.options.Validate(); err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("got %q, want %q", got, tc.want)
			}
		})
	}
}
