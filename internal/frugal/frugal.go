// Package frugal holds tests of readers to a limit: what is asked of them is
// hostile, and they are to say so at little cost.
package frugal

import (
	"runtime"
	"testing"
	"time"
)

// limit is long enough for any machine, and far from what unbounded readers took.
const limit = 10 * time.Second

// Run runs f, which may allocate so many bytes, all in all.
func Run(t testing.TB, bytes uint64, f func()) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	start := time.Now()
	f()
	spent := time.Since(start)
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > bytes {
		t.Errorf("%d bytes were allocated, want at most %d", n, bytes)
	}
	if spent > limit {
		t.Errorf("took %v, want at most %v", spent, limit)
	}
}
