package cli

import (
	"errors"
	"fmt"
	"testing"
)

func TestCode(t *testing.T) {
	for want, err := range map[int]error{
		0: nil,
		1: errors.New("failed"),
		2: fmt.Errorf("wrapped: %w", Usagef("--%s is missing", "out")),
	} {
		if got := Code(err); got != want {
			t.Errorf("%v: exit code %d, want %d", err, got, want)
		}
	}
}
