package golden

import (
	"testing"

	"github.com/structuredffn/sffn/internal/shared"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Every golden vector, on every ISA of this machine.
func TestShared(t *testing.T) {
	dir := shared.Dir(t, "golden")
	pool := rt.NewPool(2)
	defer pool.Close()
	for _, isa := range kernel.Available() {
		t.Run(string(isa), func(t *testing.T) {
			passed := 0
			err := Run(dir, rt.Options{ISA: isa, Pool: pool}, func(r Result) {
				if r.Status == Failed {
					t.Errorf("%s: %s", r.Case, r.Reason)
				} else {
					passed++
					t.Logf("%s: worst %.3f of the tolerance, at %s", r.Case, r.Worst, r.Tensor)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if passed < 60 {
				t.Errorf("%d cases passed, want 60 or more", passed)
			}
		})
	}
}
