// Package ram tells how much memory a process may still take.
package ram

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Refused, deferred, makes an error of a panic about memory that the system
// refuses. A program's own mistakes stay panics.
func Refused(err *error) {
	v := recover()
	if v == nil {
		return
	}
	e, ok := v.(error)
	if !ok || !errors.Is(e, syscall.ENOMEM) {
		panic(v)
	}
	*err = fmt.Errorf("out of memory: %w; take a smaller model, batch or length, or raise the limit (ulimit -v)", e)
}

// Available is the memory that can be had without swapping, in bytes, within
// the limit of the control group; ok is false where the system does not say.
func Available() (bytes int64, ok bool) {
	bytes, ok = field("/proc/meminfo", "MemAvailable:")
	bytes <<= 10
	if limit, has := number("/sys/fs/cgroup/memory.max"); has {
		used, _ := number("/sys/fs/cgroup/memory.current")
		if cache, has := field("/sys/fs/cgroup/memory.stat", "file"); has {
			used -= cache // given back when needed
		}
		if left := limit - used; !ok || left < bytes {
			return left, true
		}
	}
	return bytes, ok
}

// number reads a file that holds one number; "max" is none.
func number(name string) (int64, bool) {
	b, err := os.ReadFile(name)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	return n, err == nil
}

// field reads the number after a name at the beginning of a line.
func field(file, name string) (int64, bool) {
	f, err := os.Open(file)
	if err != nil {
		return 0, false
	}
	defer f.Close()
	for sc := bufio.NewScanner(f); sc.Scan(); {
		if w := strings.Fields(sc.Text()); len(w) > 1 && w[0] == name {
			n, err := strconv.ParseInt(w[1], 10, 64)
			return n, err == nil
		}
	}
	return 0, false
}
