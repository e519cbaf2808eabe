package preempt

import (
	"runtime"
	"strings"
	"testing"
)

//go:noinline
func checked(f func() error) error { return f() }

//go:noinline
//go:nosplit
func unchecked(f func() error) error { return f() }

func inlined(f func() error) error { return f() }

func TestPoint(t *testing.T) {
	f := func() error { return Point() }
	if err := checked(f); err != nil {
		t.Error(err)
	}
	if runtime.GOARCH != "amd64" {
		return
	}
	if err := unchecked(f); err == nil || !strings.Contains(err.Error(), "preempt.unchecked begins with") {
		t.Errorf("a function without a check: %v", err)
	}
	if err := inlined(f); err == nil || !strings.Contains(err.Error(), "preempt.inlined is part of") {
		t.Errorf("a function that is inlined: %v", err)
	}
}
