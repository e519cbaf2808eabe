package cuda

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/internal/gpuproof"
	"github.com/structuredffn/sffn/internal/ptx"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// Every constant of a kernel's text at which its family's plan changes has
// committed kernels below, at and above it, of which the tests of all small kernels
// and of all passes compare every result.
func TestThresholdShapes(t *testing.T) {
	type axis struct {
		family string
		axis   plan.Axis
	}
	sizes := map[axis]map[int]bool{}
	found := map[string]bool{} // by family and threshold: some kernel's list has kernels on all sides
	missing := map[string]string{}
	var all []gpu.Kernel
	for dir := range folders {
		all = append(all, tableOf(t, dir)...)
	}
	for _, k := range all {
		for _, s := range k.Thresholds() {
			if s.Size > 0 {
				a := axis{k.Family(), s.Axis}
				if sizes[a] == nil {
					sizes[a] = map[int]bool{}
				}
				sizes[a][s.Size] = true
			}
		}
	}
	for _, k := range all {
		for _, s := range k.Thresholds() {
			if s.Size == 0 {
				continue
			}
			name := fmt.Sprintf("%s: %s, %s", k.Family(), s.Axis, s.Name)
			var lack []int
			for _, n := range around(s) {
				if !sizes[axis{k.Family(), s.Axis}][n] {
					lack = append(lack, n)
				}
			}
			if lack == nil {
				found[name] = true
			} else if missing[name] == "" {
				missing[name] = fmt.Sprint(lack)
			}
		}
	}
	var names []string
	for name := range missing {
		if !found[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		t.Errorf("%s: no kernels of %s: add their shapes to edges", name, missing[name])
	}
}

// around are the sizes below, at and above a threshold.
func around(s gpu.Threshold) (ns []int) {
	for n := s.At - s.Step; n <= s.At+s.Step; n += s.Step {
		if n > 0 {
			ns = append(ns, n)
		}
	}
	return ns
}

// walk runs a kernel with n of what an axis counts, and compares all results; of
// long sequences only the blocks of rows that see the most of the other side run.
func walk(d *gpuproof.Prover, r *interpreter, k gpu.Kernel, axis plan.Axis, n int) error {
	if a, ok := k.Plan.(gpu.Attention); ok && a.Rows && axis == "seq" && n > 66 {
		keys := a.Pass == table.AttendKeys
		d.Only = func(at [3]int) bool { return keys && at[0] < 2 || !keys && at[0] >= n-2 }
		r.Only = d.Only
	}
	return d.ProveAt(k.Kernel, table.Count(axis), n)
}

// digits of a name are the sizes of a kernel, which its variant leaves out.
var digits = regexp.MustCompile("[0-9]+")

// variants picks, of the committed kernels that differ in nothing but constants and
// have the same thresholds, the one with the smallest operands.
func variants(t *testing.T) (ks []gpu.Kernel, kernels map[string]*ptx.Kernel) {
	best, least := map[string]gpu.Kernel{}, map[string]int{}
	kernels = map[string]*ptx.Kernel{}
	for _, dir := range slices.Sorted(maps.Keys(folders)) {
		ks := tableOf(t, dir)
		maps.Copy(kernels, loadPTX(t, dir, ks))
		for _, k := range ks {
			key := digits.ReplaceAllString(k.Name, "#")
			for _, s := range k.Thresholds() {
				if s.Size == 0 {
					key += fmt.Sprint(" ", s.Axis, s.At)
				}
			}
			cost := 0
			for _, p := range k.Params {
				if p.Type.Array() {
					cost += p.Bytes(table.Counts{table.Tokens: 64, table.Sequences: 1, table.SeqLen: 64, table.Slots: 64, table.Parts: 1})
				}
			}
			if b, ok := best[key]; !ok || cost < least[key] || cost == least[key] && k.Name < b.Name {
				best[key], least[key] = k, cost
			}
		}
	}
	for _, k := range best {
		ks = append(ks, k)
	}
	return gpu.Unique(ks), kernels
}

// Every variant of every family of kernels at the sizes of launches below, at and
// above each threshold, all results.
func TestThresholds(t *testing.T) {
	ks, kernels := variants(t)
	for _, k := range ks {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			done := map[string]bool{}
			for _, s := range k.Thresholds() {
				if s.Size > 0 {
					continue // TestThresholdShapes looks for these
				}
				for _, n := range around(s) {
					point := fmt.Sprintf("%s %d", s.Axis, n)
					if done[point] {
						continue
					}
					done[point] = true
					d, r := newProver(kernels, 2, uint64(n), 0)
					if err := walk(d, r, k, s.Axis, n); err != nil {
						t.Errorf("%s of %d, %s being %d: %v", s.Axis, n, s.Name, s.At, err)
					}
				}
			}
		})
	}
}

