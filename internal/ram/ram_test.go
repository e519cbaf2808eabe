package ram

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
)

// Memory that is refused becomes an error, any other panic goes on.
func TestRefused(t *testing.T) {
	call := func(f func()) (err error) {
		defer Refused(&err)
		f()
		return nil
	}
	if err := call(func() {}); err != nil {
		t.Error(err)
	}
	err := call(func() { panic(fmt.Errorf("cannot map: %w", syscall.ENOMEM)) })
	if err == nil || !strings.HasPrefix(err.Error(), "out of memory: cannot map") {
		t.Errorf("refused memory: %v", err)
	}
	for _, v := range []any{"a mistake", fmt.Errorf("a mistake")} {
		func() {
			defer func() {
				if got := recover(); got != v {
					t.Errorf("%v came out as %v", v, got)
				}
			}()
			t.Errorf("a mistake is the error %v", call(func() { panic(v) }))
		}()
	}
}
