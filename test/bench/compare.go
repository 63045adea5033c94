//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// contestant is a server of the comparison.
type contestant struct {
	name string
	// file is its name in names of files.
	file    string
	echo    bool
	program []string
}

// The contestants by name, as the targets ask for them.
const (
	nameEcho    = "echo: net/http, reads the body and sends it back"
	nameOurs    = "policy server"
	nameOPA     = "OPA as a library behind net/http"
	nameFastAPI = "FastAPI, plain dictionaries"
	nameModels  = "FastAPI, dstack's models, as in dstack's example"
)

const serverYAML = `apiVersion: isolation.dstack.ai/v1alpha1
kind: DstackServer
metadata: {name: main, namespace: dstack}
spec:
  workload: {kind: Deployment, name: dstack-server}
  unmatchedProjects: {level: Restricted, enforcement: Enforce}
---
apiVersion: isolation.dstack.ai/v1alpha1
kind: IsolationProfile
metadata: {name: research, namespace: dstack}
spec:
  serverRef: {name: main}
  projects: {include: ["research-*"]}
`

// The controls that the other servers check too, whatever the levels come to
// mean.
const sameChecks = `  level: Open
  controls:
    hostSSH: Denied
    privileged: Denied
    instanceVolumes: {mode: Denied}
    distributedTasks: Denied
`

// contestants writes the policies and lists the servers.
func contestants(dir string, p programs) ([]contestant, error) {
	ours := func(policy, yaml string) ([]string, error) {
		folder := filepath.Join(dir, policy)
		if err := os.MkdirAll(folder, 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(folder, "policy.yaml"), []byte(serverYAML+yaml), 0o600); err != nil {
			return nil, err
		}
		token, err := tokenFile(dir)
		if err != nil {
			return nil, err
		}
		health, err := freeAddress()
		return []string{
			p.Operator, "policy-server", "--from", folder, "--listen", "ADDRESS",
			"--health-listen", health, "--drain-delay", "0s", "--token-file", token,
		}, err
	}
	same, err := ours("policy", sameChecks)
	if err != nil {
		return nil, err
	}
	return []contestant{
		{name: nameEcho, file: "echo", echo: true, program: []string{p.Echo, "ADDRESS"}},
		{name: nameOurs, file: "policy-server", program: same},
		{name: nameOPA, file: "opa", program: []string{p.OPA, "ADDRESS"}},
		{name: nameFastAPI, file: "fastapi", program: uvicorn(p.Venv, p.FastAPI, "policy_server")},
		{name: nameModels, file: "fastapi-models", program: uvicorn(p.DstackVenv, p.FastAPI, "with_dstack_models")},
	}, nil
}

// uvicorn serves a module with its fastest settings, in one process.
func uvicorn(venv, folder, module string) []string {
	return []string{
		filepath.Join(venv, "bin", "python"), "-B", "-m", "uvicorn", "--app-dir", folder, module + ":app",
		"--host", "HOST", "--port", "PORT", "--loop", "uvloop", "--http", "httptools", "--no-access-log",
		"--lifespan", "off", "--log-level", "warning", "--no-server-header", "--no-date-header",
	}
}

// measured is what a server did in one manner of asking.
type measured struct {
	// cpu is the server's time a request, the median of the rounds.
	cpu        time.Duration
	rounds     []time.Duration
	throughput float64
	latencies  latencies
	took       time.Duration
}

// comparison is by manner, then by contestant.
type comparison map[string]map[string]*measured

// compare starts all servers, holds their verdicts against the cases, and then
// measures them in turns, so that whatever else the machine does meets all.
func compare(ctx context.Context, c config) (comparison, []contestant, error) {
	mix, err := readMix(c.Cases, "research-nlp")
	if err != nil {
		return nil, nil, err
	}
	all, err := contestants(c.dir, c.Programs)
	if err != nil {
		return nil, nil, err
	}
	servers := make([]*process, len(all))
	for i, one := range all {
		p, err := start(ctx, c.dir, one.file, c.cores, one.program...)
		if err != nil {
			return nil, nil, err
		}
		defer p.stop()
		servers[i] = p
		if err := checkVerdicts(p, one, mix); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", one.name, err)
		}
		say("   %s: %d verdicts as they should be", one.name, len(mix))
	}
	result := comparison{}
	for _, m := range manners {
		result[m.name] = map[string]*measured{}
		for _, one := range all {
			result[m.name][one.name] = &measured{}
		}
		for round := range c.Rounds + 1 { // the first one is to warm up
			say("   %s: round %d of %d", m.name, round, c.Rounds)
			for i := range all {
				at := (i + round) % len(all)
				into := result[m.name][all[at].name]
				if round == 0 {
					into = &measured{}
				}
				if err := into.measure(servers[at], m, all[at].echo, mix, c.Slice); err != nil {
					return nil, nil, fmt.Errorf("%s: %w", all[at].name, err)
				}
			}
		}
	}
	return result, all, nil
}

// checkVerdicts asks every question in both manners.
func checkVerdicts(p *process, one contestant, mix []question) error {
	for _, m := range manners {
		a := asker{address: p.address, manner: m, echo: one.echo}
		defer a.hangUp()
		if err := p.ready(func() error { return a.exchange(m.request(&mix[0])) }); err != nil {
			return err
		}
		for i := range mix {
			if err := a.ask(&mix[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *measured) measure(p *process, m manner, echo bool, mix []question, during time.Duration) error {
	before, err := p.cpuTime()
	if err != nil {
		return err
	}
	began := time.Now()
	some, err := saturate(p.address, m, echo, mix, during)
	if err != nil {
		return err
	}
	took := time.Since(began)
	after, err := p.cpuTime()
	if err != nil {
		return err
	}
	d.latencies = append(d.latencies, some...)
	d.took += took
	d.rounds = append(d.rounds, (after-before)/time.Duration(len(some)))
	d.cpu = slices.Sorted(slices.Values(d.rounds))[len(d.rounds)/2]
	d.throughput = float64(len(d.latencies)) / d.took.Seconds()
	return nil
}
