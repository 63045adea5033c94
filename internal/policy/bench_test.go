package policy_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/policy"
)

func BenchmarkDecide(b *testing.B) {
	one := effective(profile("research", v1alpha1.LevelRestricted))
	for _, name := range []string{"task-plain", "service-groups-clean", "task-combined"} {
		c := captured(b, "0.22.5", name)
		var body bytes.Buffer
		if err := json.Compact(&body, c.Request); err != nil {
			b.Fatal(err)
		}
		b.Run(fmt.Sprintf("%s-%dB", name, body.Len()), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				req, err := policy.Parse(c.kind(b), body.Bytes())
				if err != nil {
					b.Fatal(err)
				}
				policy.Decide(one, policy.Running{NetworkMode: 3}, req, noon)
			}
		})
	}
}
