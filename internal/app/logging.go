package app

import (
	"fmt"
	"log/slog"
	"os"

	"github.com/go-logr/logr"
)

// logLevel reads --log-level.
func logLevel(name string) (slog.Level, error) {
	switch name {
	case "info":
		return slog.LevelInfo, nil
	case "debug":
		return slog.LevelDebug, nil
	default:
		return 0, fmt.Errorf("--log-level must be info or debug, not %q", name)
	}
}

// newLogger writes JSON lines to standard error. V(0) is info, V(1) is debug.
func newLogger(level string) (logr.Logger, error) {
	l, err := logLevel(level)
	if err != nil {
		return logr.Logger{}, err
	}
	// logr's V(1) is slog's -1, far from slog's debug, which is -4.
	if l == slog.LevelDebug {
		l = slog.Level(-1)
	}
	return logr.FromSlogHandler(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
}
