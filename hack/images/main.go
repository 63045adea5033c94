// Command images writes container images as docker-archive files, without a container engine and without a registry: from one
// static binary on an empty base, or from the tar of a whole root file system.
//
//	images binary -binary FILE -tag NAME:TAG -out FILE [-entrypoint PATH] [-user UID:GID] [-label KEY=VALUE]...
//	images rootfs -rootfs FILE -tag NAME:TAG -out FILE -command ARG [-command ARG]... [-env KEY=VALUE]... [-port N/tcp]...
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"
)

const usage = `usage: images binary -binary FILE -tag NAME:TAG -out FILE [flags]
       images rootfs -rootfs FILE -tag NAME:TAG -out FILE [flags]`

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if !errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(os.Stderr, "images:", err)
		}
		os.Exit(1)
	}
}

// run is main without the process: arguments in, the image's digest on stdout.
func run(args []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	var source source
	switch args[0] {
	case "binary":
		source = &binarySource{}
	case "rootfs":
		source = &rootfsSource{}
	default:
		return fmt.Errorf("unknown kind of image %q\n%s", args[0], usage)
	}

	spec := imageSpec{Labels: pairs{}, Env: pairs{}}
	var out string
	flags := flag.NewFlagSet("images "+args[0], flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&out, "out", "", "the docker-archive file to write")
	flags.StringVar(&spec.Tag, "tag", "", "name and tag of the image, such as dstack-isolation:dev")
	flags.StringVar(&spec.User, "user", "", "uid:gid of the process; root when empty")
	flags.StringVar(&spec.WorkingDir, "workdir", "", "working directory of the process; / when empty")
	flags.StringVar(&spec.Architecture, "arch", defaultArchitecture, "architecture that the image says it is for")
	flags.Var(spec.Labels, "label", "a label KEY=VALUE; may be repeated")
	flags.Var(spec.Env, "env", "an environment variable KEY=VALUE; may be repeated")
	flags.Var(&spec.Ports, "port", "a port such as 3000/tcp that the image says it listens on; may be repeated")
	flags.Var(&spec.Entrypoint, "entrypoint", "one argument of the entrypoint; may be repeated")
	flags.Var(&spec.Command, "command", "one argument of the command; may be repeated")
	source.register(flags)
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if out == "" {
		return errors.New("-out must name the file to write")
	}

	layer, err := source.layer(&spec)
	if err != nil {
		return err
	}
	digest, err := writeImage(spec, layer, out)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, digest)
	return err
}

// list is a flag that may be given several times.
type list []string

func (l *list) String() string { return strings.Join(*l, " ") }

func (l *list) Set(value string) error {
	*l = append(*l, value)
	return nil
}

// pairs is a flag KEY=VALUE that may be given several times, each key once.
type pairs map[string]string

func (p pairs) String() string { return fmt.Sprint(map[string]string(p)) }

func (p pairs) Set(value string) error {
	key, text, found := strings.Cut(value, "=")
	if !found || key == "" {
		return fmt.Errorf("%q is not KEY=VALUE", value)
	}
	if _, twice := p[key]; twice {
		return fmt.Errorf("%s is given twice", key)
	}
	p[key] = text
	return nil
}
