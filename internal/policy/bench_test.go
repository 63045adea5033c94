package policy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/policy"
)

// BenchmarkDecide reads and decides real bodies, with as little space in them as
// JSON needs and, for one, with as much as in its file.
func BenchmarkDecide(b *testing.B) {
	one := effective(profile("research", v1alpha1.LevelRestricted))
	many := effective(manyProfiles(1000)...)
	lists := effective(only(v1alpha1.Controls{
		Fleets:     &v1alpha1.AllowedFleets{Allowed: []v1alpha1.FleetName{"a100", "h200"}},
		Registries: &v1alpha1.AllowedRegistries{Allowed: []v1alpha1.RegistryName{"docker.io/dstackai"}},
	}))
	ruledOnce := effective(profile("research", v1alpha1.LevelRestricted,
		ruled("max-duration", `!has(object.configuration.max_duration) || object.configuration.max_duration == null`, "no")))
	otherKind := effective(profile("research", v1alpha1.LevelRestricted, ruled("fleet", `true`, "no"), ofKind(v1alpha1.RuleKindFleet)))
	manyRules := profile("research", v1alpha1.LevelRestricted)
	for i := range 32 {
		ruled(fmt.Sprintf("r%d", i), fmt.Sprintf(`object.configuration.env.all(k, k != 'K%d')`, i), "no")(&manyRules.Spec)
	}
	plain := captured(b, "0.22.5", "task-plain")
	service := captured(b, "0.22.5", "service-groups-clean")
	for _, bc := range []struct {
		name string
		eff  *isolation.Effective
		kind dstack.ApplyKind
		body []byte
	}{
		{"task", one, plain.kind(b), compact(b, plain.Request)},
		{"service", one, service.kind(b), compact(b, service.Request)},
		{"service with spaces", one, service.kind(b), service.Request},
		{"task refused", one, plain.kind(b), compact(b, captured(b, "0.22.5", "task-combined").Request)},
		{"task filled in", lists, plain.kind(b), compact(b, plain.Request)},
		{"task with one rule", ruledOnce, plain.kind(b), compact(b, plain.Request)},
		{"task with a rule of another kind", otherKind, plain.kind(b), compact(b, plain.Request)},
		{"task with 32 rules", effective(manyRules), plain.kind(b), compact(b, plain.Request)},
		{"service with one rule", ruledOnce, service.kind(b), compact(b, service.Request)},
		{"task under 1000 profiles", many, plain.kind(b), compact(b, plain.Request)},
	} {
		b.Run(fmt.Sprintf("%s, %d bytes", bc.name, len(bc.body)), func(b *testing.B) {
			b.ReportAllocs()
			decide := func() {
				req, err := policy.Parse(bc.kind, bc.body)
				if err != nil {
					b.Fatal(err)
				}
				policy.Decide(bc.eff, policy.Running{NetworkMode: 3}, req, noon)
			}
			for b.Loop() {
				decide()
			}
			reportInstructions(b, decide)
		})
	}
}

// TestAllocations bounds what reading and deciding allocates, with a little room
// for a change of Go or of the JSON library.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget on purpose")
	}
	eff := effective(profile("research", v1alpha1.LevelRestricted))
	for name, most := range map[string]float64{"task-plain": 56, "service-groups-clean": 58, "task-combined": 140} {
		c := captured(t, "0.22.5", name)
		got := testing.AllocsPerRun(200, func() {
			req, err := policy.Parse(c.kind(t), c.Request)
			if err != nil {
				t.Fatal(err)
			}
			policy.Decide(eff, policy.Running{NetworkMode: 3}, req, noon)
		})
		if got > most {
			t.Errorf("%s: %.0f allocations, at most %.0f are meant", name, got, most)
		}
		t.Logf("%s: %.0f allocations", name, got)
	}
}

func compact(b *testing.B, body []byte) []byte {
	b.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, body); err != nil {
		b.Fatal(err)
	}
	return out.Bytes()
}
