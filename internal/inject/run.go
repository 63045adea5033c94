package inject

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/dstack-isolation/operator/internal/dstack"
)

// terminationLogBytes is how much of a container's termination message the kubelet
// keeps.
const terminationLogBytes = 4096

// Options are what the init container is told.
type Options struct {
	// Source is the user's config.yml. It is read; it is written only if there is
	// none. Empty means that the server directory lies on no volume: what the
	// server's image may bring there cannot be seen from this container, and a
	// minimal file is used.
	Source string
	// Target is where the merged copy goes, in a folder that exists. It is mounted
	// over config.yml of the server container.
	Target string
	// Check is the user's config.yml where it is mounted at exactly its path, so
	// that no copy can go over it: it is only looked at, and Source and Target are
	// empty.
	Check string
	// Plugin is the name to add: dstack.PluginPython or dstack.PluginREST.
	Plugin string
	// Permissions are what default_permissions of the copy must say.
	Permissions Permissions
	// PolicyURL is the base URL of the policy server, and Token what the Python
	// plugin will authenticate with; the REST plugin has none.
	PolicyURL, Token string
	// First says that the server has never run with the plugin: a policy server
	// that does not answer is then an error, later it is a warning.
	First bool
	// Timeout is how long the policy server is waited for.
	Timeout time.Duration
	// TerminationLog receives the reason of a failure if it exists, as the kubelet
	// makes it; the manager reads it from the pod's status.
	TerminationLog string
	// Out receives the progress. Neither it nor an error ever has content of
	// config.yml or the token in it.
	Out io.Writer
}

// Run writes the merged copy and asks the policy server, in this order, so that a
// mistake in the file is told at once. An error means that the server must not
// start; its text is also in the termination log.
func Run(ctx context.Context, o Options) error {
	err := run(ctx, o)
	if err != nil {
		writeTerminationLog(o, err.Error())
	}
	return err
}

func run(ctx context.Context, o Options) error {
	if err := o.validate(); err != nil {
		return err
	}
	if o.Check != "" {
		if err := checkFile(o); err != nil {
			return err
		}
		return checkPolicy(ctx, o)
	}
	source, err := readSource(o)
	if err != nil {
		return err
	}
	merged, err := Merge(source.content, o.Plugin)
	if err == nil {
		merged, err = Permit(merged, o.Permissions)
	}
	if err != nil {
		return fmt.Errorf("%s cannot be used: %w. Nothing was changed", o.Source, err)
	}
	if err := writeTarget(o.Target, merged, source); err != nil {
		return fmt.Errorf("write the merged copy: %w", err)
	}
	from := o.Source
	if from == "" {
		from = "a minimal config.yml"
	}
	o.printf("Wrote %s: %s with plugin %s", o.Target, from, o.Plugin)
	for _, key := range slices.Sorted(maps.Keys(o.Permissions)) {
		o.printf("Set %s.%s to %t", keyPermissions, key, o.Permissions[key])
	}
	return checkPolicy(ctx, o)
}

// checkPolicy waits until the policy server is ready. A server that starts without
// it refuses every run: fine for one that is isolated already, but on the very
// first injection the server as it was is better than one that refuses everything.
func checkPolicy(ctx context.Context, o Options) error {
	err := waitForPolicy(ctx, o)
	switch {
	case err == nil:
		o.printf("Policy server at %s is ready", o.PolicyURL)
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("stopped while waiting for the policy server: %w", context.Cause(ctx))
	case o.First:
		return fmt.Errorf("policy server at %s: %w. The dstack server was not started with the plugin, which would refuse every run", o.PolicyURL, err)
	default:
		o.printf("Warning: policy server at %s: %v. The dstack server starts all the same, and refuses every run until the policy server answers", o.PolicyURL, err)
		return nil
	}
}

func (o Options) validate() error {
	if err := o.validatePaths(); err != nil {
		return err
	}
	if o.Plugin != dstack.PluginPython && o.Plugin != dstack.PluginREST {
		return fmt.Errorf("plugin must be %s or %s, not %q", dstack.PluginPython, dstack.PluginREST, o.Plugin)
	}
	if o.Timeout <= 0 {
		return errors.New("timeout must be more than 0")
	}
	if !isBaseURL(o.PolicyURL) {
		// Not quoted: it might have a password in it.
		return errors.New("policy URL must be http://HOST:PORT or https://HOST:PORT, without user, query and fragment")
	}
	return nil
}

func (o Options) validatePaths() error {
	if o.Check != "" {
		if o.Source != "" || o.Target != "" {
			return errors.New("a file that is only checked has no source and no target")
		}
		if !filepath.IsAbs(o.Check) {
			return fmt.Errorf("the file to check must be an absolute path, %q is none", o.Check)
		}
		return nil
	}
	for _, path := range []string{o.Source, o.Target} {
		if !filepath.IsAbs(path) && (path == o.Target || path != "") {
			return fmt.Errorf("source and target must be absolute paths, %q is none", path)
		}
	}
	if o.Source != "" && isSameFile(o.Source, o.Target) {
		return errors.New("source and target must be two files: the user's config.yml is never written over")
	}
	return nil
}

func isBaseURL(text string) bool {
	u, err := url.Parse(text)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" &&
		u.User == nil && u.RawQuery == "" && u.Fragment == "" && !u.ForceQuery
}

func isSameFile(a, b string) bool {
	if filepath.Clean(a) == filepath.Clean(b) {
		return true
	}
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

func (o Options) printf(format string, args ...any) {
	_, _ = fmt.Fprintf(o.Out, format+"\n", args...) // progress only: nobody to tell
}

func writeTerminationLog(o Options, message string) {
	if o.TerminationLog == "" {
		return
	}
	if len(message) > terminationLogBytes {
		message = strings.ToValidUTF8(message[:terminationLogBytes], "")
	}
	// Never created: the kubelet has done so, and elsewhere it is not ours to make.
	file, err := os.OpenFile(o.TerminationLog, os.O_WRONLY|os.O_TRUNC, 0)
	if err == nil {
		_, err = file.WriteString(message)
		err = errors.Join(err, file.Close())
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		o.printf("Warning: write the termination log: %v", err)
	}
}
