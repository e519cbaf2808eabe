package cuda

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"regexp"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/internal/ptx"
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
	var all []plan.GPUKernel
	for dir := range folders {
		all = append(all, table(t, dir)...)
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
func around(s plan.GPUThreshold) (ns []int) {
	for n := s.At - s.Step; n <= s.At+s.Step; n += s.Step {
		if n > 0 {
			ns = append(ns, n)
		}
	}
	return ns
}

// walk runs a kernel on so many of something, and compares all results.
type walk func(d *device, k plan.GPUKernel, n int) error

// walks are those of the families of kernels, by template and what launches vary
// in.
var walks = map[string]map[plan.Axis]walk{
	"gemm":        {"tokens": walkProduct},
	"sgemm":       {"tokens": walkProduct},
	"norm":        {"tokens": proveNorm},
	"columns":     {"tokens": walkColumns},
	"sum":         {"entries": func(d *device, k plan.GPUKernel, n int) error { return d.addUp(k, n, 3) }, "parts": func(d *device, k plan.GPUKernel, n int) error { return d.addUp(k, 5, n) }},
	"cast":        {"entries": walkCast},
	"attend":      {"seq": proveAttention, "keys": walkKeys},
	"attend_rows": {"seq": walkRows, "keys": walkKeys},
	"adamw":       {"entries": func(d *device, k plan.GPUKernel, n int) error { return d.adamW(k, n, true) }},
	"pack_bf16":   {"entries": (*device).pack},
	"sum_squares": {"entries": (*device).squares},
	"clip_norm":   {"entries": func(d *device, k plan.GPUKernel, n int) error { return d.clip(k, n, true) }},
}

func walkProduct(d *device, k plan.GPUKernel, tokens int) error {
	p, parts := k.Plan.(plan.GPUProduct), 1
	if p.Pass == plan.BackwardWeight {
		parts = p.WeightParts(tokens)
	}
	return d.checkParts(p, d.operands(p, tokens), tokens, parts, 0)
}

func walkColumns(d *device, k plan.GPUKernel, tokens int) error {
	p := k.Plan.(plan.GPUColumns)
	c := plan.GPUCountsOf{plan.Tokens: tokens, plan.Parts: p.Parts(tokens)}
	x := d.draw(tokens*p.Width, 1)
	a := arrays{"x": d.array(x, p.Precision), "sums": d.output(k, "sums", c)}
	if err := d.run(k, a, numbers{"rows": uint32(p.Rows(tokens))}, c); err != nil {
		return err
	}
	for i, got := range values(a["sums"], true) {
		want, abs := 0.0, 0.0
		for r := i / p.Width * p.Rows(tokens); r < min(tokens, (i/p.Width+1)*p.Rows(tokens)); r++ {
			v := x[r*p.Width+i%p.Width]
			want += v
			abs += max(v, -v)
		}
		if err := within("column", got, want, float64(p.Rows(tokens)+2)*ulp32*abs, false); err != nil {
			return fmt.Errorf("part %d, column %d: %w", i/p.Width, i%p.Width, err)
		}
	}
	return nil
}

func walkCast(d *device, k plan.GPUKernel, n int) error {
	p, x, c := k.Plan.(plan.GPUCast), d.draw32(n, 1), plan.GPUCountsOf{plan.Entries: n}
	from := plan.Float32s
	if p.Widen {
		from = plan.BF16
		for i := range x {
			x[i] = rounded(x[i])
		}
	}
	a := arrays{"x": d.array(x, from), "y": d.output(k, "y", c)}
	if err := d.run(k, a, nil, c); err != nil {
		return err
	}
	for i, got := range values(a["y"], p.Widen) {
		if err := within("entry", got, rounded(x[i]), 0, false); err != nil {
			return fmt.Errorf("entry %d: %w", i, err)
		}
	}
	return nil
}

// walkKeys continues sequences by a row or two that see n keys in all.
func walkKeys(d *device, k plan.GPUKernel, n int) error {
	rows := min(n, 2)
	return d.cached(k, n-rows, rows)
}

// walkRows runs of long sequences the rows that see the most of the other side.
func walkRows(d *device, k plan.GPUKernel, n int) error {
	if n > 66 {
		keys := k.Plan.(plan.GPUAttention).Pass == plan.AttendKeys
		d.only = func(at [3]int) bool { return keys && at[0] < 2 || !keys && at[0] >= n-2 }
	}
	return proveAttention(d, k, n)
}

// digits of a name are the sizes of a kernel, which its variant leaves out.
var digits = regexp.MustCompile("[0-9]+")

// variants picks, of the committed kernels that differ in nothing but constants and
// have the same thresholds, the one with the smallest operands.
func variants(t *testing.T) (ks []plan.GPUKernel, kernels map[string]*ptx.Kernel) {
	best, least := map[string]plan.GPUKernel{}, map[string]int{}
	kernels = map[string]*ptx.Kernel{}
	for _, dir := range slices.Sorted(maps.Keys(folders)) {
		ks := table(t, dir)
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
					cost += p.Bytes(plan.GPUCountsOf{plan.Tokens: 64, plan.Sequences: 1, plan.SeqLen: 64, plan.Slots: 64, plan.Parts: 1})
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
	return plan.GPUUnique(ks), kernels
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
				walk := walks[k.Template][s.Axis]
				if walk == nil {
					t.Errorf("nothing walks %s of %s", s.Axis, k.Template)
					continue
				}
				for _, n := range around(s) {
					point := fmt.Sprintf("%s %d", s.Axis, n)
					if done[point] {
						continue
					}
					done[point] = true
					d := &device{t: t, kernels: kernels, rng: rand.New(rand.NewPCG(2, uint64(n))), seed: uint64(n)}
					if err := walk(d, k, n); err != nil {
						t.Errorf("%s of %d, %s being %d: %v", s.Axis, n, s.Name, s.At, err)
					}
				}
			}
		})
	}
}

