//go:build linux && (amd64 || arm64)

package mpi

import (
	"syscall"
	"unsafe"
)

// handlers are what the process does with each signal, as the kernel has it.
type handlers [65]struct{ handler, flags, restorer, mask uintptr }

// handlersNow reads them.
func handlersNow() *handlers {
	h := new(handlers)
	for s := 1; s < len(h); s++ {
		syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s), 0, uintptr(unsafe.Pointer(&h[s])), 8, 0, 0)
	}
	return h
}

// restore gives back to Go what the library has taken since, and returns which.
// Libraries take SIGSEGV, of which Go makes panics, and others without a stack of
// their own, which ends a process when a goroutine's is short.
func (h *handlers) restore() (taken []syscall.Signal) {
	now := handlersNow()
	for s := 1; s < len(h); s++ {
		if now[s] != h[s] {
			syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&h[s])), 0, 8, 0, 0)
			taken = append(taken, syscall.Signal(s))
		}
	}
	return taken
}