// Every kernel of edges, all results.
func TestEdges(t *testing.T) {
	ks := tableOf(t, edgeDir)
	kernels := loadPTX(t, edgeDir, ks)
	for i, k := range ks {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			rows := 5
			if _, ok := k.Plan.(gpu.Product); ok {
				rows += 40 * (i % 2)
			}
			d, _ := newProver(kernels, 3, uint64(i), 0)
			if err := d.Prove(k.Kernel, rows); err != nil {
				t.Error(err)
			}
		})
	}
}

// roundedUp is how kernels count the tiles or stages that n rows or products have.
var roundedUp = regexp.MustCompile(`add\.s32 \t%r\d+, %r\d+, (15|31|63);\s+(?:shr\.u32 \t%r\d+, %r\d+, [456]|and\.b32  \t%r\d+, %r\d+, -(?:16|32|64));`)

// A kernel that leaves out a last stage or tile of one row, or a launch without
// it, is noticed at the sizes above thresholds, and only there: right below and at
// them it does the same.
func TestThresholdMutants(t *testing.T) {
	ks, kernels := variants(t)
	// sharp runs a mutant around the thresholds of whole tiles.
	sharp := func(what string, k gpu.Kernel, kernels map[string]*ptx.Kernel, tile int, tamper func(tokens int) func(*ptx.Launch)) {
		t.Helper()
		n := 0
		for _, s := range k.Thresholds() {
			if s.Size > 0 || s.At%tile != 0 {
				continue
			}
			for _, tokens := range around(s) {
				d, r := newProver(kernels, 4, 0, 0)
				if tamper != nil {
					r.Tamper = tamper(tokens)
				}
				n++
				if err := walk(d, r, k, s.Axis, tokens); (err != nil) != (tokens%tile == 1) {
					t.Errorf("%s: %s: %s of %d: %v", k.Name, what, s.Axis, tokens, err)
				}
			}
		}
		if n < 3 {
			t.Errorf("%s: %s: tried at %d sizes", k.Name, what, n)
		}
	}
	tried := map[string]bool{}
	for _, k := range ks {
		family := string(k.Role) + k.Family()
		if tried[family] {
			continue
		}
		if p, ok := k.Plan.(gpu.Product); ok && p.Pass != table.BackwardWeight {
			tried[family] = true
			sharp("a launch without the last row's tile", k, kernels, p.Tile.M, func(tokens int) func(*ptx.Launch) {
				return func(l *ptx.Launch) {
					if tokens%p.Tile.M == 1 && l.Block == k.Threads && len(l.Args) == len(k.Params) {
						l.Grid[1]--
					}
				}
			})
			continue
		}
		p, product := k.Plan.(gpu.Product)
		a, attention := k.Plan.(gpu.Attention)
		if !(product && p.Precision == table.BF16) && !(attention && k.Role == "attend" && !a.Cache && a.Pass != table.AttendKeys) {
			continue
		}
		tried[family] = true
		for _, dir := range slices.Sorted(maps.Keys(folders)) {
			header, texts := kernelTexts(t, dir, tableOf(t, dir))
			text, ok := texts[k.Name]
			if !ok {
				continue
			}
			at := roundedUp.FindAllStringSubmatchIndex(text, -1)
			for i, m := range at {
				tile := map[string]int{"15": 16, "31": 32, "63": 64}[text[m[2]:m[3]]]
				changed := text[:m[2]] + fmt.Sprint(tile-2) + text[m[3]:]
				mod, err := ptx.Parse(header + changed)
				if err != nil {
					t.Fatal(err)
				}
				sharp(fmt.Sprintf("rounding %d", i), k, mod.Kernels, tile, nil)
			}
			if len(at) == 0 {
				t.Errorf("%s: rounds nothing up", k.Name)
			}
			break
		}
	}
	if len(tried) < 10 {
		t.Errorf("only %d families were tried: %v", len(tried), tried)
	}
}
