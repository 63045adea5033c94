// Command sshproxy stands in for dstack's SSH proxy where its image cannot be
// had. It keeps the contract that the operator relies on: flags and variables,
// what it refuses to start with, its banner and host keys, whom it asks about a
// login, and that it cuts all sessions when it is told to stop. It forwards
// nothing: a session stays open and silent.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/dstack-isolation/operator/internal/dstack"
)

// version stands in the banner behind dstack's name.
const version = "0.0.0-standin"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGQUIT)
	defer stop()
	if err := run(ctx, os.Args[1:], os.LookupEnv, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "sshproxy:", err)
		os.Exit(1)
	}
}

// run is main without the process. It returns nil when it was told to stop.
func run(ctx context.Context, args []string, lookup func(string) (string, bool), log io.Writer) error {
	o, err := parse(args, lookup, log)
	if err != nil {
		return err
	}
	keys, err := o.hostKeys(lookup)
	if err != nil {
		return err
	}
	return (&server{
		listen: o.listen(), keys: keys, log: log,
		upstreams: upstreams{url: o.apiURL, token: o.apiToken, timeout: time.Duration(o.apiTimeout) * time.Second},
	}).serve(ctx)
}

type options struct {
	address    string
	port       int
	keyFiles   []string
	apiURL     string
	apiToken   string
	apiTimeout int
	logLevel   string
}

// parse reads flags; what is not given comes from the environment.
func parse(args []string, lookup func(string) (string, bool), log io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("sshproxy", flag.ContinueOnError)
	flags.SetOutput(log)
	env := func(name, fallback string) string {
		if value, ok := lookup(name); ok && value != "" {
			return value
		}
		return fallback
	}
	number := func(name, fallback string) (int, error) {
		n, err := strconv.Atoi(env(name, fallback))
		if err != nil {
			return 0, fmt.Errorf("%s is not a number", name)
		}
		return n, nil
	}
	port, err := number(dstack.EnvSSHProxyPort, strconv.Itoa(dstack.SSHProxyPort))
	if err != nil {
		return o, err
	}
	seconds, err := number("DSTACK_SSHPROXY_API_TIMEOUT", "10")
	if err != nil {
		return o, err
	}
	flags.StringVar(&o.address, "address", env("DSTACK_SSHPROXY_ADDRESS", ""), "address to listen on; all when empty")
	flags.IntVar(&o.port, "port", port, "port to listen on")
	flags.Func("host-key", "file with private host keys; may be repeated", func(file string) error {
		o.keyFiles = append(o.keyFiles, file)
		return nil
	})
	flags.StringVar(&o.apiURL, "api-url", env(dstack.EnvSSHProxyAPIURL, "http://localhost:3000"), "URL of the dstack server")
	flags.StringVar(&o.apiToken, "api-token", env(dstack.EnvSSHProxyAPIToken, ""), "token for the dstack server")
	flags.IntVar(&o.apiTimeout, "api-timeout", seconds, "timeout of requests to it, in seconds")
	flags.StringVar(&o.logLevel, "log-level", env("DSTACK_SSHPROXY_LOG_LEVEL", "info"), "level of the log")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	levels := []string{"trace", "debug", "info", "warn", "warning", "error", "fatal", "panic"}
	switch {
	case o.apiToken == "":
		return o, errors.New("no API token")
	case !slices.Contains(levels, strings.ToLower(o.logLevel)):
		return o, errors.New("no such log level")
	}
	return o, nil
}

func (o options) listen() string { return o.address + ":" + strconv.Itoa(o.port) }

// hostKeys come from files, else from the environment.
func (o options) hostKeys(lookup func(string) (string, bool)) ([]ssh.Signer, error) {
	if len(o.keyFiles) == 0 {
		blob, ok := lookup(dstack.EnvSSHProxyHostKeys)
		if !ok {
			return nil, errors.New("no host keys")
		}
		return parseKeys([]byte(blob))
	}
	var keys []ssh.Signer
	for _, file := range o.keyFiles {
		blob, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		more, err := parseKeys(blob)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		keys = append(keys, more...)
	}
	return keys, nil
}
