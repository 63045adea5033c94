package app

import (
	"fmt"
	"io"
	"log/slog"

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"k8s.io/klog/v2"
	logf "sigs.k8s.io/controller-runtime/pkg/log"
)

// logFlags are the flags of every long-running subcommand.
type logFlags struct {
	level string
}

// register adds the flags; debug says what the subcommand logs at that level.
func (f *logFlags) register(cmd *cobra.Command, debug string) {
	cmd.Flags().StringVar(&f.level, "log-level", "info", "info, or debug for "+debug+" too")
}

// logger makes the process's logger: one JSON object a line. The libraries for
// Kubernetes log to it as well.
func (f *logFlags) logger(out io.Writer) (logr.Logger, error) {
	levels := map[string]slog.Level{"info": slog.LevelInfo, "debug": slog.LevelDebug}
	level, known := levels[f.level]
	if !known {
		return logr.Logger{}, fmt.Errorf("--log-level %q is not known: use info or debug", f.level)
	}
	log := logr.FromSlogHandler(slog.NewJSONHandler(out, &slog.HandlerOptions{Level: level, ReplaceAttr: plainLevel}))
	klog.SetLogger(log.WithName("kubernetes"))
	logf.SetLogger(log)
	return log, nil
}

// plainLevel names every verbosity above the usual one DEBUG, where slog would
// count from the next level of its own ("DEBUG+3").
func plainLevel(groups []string, a slog.Attr) slog.Attr {
	if level, ok := a.Value.Any().(slog.Level); ok && len(groups) == 0 && a.Key == slog.LevelKey && level < slog.LevelInfo {
		a.Value = slog.StringValue(slog.LevelDebug.String())
	}
	return a
}
