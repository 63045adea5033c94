//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cores are the core that servers run on, one at a time, and that of the load.
type cores struct{ server, load int }

// chooseCores takes the last two cores: the first one has most interrupts.
func chooseCores() (cores, error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return cores{}, fmt.Errorf("ask for the cores of this process: %w", err)
	}
	var usable []int
	for core := range 1024 {
		if set.IsSet(core) {
			usable = append(usable, core)
		}
	}
	if len(usable) < 2 {
		return cores{}, errors.New("two cores are needed, one for the server and one for the load")
	}
	return cores{server: usable[len(usable)-1], load: usable[len(usable)-2]}, nil
}

// pinSelf keeps this process on one core.
func pinSelf(core int) error {
	runtime.GOMAXPROCS(1)
	threads, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, thread := range threads {
		id, err := strconv.Atoi(thread.Name())
		if err != nil {
			return err
		}
		if err := pin(id, core); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("pin to core %d: %w", core, err)
		}
	}
	return nil
}

func pin(thread, core int) error {
	var set unix.CPUSet
	set.Set(core)
	return unix.SchedSetaffinity(thread, &set)
}

// process is a server under test.
type process struct {
	address string
	command *exec.Cmd
	// ended is closed when the server has ended, for the reason failed.
	ended  chan struct{}
	failed error
	log    string
}

// start runs a program on the server's core alone. "ADDRESS" in its arguments
// becomes a free address. What it writes goes to a file of its own, so that
// writing logs costs what it costs.
func start(ctx context.Context, dir, name string, on cores, program ...string) (*process, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	replace := strings.NewReplacer("ADDRESS", address, "HOST", host, "PORT", port)
	args := make([]string, len(program))
	for i, arg := range program {
		args[i] = replace.Replace(arg)
	}
	log, err := os.Create(filepath.Join(dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	p := &process{address: address, command: exec.CommandContext(ctx, args[0], args[1:]...), ended: make(chan struct{}), log: log.Name()}
	p.command.Stdout, p.command.Stderr = log, log
	p.command.Cancel = func() error { return p.command.Process.Signal(syscall.SIGTERM) }
	p.command.WaitDelay = 5 * time.Second
	p.command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := startOn(p.command, on); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.failed = p.command.Wait()
		close(p.ended)
	}()
	return p, nil
}

// startOn starts a command from a thread that is pinned to the server's core:
// the child takes that over before its first instruction.
func startOn(command *exec.Cmd, on cores) error {
	started := make(chan error, 1)
	go func() {
		// Never unlocked: the child is told to die with this very thread, so that it
		// must live as long as the benchmark.
		runtime.LockOSThread()
		err := pin(0, on.server)
		if err == nil {
			err = command.Start()
		}
		if back := pin(0, on.load); err == nil {
			err = back
		}
		started <- err
		if err == nil {
			select {}
		}
	}()
	return <-started
}

func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer listener.Close()
	return listener.Addr().String(), nil
}

// ready waits until the server answers a question.
func (p *process) ready(ask func() error) error {
	const patience = 60 * time.Second
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		err := ask()
		if err == nil {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("the server ended: %w; see %s", p.failed, p.log)
		default:
		}
		if time.Now().After(end) {
			return fmt.Errorf("the server is not ready after %s: %w; see %s", patience, err, p.log)
		}
	}
}

// stop ends the server and waits for its end; once more does nothing.
func (p *process) stop() {
	_ = p.command.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		_ = p.command.Process.Kill()
		<-p.ended
	}
}

// cpuTime is what the server has used, in user and system mode.
func (p *process) cpuTime() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.command.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The name in parentheses may hold spaces; utime and stime are the 14th and
	// 15th field.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 13 {
		return 0, fmt.Errorf("/proc/PID/stat has only %d fields", len(fields))
	}
	var ticks int64
	for _, field := range fields[11:13] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, err
		}
		ticks += n
	}
	const perSecond = 100 // USER_HZ, on every architecture that Go runs on
	return time.Duration(ticks) * time.Second / perSecond, nil
}

// memory is the resident memory of the server now and at its highest, in
// bytes.
func (p *process) memory() (now, highest int64, err error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.command.Process.Pid))
	if err != nil {
		return 0, 0, err
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		if name != "VmRSS" && name != "VmHWM" {
			continue
		}
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			return 0, 0, err
		}
		if name == "VmRSS" {
			now = kb << 10
		} else {
			highest = kb << 10
		}
	}
	return now, highest, nil
}
