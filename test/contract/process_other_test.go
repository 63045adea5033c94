//go:build !linux

package contract_test

import "syscall"

func endsWithParent() *syscall.SysProcAttr { return nil }
