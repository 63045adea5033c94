//go:build linux

package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"
)

// The result stands between these lines of the document.
const (
	beginMark = "<!-- Written by \"make bench\": begin -->"
	endMark   = "<!-- Written by \"make bench\": end -->"
)

// report is the result in Markdown.
func report(all []contestant, compared comparison, growth []*grown) string {
	var b strings.Builder
	fmt.Fprintf(&b, "Measured on %d cores of %s, with %s on Linux, %s. The server had one core, the load another one.\n\n",
		runtime.NumCPU(), machine(), runtime.Version(), runtime.GOARCH)
	for _, m := range manners {
		writeComparison(&b, m, all, compared[m.name])
	}
	writeGrowth(&b, growth)
	writeSlow(&b, growth)
	writeTargets(&b, targets(compared, growth))
	return b.String()
}

func writeComparison(b *strings.Builder, m manner, all []contestant, of map[string]*measured) {
	fmt.Fprintf(b, "### CPU of a request, %s\n\n", m.name)
	b.WriteString("| Server | Server CPU a request | Against echo | Requests a second | p50 | p99 |\n| --- | ---: | ---: | ---: | ---: | ---: |\n")
	for _, one := range all {
		d := of[one.name]
		fmt.Fprintf(b, "| %s | %s | %s | %.0f | %s | %s |\n", one.name, micro(d.cpu), ratio(d.cpu, of[nameEcho].cpu),
			d.throughput, micro(d.latencies.quantile(0.5)), micro(d.latencies.quantile(0.99)))
	}
	b.WriteString("\n")
}

func writeGrowth(b *strings.Builder, growth []*grown) {
	b.WriteString("### Profiles\n\n")
	b.WriteString("| Profiles | Projects | Resolve all | One changed profile | CPU a request | p99 | Memory | At most |\n" +
		"| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n")
	for _, g := range growth {
		fmt.Fprintf(b, "| %d | %d | %s | %s | %s | %s | %s | %s |\n", g.profiles, g.profiles*projectsEach, milli(g.resolve),
			milli(g.changed), micro(g.cpu), milli(g.p99), mebibytes(g.memory), mebibytes(g.highest))
	}
	b.WriteString("\n")
}

func writeSlow(b *strings.Builder, growth []*grown) {
	for _, g := range growth {
		if g.slow == nil || g.slowEcho == nil {
			continue
		}
		fmt.Fprintf(b, "### 0.1 CPU, %d requests a second, %d profiles\n\n", perSecond, g.profiles)
		b.WriteString("| Server | Connections | p50 | p99 | Highest | Periods of 100 ms without CPU left |\n| --- | --- | ---: | ---: | ---: | ---: |\n")
		for _, m := range manners {
			for _, one := range []struct {
				name string
				slowly
			}{{"policy server", g.slow[m.name]}, {"echo", g.slowEcho[m.name]}} {
				fmt.Fprintf(b, "| %s | %s | %s | %s | %s | %d |\n", one.name, m.name,
					milli(one.quantile(0.5)), milli(one.quantile(0.99)), milli(one.quantile(1)), one.throttled)
			}
		}
		b.WriteString("\n")
	}
}

// target is a number to reach.
type target struct {
	what, want, got string
	holds, measured bool
}

func targets(compared comparison, growth []*grown) []target {
	var all []target
	add := func(what, want, got string, holds bool) {
		all = append(all, target{what, want, got, holds, true})
	}
	// How many times less CPU than servers in FastAPI it is to take.
	fastAPI := map[bool]float64{false: 4, true: 7}
	for _, m := range manners {
		of := compared[m.name]
		ours := of[nameOurs].cpu
		times := func(name string) float64 { return float64(of[name].cpu) / float64(ours) }
		add("CPU against echo, "+m.name, "≤ 1.5×", ratio(ours, of[nameEcho].cpu), float64(ours) <= 1.5*float64(of[nameEcho].cpu))
		for _, name := range []string{nameModels, nameFastAPI} {
			add("CPU less than "+name+", "+m.name, fmt.Sprintf("≥ %.0f×", fastAPI[m.keptAlive]), fmt.Sprintf("%.1f×", times(name)),
				times(name) >= fastAPI[m.keptAlive])
		}
		add("CPU less than OPA, "+m.name, "> 1×", fmt.Sprintf("%.1f×", times(nameOPA)), times(nameOPA) > 1)
	}
	for _, g := range growth {
		if g.profiles == slowProfiles {
			all = append(all, g.slowTargets()...)
		}
	}
	most := growth[len(growth)-1]
	size := fmt.Sprintf("%d profiles, %d projects: ", most.profiles, most.profiles*projectsEach)
	add(size+"resolve all", "< 1 s", milli(most.resolve), most.resolve < time.Second)
	add(size+"one changed profile", "< 50 ms", milli(most.changed), most.changed < 50*time.Millisecond)
	add(size+"memory", "< 200 MiB", mebibytes(most.highest), most.highest < 200<<20)
	return all
}

// slowTargets are those under little CPU.
func (g *grown) slowTargets() []target {
	var all []target
	for _, m := range manners {
		p99 := g.slow[m.name].quantile(0.99)
		t := target{
			what: fmt.Sprintf("p99 at %d profiles, %d requests a second, 0.1 CPU, %s", g.profiles, perSecond, m.name), want: "< 5 ms",
			got: milli(p99), holds: p99 < 5*time.Millisecond, measured: g.slow != nil,
		}
		if !t.measured {
			t.got = "not measured: " + g.skipped
		}
		all = append(all, t)
	}
	return all
}

func writeTargets(b *strings.Builder, all []target) {
	b.WriteString("### Targets\n\n| What | Target | Measured | Holds |\n| --- | ---: | ---: | --- |\n")
	for _, t := range all {
		holds := "no"
		switch {
		case !t.measured:
			holds = "unknown"
		case t.holds:
			holds = "yes"
		}
		fmt.Fprintf(b, "| %s | %s | %s | %s |\n", t.what, t.want, t.got, holds)
	}
}

func machine() string {
	model := "an unknown processor"
	info, err := os.ReadFile("/proc/cpuinfo")
	if err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	return model
}

func ratio(a, b time.Duration) string { return fmt.Sprintf("%.2f×", float64(a)/float64(b)) }

func micro(d time.Duration) string {
	return fmt.Sprintf("%.0f µs", float64(d)/float64(time.Microsecond))
}

func milli(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

func mebibytes(n int64) string { return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20)) }

// write puts the result between the marks of a document.
func write(file, text string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	before, rest, begins := strings.Cut(string(data), beginMark)
	_, after, ends := strings.Cut(rest, endMark)
	if !begins || !ends {
		return fmt.Errorf("%s has no lines %s and %s to write between", file, beginMark, endMark)
	}
	return os.WriteFile(file, []byte(before+beginMark+"\n\n"+text+"\n"+endMark+after), 0o644)
}
