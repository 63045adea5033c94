//go:build !linux

package policy_test

import "testing"

// reportInstructions is for Linux alone.
func reportInstructions(b *testing.B, _ func()) {
	b.Helper()
	b.Log("instructions are counted on Linux only")
}
