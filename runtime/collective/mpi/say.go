//go:build linux && (amd64 || arm64)

package mpi

import (
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// say writes the last words of this rank to standard error.
func (g *Group) say(message string) {
	fmt.Fprintf(os.Stderr, "%s: %s\n", g.me(), strings.TrimPrefix(message, g.me()+": "))
	Heard()
}

// Heard waits until the launcher has what this process wrote to standard error:
// MPICH's ends all at once, and forgets what it has not read.
func Heard() {
	for range 200 {
		if n, err := unix.IoctlGetInt(2, unix.TIOCINQ); err != nil || n == 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(200 * time.Millisecond) // from the launcher's end on this machine to where it was called
}
