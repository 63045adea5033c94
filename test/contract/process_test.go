package contract_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// process is a started program whose output is kept.
type process struct {
	name string
	out  *transcript
	cmd  *exec.Cmd
	// ended is closed when the program is gone; then err is why.
	ended chan struct{}
	err   error
}

// startProcess starts a program with this environment and no other: what the
// user of this machine has set, proxies above all, reaches no server.
func startProcess(name string, out *transcript, env []string, command ...string) (*process, error) {
	p := &process{name: name, out: out, cmd: exec.Command(command[0], command[1:]...), ended: make(chan struct{})}
	p.cmd.Env = env
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.WaitDelay = time.Second
	p.cmd.SysProcAttr = endsWithParent()
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.ended)
	}()
	return p, nil
}

// terminate asks the program to end and returns how it did.
func (p *process) terminate() error {
	_ = p.signal(syscall.SIGTERM)
	select {
	case <-p.ended:
		return p.err
	case <-time.After(30 * time.Second):
		p.kill()
		return fmt.Errorf("%s did not end within 30s of SIGTERM", p.name)
	}
}

func (p *process) kill() {
	_ = p.signal(os.Kill)
	<-p.ended
}

func (p *process) signal(s os.Signal) error {
	err := p.cmd.Process.Signal(s)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	return err
}

func (p *process) hasEnded() bool {
	select {
	case <-p.ended:
		return true
	default:
		return false
	}
}

// transcript is the output of a program, of all its lives.
type transcript struct {
	mu      sync.Mutex
	all     bytes.Buffer
	secrets []string
}

func (t *transcript) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all.Write(p)
}

func (t *transcript) size() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all.Len()
}

// raw is what was written after the first bytes, secrets and all: to search in,
// never to print.
func (t *transcript) raw(after int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.all.Bytes()[after:])
}

// printable is the same without secrets; dstack prints its administrator's token.
func (t *transcript) printable(after int) string {
	text := t.raw(after)
	for _, secret := range t.secrets {
		text = strings.ReplaceAll(text, secret, "[secret]")
	}
	return text
}
