package golden

import (
	"testing"

	"github.com/structuredffn/sffn/internal/shared"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Every golden vector that needs no guide, on every ISA of this machine.
func TestShared(t *testing.T) {
	dir := shared.Dir(t, "golden")
	pool := rt.NewPool(2)
	defer pool.Close()
	for _, isa := range kernel.Available() {
		t.Run(string(isa), func(t *testing.T) {
			n := map[string]int{}
			err := Run(dir, rt.Options{ISA: isa, Pool: pool}, func(r Result) {
				n[r.Status]++
				if r.Status == Failed {
					t.Errorf("%s: %s", r.Case, r.Reason)
				} else {
					t.Logf("%s: %s: worst %.3f of the tolerance, at %s", r.Case, r.Status, r.Worst, r.Tensor)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if n[Passed] < 40 {
				t.Errorf("%d cases passed, want 40 or more", n[Passed])
			}
		})
	}
}
