// Package preempt tells where the Go scheduler can stop a goroutine that runs
// one assembly kernel after another. It is for tests.
package preempt

import (
	"bytes"
	"fmt"
	"runtime"
	"unsafe"
)

// stackCheck is the part of a function's beginning on amd64 that all forms of
// the check have in common: a comparison with g.stackguard0, 16 bytes from R14.
// To stop a goroutine the scheduler moves that guard.
var stackCheck = []byte{0x3b, 0x66, 0x10}

// Point says why the function that calls its caller is no point where the
// scheduler can stop the goroutine: it is part of another function, or it begins
// without a look at the stack. Other architectures than amd64 have no kernels in
// assembly.
func Point() error {
	if runtime.GOARCH != "amd64" {
		return nil
	}
	pc := make([]uintptr, 1)
	runtime.Callers(3, pc)
	f, _ := runtime.CallersFrames(pc).Next()
	if f.Func == nil {
		return fmt.Errorf("%s is part of the function that calls it", f.Function)
	}
	entry := f.Func.Entry()
	code := *(**[32]byte)(unsafe.Pointer(&entry)) // no function of Go is shorter, with its padding
	if !bytes.Contains(code[:], stackCheck) {
		return fmt.Errorf("%s begins with % x, without a look at the stack", f.Function, code[:])
	}
	return nil
}
