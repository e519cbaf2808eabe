package cli

import (
	"errors"
	"fmt"
	"syscall"
	"testing"
)

func TestCode(t *testing.T) {
	for want, err := range map[int]error{
		0: nil,
		1: errors.New("failed"),
		2: fmt.Errorf("wrapped: %w", Usagef("--%s is missing", "out")),

		129: &Interrupted{Signal: syscall.SIGHUP},
		130: fmt.Errorf("wrapped: %w", &Interrupted{Signal: syscall.SIGINT}),
		143: &Interrupted{Signal: syscall.SIGTERM},
	} {
		if got := Code(err); got != want {
			t.Errorf("%v: exit code %d, want %d", err, got, want)
		}
	}
}
