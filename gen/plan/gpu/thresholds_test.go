package gpu

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/constants"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// notSizes are the constants that decide nothing by the size of an operand.
var notSizes = map[string]string{
	"chunk":   "which widths have bf16 kernels: TestWidths",
	"fewTile": "listed as Tile.M", "mmaM": "of an instruction", "mmaN": "of an instruction", "quad": "of an instruction",
	"attendThreads": "the widest head: TestPassErrors",
	"Float32Pitch":  "a place in shared memory", "attendStages": "listed as 2 Other",
	"sharedClock": "of the roofline",
	"fusedRows":   "of variants without kernels", "fusedRank": "of variants without kernels",
	"maxArgs": "the most parameters that a kernel has",
	"align":   "alignment", "minDriver": "a version", "minCompute": "a version", "shown": "of a message", "least": "a unit of memory",
	"testTokens": "of the loader's self-test", "testPositions": "of the loader's self-test", "testSamples": "of the loader's self-test",
	"testVersion": "a version", "maxVerdicts": "the largest file", "canary": "of proofs", "canaryValue": "of proofs",
	"jitValues": "a place in memory", "jitInfo": "a place in memory", "jitBytes": "the longest message of a compiler",
}

// Every constant of the packages below that is a number is a threshold that
// tests walk, or says above why it is none.
func TestConstantsAreListed(t *testing.T) {
	listed := map[string]bool{}
	for _, s := range EngineThresholds() {
		listed[s.Name] = true
	}
	for _, k := range gpuKernels(t) {
		for _, s := range k.Thresholds() {
			listed[s.Name] = true
		}
	}
	all, err := constants.Numbers(".", "../../../runtime/cuda", "../../../model/gpu", "../../cuda")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if !listed[c.Name] && notSizes[c.Name] == "" {
			t.Errorf("%s: %s is no threshold: list it in Thresholds, or say in notSizes why not", c.File, c.Name)
		}
	}
	if len(all) < 25 {
		t.Errorf("only %d constants were found", len(all))
	}
}

// gpuKernels are of every family.
func gpuKernels(t *testing.T) (ks []Kernel) {
	for _, p := range []table.Precision{table.BF16, table.Float32s} {
		for _, act := range spec.Acts() {
			m := model(64, 4, 16, spec.RoPE)
			m.Act, m.FFN, m.FFNBias = act, 1024, true // sums in parts
			g, err := NewModel(m, p)
			if err != nil {
				t.Fatal(err)
			}
			ks = append(ks, g.Kernels()...)
		}
	}
	for _, size := range []int{16, 24} {
		for _, position := range []spec.Position{spec.RoPE, spec.Absolute} {
			p, err := NewPasses(model(64, 4, size, position))
			if err != nil {
				t.Fatal(err)
			}
			ks = append(ks, p.Kernels()...)
		}
	}
	return Unique(ks)
}

// Every kernel whose launches have more blocks from some size on says so among
// its thresholds, and every template has kernels here.
func TestThresholds(t *testing.T) {
	templates := map[string]bool{}
	for _, k := range gpuKernels(t) {
		templates[string(k.Role)] = true
		ts := k.Thresholds()
		if len(ts) == 0 {
			t.Errorf("%s lists no thresholds", k.Name)
		}
		for _, g := range k.Grid {
			if g.Each > 1 && !slices.ContainsFunc(ts, func(s Threshold) bool { return s.Axis == plan.Axis(g.Of) && s.At == g.Each }) {
				t.Errorf("%s: a second block for more than %d %s is no threshold", k.Name, g.Each, g.Of)
			}
		}
		for _, s := range ts {
			if s.At < 1 || s.Step < 1 || s.At%s.Step != 0 || s.What == "" || s.Name == "" || s.Size < 0 {
				t.Errorf("%s: %+v", k.Name, s)
			}
		}
	}
	files, err := filepath.Glob("../../../templates/*.cu.tmpl")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if name := strings.TrimSuffix(filepath.Base(f), ".cu.tmpl"); !templates[name] && name != "epilogue" { // a part of others
			t.Errorf("no kernel of %s", name)
		}
	}
}

// Whole chunks are in bf16, all other widths in float32.
func TestWidths(t *testing.T) {
	for n := 1; n <= 3*chunk; n++ {
		for _, l := range []spec.Linear{{Kind: spec.Dense, In: n, Out: 16}, {Kind: spec.Dense, In: 16, Out: n}, {Kind: spec.LowRank, In: 16, Out: 16, Rank: n}} {
			g, err := NewLayer(l, "")
			if err != nil || (g.Precision == table.BF16) != (n%chunk == 0) {
				t.Errorf("%s: %s, %v", l.Name(), g.Precision, err)
			}
		}
		f, err := NewFFN(spec.FFN{Kind: spec.Dense, Hidden: 16, FFN: n, Act: spec.SwiGLU}, "")
		if err != nil || (f.Precision == table.BF16) != (n%chunk == 0) || (f.Why == nil) != (n%chunk == 0) {
			t.Errorf("SwiGLU of %d: %s, %v, %v", n, f.Precision, f.Why, err)
		}
	}
}
