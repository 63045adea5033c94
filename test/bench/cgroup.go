//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// cpuGroup is a control group that gets a tenth of a core, as a pod with the
// limit "100m" does.
type cpuGroup string

// errNoGroup means that no such group can be made here.
var errNoGroup = errors.New("no control group can be made")

const groupName = "dstack-isolation-bench"

// newCPUGroup makes the group in whichever hierarchy has the CPU controller.
func newCPUGroup() (cpuGroup, error) {
	const root = "/sys/fs/cgroup"
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("%w: only root may", errNoGroup)
	}
	group, settings := filepath.Join(root, groupName), [][2]string{{"cpu.max", "10000 100000"}}
	controllers, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	switch {
	case err == nil && strings.Contains(" "+strings.TrimSpace(string(controllers))+" ", " cpu "):
		// Already delegated on most machines; where it is not, the limit below fails.
		_ = os.WriteFile(filepath.Join(root, "cgroup.subtree_control"), []byte("+cpu"), 0o644)
	default:
		group = filepath.Join(root, "cpu", groupName)
		settings = [][2]string{{"cpu.cfs_period_us", "100000"}, {"cpu.cfs_quota_us", "10000"}}
	}
	if err := os.Mkdir(group, 0o755); err != nil && !os.IsExist(err) {
		return "", fmt.Errorf("%w: %w", errNoGroup, err)
	}
	for _, setting := range settings {
		if err := os.WriteFile(filepath.Join(group, setting[0]), []byte(setting[1]), 0o644); err != nil {
			_ = os.Remove(group)
			return "", fmt.Errorf("%w: limit its CPU: %w", errNoGroup, err)
		}
	}
	return cpuGroup(group), nil
}

// add moves a process with all its threads into the group.
func (g cpuGroup) add(pid int) error {
	return os.WriteFile(filepath.Join(string(g), "cgroup.procs"), []byte(strconv.Itoa(pid)), 0o644)
}

// throttled is how many periods of 100 ms ended without CPU left.
func (g cpuGroup) throttled() (int, error) {
	stat, err := os.ReadFile(filepath.Join(string(g), "cpu.stat"))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(stat)) {
		if value, found := strings.CutPrefix(line, "nr_throttled "); found {
			return strconv.Atoi(strings.TrimSpace(value))
		}
	}
	return 0, fmt.Errorf("cpu.stat does not say nr_throttled")
}

// remove takes the group away; the kernel needs a moment after the end of its
// last process.
func (g cpuGroup) remove() {
	for range 100 {
		if err := os.Remove(string(g)); err == nil || os.IsNotExist(err) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	say("   %s could not be removed", string(g))
}