// Every kernel of edges, all results.
func TestEdges(t *testing.T) {
	ks := table(t, edgeDir)
	kernels := loadPTX(t, edgeDir, ks)
	for i, k := range ks {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			d := &device{t: t, kernels: kernels, rng: rand.New(rand.NewPCG(3, uint64(i))), seed: uint64(i)}
			var err error
			switch k.Plan.(type) {
			case plan.GPUProduct:
				err = walkProduct(d, k, 5+40*(i%2))
			case plan.GPUFinish: // its product runs it
			case plan.GPUColumns:
				err = walkColumns(d, k, 5)
			default:
				err = d.prove(k, 5)
			}
			if err != nil {
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
	sharp := func(what string, k plan.GPUKernel, kernels map[string]*ptx.Kernel, tile int, tamper func(tokens int) func(*ptx.Launch)) {
		t.Helper()
		n := 0
		for _, s := range k.Thresholds() {
			if s.Size > 0 || s.At%tile != 0 {
				continue
			}
			for _, tokens := range around(s) {
				d := &device{t: t, kernels: kernels, rng: rand.New(rand.NewPCG(4, uint64(tokens)))}
				if tamper != nil {
					d.tamper = tamper(tokens)
				}
				n++
				if err := walks[k.Template][s.Axis](d, k, tokens); (err != nil) != (tokens%tile == 1) {
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
		family := k.Template + k.Family()
		if tried[family] {
			continue
		}
		if p, ok := k.Plan.(plan.GPUProduct); ok && p.Pass != plan.BackwardWeight {
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
		p, product := k.Plan.(plan.GPUProduct)
		a, attention := k.Plan.(plan.GPUAttention)
		if !(product && p.Precision == plan.BF16) && !(attention && k.Template == "attend" && !a.Cache && a.Pass != plan.AttendKeys) {
			continue
		}
		tried[family] = true
		for _, dir := range slices.Sorted(maps.Keys(folders)) {
			header, texts := kernelTexts(t, dir, table(t, dir))
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
