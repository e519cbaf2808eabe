package golden

import (
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	rt "github.com/structuredffn/sffn/runtime"
)

// Every golden vector that the program carries. The test of sffn verify runs them
// on every ISA of the machine.
func TestCases(t *testing.T) {
	pool := rt.NewPool(2)
	defer pool.Close()
	kinds := map[string]int{}
	_, err := Verify(Cases(), rt.Options{Pool: pool}, func(r Result) {
		if r.Status == Failed {
			t.Errorf("%s: %s", r.Case, r.Reason)
		}
		kinds[r.Kind]++
		t.Logf("%s: worst %.3f of the tolerance, at %s", r.Case, r.Worst, r.Tensor)
	})
	if err != nil {
		t.Fatal(err)
	}
	for kind, n := range map[string]int{"layer": 29, "guided_layer": 5, "mlp": 19, "guided_mlp": 2, "init": 7, "model": 9, "trajectory": 7, "ratio_schedule": 1, "lr_schedule": 1} {
		if kinds[kind] != n {
			t.Errorf("%d cases of kind %s, want %d", kinds[kind], kind, n)
		}
	}
}

// A case in which the program panics has failed, and says where; the others run.
func TestPanic(t *testing.T) {
	kinds["broken"] = func(d *data, _ rt.Options) error {
		var none []float32
		none[d.In] = 1
		return nil
	}
	defer delete(kinds, "broken")
	dir, m := layerVectors(t, spec.Linear{Kind: spec.LowRank, In: 12, Out: 20, Rank: 5, Bias: true})
	good := m["cases"].([]any)[0]
	m["cases"] = []any{good, map[string]any{"name": "bad", "kind": "broken", "file": "own.safetensors", "in": 3}, good}
	writeManifest(t, dir, m)
	var got []string
	_, err := Verify(os.DirFS(dir), rt.Options{Pool: rt.NewPool(1)}, func(r Result) {
		got = append(got, r.Case+" "+r.Status)
		if want := "index out of range [3]"; r.Case == "bad" && (!strings.Contains(r.Reason, want) || !strings.Contains(r.Reason, "golden_test.go:")) {
			t.Errorf("got %q, want it to contain %q and the place", r.Reason, want)
		}
	})
	if want := []string{"own passed", "bad failed", "own passed"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %q, %v, want %q", got, err, want)
	}
}
