package fakecuda

import "syscall"

// thread is the operating system's thread that runs the caller.
func thread() int { return syscall.Gettid() }
