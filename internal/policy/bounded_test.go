package policy_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/dstack-isolation/operator/api/v1alpha1"
	"github.com/dstack-isolation/operator/internal/dstack"
	"github.com/dstack-isolation/operator/internal/isolation"
	"github.com/dstack-isolation/operator/internal/policy"
)

// Hostile bodies are compared at these two sizes. In the smaller ones more is wrong
// already than is ever told.
const smaller, larger = 1 << 15, 1 << 17

// TestHostileBodies decides each; the two tests below measure what that takes.
func TestHostileBodies(t *testing.T) {
	eff := guarded()
	for _, size := range []int{smaller, larger} {
		for name, b := range hostileBodies(size) {
			t.Run(fmt.Sprintf("%s/%d", name, size), func(*testing.T) { b.decide(eff) })
		}
	}
}

// TestAllocationsOfHostileBodies: what is allocated grows no faster than the body.
func TestAllocationsOfHostileBodies(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates, and makes pools forget")
	}
	eff := guarded()
	short, long := hostileBodies(smaller), hostileBodies(larger)
	for name := range short {
		t.Run(name, func(t *testing.T) {
			some, someBytes := allocated(func() { short[name].decide(eff) })
			more, moreBytes := allocated(func() { long[name].decide(eff) })
			expectNoFaster(t, "allocations", growth{short[name], some}, growth{long[name], more})
			expectNoFaster(t, "bytes", growth{short[name], someBytes}, growth{long[name], moreBytes})
		})
	}
}

// TestWorkOfHostileBodies: the statements that are executed grow no faster than the
// body. They are those of the reader and of the JSON library; what they pass to the
// standard library counts as one.
func TestWorkOfHostileBodies(t *testing.T) {
	if testing.Short() {
		t.Skip("builds the test with counters; run without -short")
	}
	binary := filepath.Join(t.TempDir(), "policy.test")
	build := exec.Command("go", "test", "-c", "-vet=off", "-covermode=count", "-o", binary,
		"-coverpkg=.,github.com/go-json-experiment/json/jsontext,github.com/go-json-experiment/json/internal/jsonwire", ".")
	if output, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, output)
	}
	short, long := hostileBodies(smaller), hostileBodies(larger)
	for name := range short {
		t.Run(name, func(t *testing.T) {
			expectNoFaster(t, "statements",
				growth{short[name], statements(t, binary, name, smaller)}, growth{long[name], statements(t, binary, name, larger)})
		})
	}
}

// growth is what a body costs.
type growth struct {
	body
	cost uint64
}

// expectNoFaster leaves room for what sorting adds, not for a square.
func expectNoFaster(t *testing.T, what string, short, long growth) {
	t.Helper()
	times := float64(len(long.json)) / float64(len(short.json))
	t.Logf("%d %s for %d bytes, %d for %d", short.cost, what, len(short.json), long.cost, len(long.json))
	if float64(long.cost) > 1.1*times*float64(short.cost) {
		t.Errorf("%d bytes take %d %s, and %d bytes take %d", len(short.json), short.cost, what, len(long.json), long.cost)
	}
}

// allocated is the least of several runs: the first one may have to fill pools.
func allocated(run func()) (count, size uint64) {
	for i := range 3 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		run()
		runtime.ReadMemStats(&after)
		c, s := after.Mallocs-before.Mallocs, after.TotalAlloc-before.TotalAlloc
		if i == 0 {
			count, size = c, s
		}
		count, size = min(count, c), min(size, s)
	}
	return count, size
}

// statements are those that a test binary with counters executes to decide one
// body.
func statements(t *testing.T, binary, name string, size int) uint64 {
	t.Helper()
	profile := filepath.Join(t.TempDir(), "profile")
	name = regexp.QuoteMeta(strings.ReplaceAll(name, " ", "_"))
	run := exec.Command(binary, fmt.Sprintf("-test.run=^TestHostileBodies$/^%s$/^%d$", name, size), "-test.coverprofile="+profile)
	if output, err := run.CombinedOutput(); err != nil || strings.Contains(string(output), "no tests to run") {
		t.Fatalf("run: %v\n%s", err, output)
	}
	text, err := os.ReadFile(profile)
	if err != nil {
		t.Fatal(err)
	}
	var sum uint64
	for _, line := range strings.Split(string(text), "\n") {
		// FILE:FROM,TO STATEMENTS TIMES
		fields := strings.Fields(line)
		if len(fields) != 3 {
			continue
		}
		of, _ := strconv.ParseUint(fields[1], 10, 64)
		times, _ := strconv.ParseUint(fields[2], 10, 64)
		sum += of * times
	}
	return sum
}

// body is one of a request.
type body struct {
	kind dstack.ApplyKind
	json []byte
}

func (b body) decide(eff *isolation.Effective) {
	if req, err := policy.Parse(b.kind, b.json); err == nil {
		policy.Decide(eff, policy.Running{}, req, noon)
	}
}

// guarded has every control, some that deny and some that only watch.
func guarded() *isolation.Effective {
	watch := strictest()
	audit(&watch.Spec)
	return effective(profile("research", v1alpha1.LevelRestricted, strict), watch)
}

func hostileBodies(size int) map[string]body {
	all := map[string]body{}
	for kind, specs := range map[dstack.ApplyKind]map[string]string{
		dstack.KindRun: hostileRuns(size), dstack.KindFleet: hostileFleets(size),
	} {
		for name, spec := range specs {
			all[string(kind)+" "+name] = body{kind, []byte(`{"user":"ada","project":"research-nlp","spec":` + spec + `}`)}
		}
	}
	return all
}
