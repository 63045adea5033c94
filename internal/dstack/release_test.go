package dstack_test

import (
	"strings"
	"testing"

	"github.com/dstack-isolation/operator/internal/dstack"
)

func TestReleases(t *testing.T) {
	const (
		old     = " is older than 0.20.16, the oldest release that is supported: upgrade dstack"
		unknown = " is not understood"
	)
	cases := map[string]struct {
		supported string // the whole error, "" if supported
		asks      bool
	}{
		// A development build says no release.
		"":                      {},
		"0.20.15":               {supported: "dstack 0.20.15" + old},
		"0.20.16":               {},
		"0.20.16rc1":            {supported: "dstack 0.20.16rc1" + old},
		"0.20.28":               {},
		"0.20":                  {supported: "dstack 0.20" + old},
		"0.19.99":               {supported: "dstack 0.19.99" + old},
		"0.21.0":                {asks: true},
		"0.21":                  {asks: true},
		"0.21.0rc1":             {},
		"0.21.0a2":              {},
		"0.21.0b1":              {},
		"0.21.0.dev7":           {},
		"0.21.0.post1":          {asks: true},
		"0.21.0+gpu.1":          {asks: true},
		"0.21.1rc1":             {asks: true},
		"0.22.5":                {asks: true},
		"0.100.0":               {asks: true},
		"1.0.0":                 {asks: true},
		"latest":                {supported: `dstack release "latest"` + unknown},
		"0.x.1":                 {supported: `dstack release "0.x.1"` + unknown},
		"0.21.0 or so":          {supported: `dstack release "0.21.0 or so"` + unknown},
		"0.21.0\nReady=True":    {supported: `dstack release "0.21.0\nReady=True"` + unknown},
		"-1.2.3":                {supported: `dstack release "-1.2.3"` + unknown},
		"0":                     {supported: `dstack release "0"` + unknown},
		"0.99999999999999999.0": {supported: `dstack release "0.99999999999999999.0"` + unknown},
	}
	for release, tc := range cases {
		t.Run(release, func(t *testing.T) {
			got := ""
			if err := dstack.Supported(release); err != nil {
				got = err.Error()
			}
			if got != tc.supported {
				t.Errorf("Supported: got %q, want %q", got, tc.supported)
			}
			if asks := dstack.AsksAlways(release); asks != tc.asks {
				t.Errorf("AsksAlways: got %t, want %t", asks, tc.asks)
			}
		})
	}
}

func TestOlder(t *testing.T) {
	cases := map[string]struct{ older, newer string }{
		"by the last number":       {"0.22.4", "0.22.5"},
		"by number, not by letter": {"0.22.9", "0.22.10"},
		"by the middle number":     {"0.21.9", "0.22.0"},
		"a pre-release":            {"0.22.0rc1", "0.22.0"},
		"a development build":      {"", "0.22.0"},
		"one not understood":       {"latest", "0.0.1"},
		"the same":                 {"0.22.5", "0.22.5"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			for _, got := range []string{dstack.Older(tc.older, tc.newer), dstack.Older(tc.newer, tc.older)} {
				if got != tc.older {
					t.Errorf("got %q, want %q", got, tc.older)
				}
			}
		})
	}
}

// The paths are dstack's: a change of them is a change of the contract.
func TestApplyPaths(t *testing.T) {
	var got []string
	for _, kind := range dstack.ApplyKinds() {
		got = append(got, dstack.ApplyPath(kind))
	}
	want := "/apply_policies/on_run_apply /apply_policies/on_fleet_apply /apply_policies/on_volume_apply /apply_policies/on_gateway_apply"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("got %s, want %s", s, want)
	}
}
