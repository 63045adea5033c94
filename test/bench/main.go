//go:build linux

// Command bench measures the policy server against what else could stand in
// its place, and holds it against the numbers that it is to reach. hack/bench
// builds what it needs and runs it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// programs are the paths of what is started.
type programs struct {
	Operator, Echo, OPA string
	// Venv and DstackVenv are Python environments for the servers in FastAPI, whose
	// folder is FastAPI; only the second one has dstack.
	Venv, DstackVenv, FastAPI string
}

type config struct {
	Programs programs
	// Cases is the folder with captured bodies, Document the file that takes the
	// result; empty for none.
	Cases, Document string
	// Rounds is how often every server is measured, for a Slice each time.
	Rounds int
	Slice  time.Duration

	cores cores
	dir   string
}

func main() {
	var c config
	flag.StringVar(&c.Programs.Operator, "operator", "", "the operator's `program`")
	flag.StringVar(&c.Programs.Echo, "echo", "", "the `program` of test/bench/echo")
	flag.StringVar(&c.Programs.OPA, "opa", "", "the `program` of test/bench/opa")
	flag.StringVar(&c.Programs.Venv, "venv", "", "Python environment with FastAPI and uvicorn")
	flag.StringVar(&c.Programs.DstackVenv, "dstack-venv", "", "Python environment with dstack's server")
	flag.StringVar(&c.Programs.FastAPI, "fastapi", "test/bench/fastapi", "folder of the plugin servers in Python")
	flag.StringVar(&c.Cases, "cases", "internal/policy/testdata/cases", "folder with captured bodies")
	flag.StringVar(&c.Document, "write", "", "Markdown `file` into which the result is written")
	flag.IntVar(&c.Rounds, "rounds", 7, "how often each server is measured")
	flag.DurationVar(&c.Slice, "slice", time.Second, "how long each time")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, c); err != nil {
		fmt.Fprintln(os.Stderr, "bench: "+err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context, c config) (err error) {
	if c.cores, err = chooseCores(); err != nil {
		return err
	}
	if err := pinSelf(c.cores.load); err != nil {
		return err
	}
	if c.dir, err = os.MkdirTemp("", "dstack-isolation-bench-"); err != nil {
		return err
	}
	defer func() {
		if err == nil {
			err = os.RemoveAll(c.dir)
		}
	}()
	began := time.Now()
	say("== comparison, servers on core %d, load on core %d", c.cores.server, c.cores.load)
	compared, all, err := compare(ctx, c)
	if err != nil {
		return errors.Join(err, ctx.Err())
	}
	var growth []*grown
	for _, profiles := range []int{1, 100, slowProfiles, 10_000} {
		say("== %d profiles, %d projects", profiles, profiles*projectsEach)
		g, err := grow(ctx, c, profiles)
		if err != nil {
			return errors.Join(fmt.Errorf("%d profiles: %w", profiles, err), ctx.Err())
		}
		growth = append(growth, g)
	}
	text := report(all, compared, growth)
	fmt.Print(text)
	say("== %d s", int(time.Since(began).Seconds()))
	if c.Document == "" {
		return nil
	}
	return write(c.Document, text)
}

// say tells of progress.
func say(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
