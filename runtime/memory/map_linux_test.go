package memory

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// More than the machine has is a panic with the system's error, in words, and leaves the
// arena as it was.
func TestTooMuch(t *testing.T) {
	total := held(t)
	var a Arena
	defer a.Close()
	x := a.Bytes(100)
	x[99] = 5
	before := total()
	for _, n := range []int{1 << 47, 1 << 50} { // beyond the addresses of a process
		func() {
			defer func() {
				err, _ := recover().(error)
				if !errors.Is(err, unix.ENOMEM) || !strings.HasPrefix(err.Error(), "memory: cannot map ") || !strings.Contains(err.Error(), " bytes: ") {
					t.Errorf("%d bytes: %v", n, err)
				}
			}()
			a.Bytes(n)
			t.Errorf("%d bytes are handed out", n)
		}()
	}
	if total() != before {
		t.Errorf("what was refused counts as held: %d bytes", total()-before)
	}
	if y := a.Bytes(100); x[99] != 5 || &y[0] == &x[0] || y[99] != 0 {
		t.Error("the arena is not as it was")
	}
}

// What is closed is given back to the system, at once.
func TestGivenBack(t *testing.T) {
	held(t)
	const size = 512 << 20 // beside which the Go heap's own growth is little
	before := mappedPages(t)
	var a Arena
	a.Bytes(size)
	if got := (mappedPages(t) - before) * os.Getpagesize(); got < size {
		t.Errorf("%d bytes more are mapped, want %d or more", got, size)
	}
	a.Close()
	if got := (mappedPages(t) - before) * os.Getpagesize(); got > size/2 {
		t.Errorf("%d bytes more are mapped after closing", got)
	}
}

// mappedPages is the number of pages that the process has mapped.
func mappedPages(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(strings.Fields(string(b))[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}
