package policy_test

import (
	"encoding/binary"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reportInstructions adds the instructions that run takes, in user mode, to a
// benchmark's result. They hardly depend on what else the machine does. Virtual
// machines often have no such counter: then nothing is added, and -v says why.
func reportInstructions(b *testing.B, run func()) {
	b.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	attributes := unix.PerfEventAttr{
		Type: unix.PERF_TYPE_HARDWARE, Config: unix.PERF_COUNT_HW_INSTRUCTIONS,
		Bits: unix.PerfBitExcludeKernel | unix.PerfBitExcludeHv,
	}
	attributes.Size = uint32(unsafe.Sizeof(attributes))
	counter, err := unix.PerfEventOpen(&attributes, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		b.Logf("instructions are not counted: %v", err)
		return
	}
	defer func() { _ = unix.Close(counter) }()
	const times = 1000
	before := readCounter(b, counter)
	for range times {
		run()
	}
	b.ReportMetric(float64(readCounter(b, counter)-before)/times, "instructions/op")
}

func readCounter(b *testing.B, counter int) uint64 {
	b.Helper()
	var value [8]byte
	if _, err := unix.Read(counter, value[:]); err != nil {
		b.Fatalf("read the counter of instructions: %v", err)
	}
	return binary.NativeEndian.Uint64(value[:])
}
