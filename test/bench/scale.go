//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// slowly is what a server does under little CPU: the second part is in how many
// periods of 100 ms it used up what it had.
type slowly struct {
	latencies
	throttled int
}

const (
	// perSecond is how often a question is asked where latency is measured.
	perSecond = 100
	// changesEach is how many changes of one profile are measured.
	changesEach = 20
	// slowProfiles is the number of profiles for which latency under little CPU is
	// measured.
	slowProfiles = 1000
)

// grown is what the policy server does with so many profiles.
type grown struct {
	profiles int
	// resolve is the time to resolve all profiles, and changed the time from a
	// change in the API server to its first decision, both medians.
	resolve, changed time.Duration
	// cpu is the server's time a request on kept-alive connections, p99 the
	// latency at perSecond.
	cpu, p99 time.Duration
	// memory is resident memory once all is done, highest the most there was.
	memory, highest int64
	// slow and slowEcho are what the policy server and echo do under little CPU, by
	// manner; nil when not measured.
	slow, slowEcho map[string]slowly
	// skipped is why slow was not measured, where it should have been.
	skipped string
}

// grow measures the policy server, as it runs in a cluster, with so many
// profiles.
func grow(ctx context.Context, c config, profiles int) (*grown, error) {
	api, err := startAPIServer(profiles)
	if err != nil {
		return nil, err
	}
	defer api.stop()
	kubeconfig := filepath.Join(c.dir, "kubeconfig")
	if err := api.kubeconfig(kubeconfig); err != nil {
		return nil, err
	}
	if err := os.Setenv("KUBECONFIG", kubeconfig); err != nil {
		return nil, err
	}
	health, err := freeAddress()
	if err != nil {
		return nil, err
	}
	token, err := tokenFile(c.dir)
	if err != nil {
		return nil, err
	}
	p, err := start(ctx, c.dir, fmt.Sprintf("policy-server-%d", profiles), c.cores, c.Programs.Operator, "policy-server",
		"--namespace", namespace, "--server", "main", "--listen", "ADDRESS", "--health-listen", health, "--drain-delay", "0s", "--token-file", token)
	if err != nil {
		return nil, err
	}
	defer p.stop()
	if err := p.ready(func() error { _, err := get("http://" + p.address + "/readyz"); return err }); err != nil {
		return nil, err
	}
	g := &grown{profiles: profiles}
	if err := g.measureLoad(c, p); err != nil {
		return nil, err
	}
	if err := g.measureChanges(api, p, health); err != nil {
		return nil, err
	}
	if g.memory, g.highest, err = p.memory(); err != nil {
		return nil, err
	}
	if profiles == slowProfiles {
		err = g.measureSlow(ctx, c, p)
	}
	return g, err
}

// measureLoad asks about a project of a profile in the middle.
func (g *grown) measureLoad(c config, p *process) error {
	mix, err := readMix(c.Cases, projectOf(g.profiles/2))
	if err != nil {
		return err
	}
	var d measured
	for range 3 {
		if err := d.measure(p, manners[1], false, mix, c.Slice); err != nil {
			return err
		}
	}
	g.cpu = d.cpu
	all, err := pace(p.address, manners[1], false, mix, 5*c.Slice)
	g.p99 = all.quantile(0.99)
	return err
}

// measureChanges changes one profile after the other and waits until the
// server decides by it.
func (g *grown) measureChanges(api *apiServer, p *process, health string) error {
	var changed []time.Duration
	revision, err := revisionOf(p)
	if err != nil {
		return err
	}
	sum, count, err := resolveTime(health)
	if err != nil {
		return err
	}
	for i := range changesEach {
		began := time.Now()
		if err := api.change(i * g.profiles / changesEach); err != nil {
			return err
		}
		before := revision
		for revision == before {
			if time.Since(began) > time.Minute {
				return errors.New("a changed profile is never taken")
			}
			time.Sleep(time.Millisecond)
			if revision, err = revisionOf(p); err != nil {
				return err
			}
		}
		changed = append(changed, time.Since(began))
	}
	g.changed = slices.Sorted(slices.Values(changed))[len(changed)/2]
	sumAfter, countAfter, err := resolveTime(health)
	if err == nil && countAfter == count {
		err = errors.New("the server counts no resolution")
	}
	if err != nil {
		return err
	}
	g.resolve = time.Duration((sumAfter - sum) / (countAfter - count) * float64(time.Second))
	return nil
}

// measureSlow asks while the server gets a tenth of a core, and then asks echo
// in the same way: what that takes is the machine's and not the policy's.
func (g *grown) measureSlow(ctx context.Context, c config, p *process) error {
	mix, err := readMix(c.Cases, projectOf(g.profiles/2))
	if err != nil {
		return err
	}
	if g.slow, err = slow(c, p, mix, false); errors.Is(err, errNoGroup) {
		g.skipped = err.Error()
		say("   SKIPPED: latency under 0.1 CPU: %s", g.skipped)
		return nil
	}
	if err != nil {
		return err
	}
	echo, err := start(ctx, c.dir, "echo-slow", c.cores, c.Programs.Echo, "ADDRESS")
	if err != nil {
		return err
	}
	a := asker{address: echo.address, manner: manners[0], echo: true}
	if err := echo.ready(func() error { return a.ask(&mix[0]) }); err != nil {
		return err
	}
	g.slowEcho, err = slow(c, echo, mix, true)
	return err
}

// slow measures a server in a control group with little CPU, and ends it.
func slow(c config, p *process, mix []question, echo bool) (map[string]slowly, error) {
	defer p.stop()
	group, err := newCPUGroup()
	if err != nil {
		return nil, err
	}
	defer func() { p.stop(); group.remove() }()
	if err := group.add(p.command.Process.Pid); err != nil {
		return nil, err
	}
	all := map[string]slowly{}
	for _, m := range manners {
		say("   %d requests a second, 0.1 CPU, %s, echo: %v", perSecond, m.name, echo)
		before, err := group.throttled()
		if err != nil {
			return nil, err
		}
		some, err := pace(p.address, m, echo, mix, 15*c.Slice)
		if err != nil {
			return nil, err
		}
		after, err := group.throttled()
		if err != nil {
			return nil, err
		}
		all[m.name] = slowly{some, after - before}
	}
	return all, nil
}

func revisionOf(p *process) (string, error) {
	body, err := get("http://" + p.address + "/revision")
	if err != nil {
		return "", err
	}
	var answer struct {
		Revision string `json:"revision"`
	}
	return answer.Revision, json.Unmarshal(body, &answer)
}

// resolveTime reads how long the server has resolved, and how often.
func resolveTime(health string) (sum, count float64, err error) {
	body, err := get("http://" + health + "/metrics")
	if err != nil {
		return 0, 0, err
	}
	const metric = "dstack_isolation_policy_resolve_duration_seconds"
	for line := range strings.Lines(string(body)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		switch name {
		case metric + "_sum":
			sum, err = strconv.ParseFloat(value, 64)
		case metric + "_count":
			count, err = strconv.ParseFloat(value, 64)
		}
		if err != nil {
			return 0, 0, err
		}
	}
	return sum, count, nil
}

func get(url string) ([]byte, error) {
	request, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", authorization)
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, response.Status)
	}
	return body, err
}
