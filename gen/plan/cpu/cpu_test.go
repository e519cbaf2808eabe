package cpu

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/internal/constants"
	"github.com/structuredffn/sffn/internal/draw"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Every row of the table is a legal schedule, has a name of its own, and keeps the
// strips that its instruction set's elementwise kernels pack. Each instruction set
// has a row for processors whatever their width.
func TestTargets(t *testing.T) {
	names, narrow := map[string]bool{}, map[kernel.ISA]bool{}
	for _, target := range Targets() {
		if err := target.Validate(); err != nil || names[target.Name] {
			t.Errorf("target %s: %v", target.Name, err)
		}
		names[target.Name] = true
		narrow[target.ISA] = narrow[target.ISA] || !target.FullWidth
		for _, v := range Vecs() {
			if v.ISA == target.ISA && v.StripRows != target.StripRows {
				t.Errorf("%s has strips of %d, its kernels pack %d", target.Name, target.StripRows, v.StripRows)
			}
		}
		if got, ok := Target(target.Name); !ok || got != target {
			t.Errorf("%s is not found by its name", target.Name)
		}
	}
	for _, isa := range kernel.ISAs {
		if !narrow[isa] {
			t.Errorf("%s has no row for all processors", isa)
		}
	}
}

// Tiles cover the rows, none is taller than its kernels, and tails are
// balanced.
func TestRows(t *testing.T) {
	rows := func(s kernel.Schedule, m int, w kernel.Width) (heights []int) {
		for m > 0 {
			h := s.RowTile(m, w)
			heights = append(heights, h)
			m -= h
		}
		return heights
	}
	for _, target := range Targets() {
		for w, tile := range target.Tiles {
			for m := range 200 {
				if tile.Max == 0 {
					break
				}
				sum := 0
				for _, h := range rows(target.Schedule, m, kernel.Width(w)) {
					sum += h
					if h < 1 || h > tile.Max {
						t.Fatalf("%s: %d rows in a tile of %d", target.Name, m, h)
					}
				}
				if sum != m {
					t.Fatalf("%s: %d rows in tiles of %d", target.Name, m, sum)
				}
			}
		}
	}
	if got := rows(Targets()[0].Schedule, 61, kernel.Pair); !slices.Equal(got, []int{6, 6, 6, 6, 6, 6, 6, 6, 6, 4, 3}) {
		t.Errorf("61 rows: %v", got)
	}
}

// Which kernels serve the paper's shapes.
func TestSpecialised(t *testing.T) {
	names := func(target string, l spec.Linear) (ns []string) {
		row, _ := Target(target)
		for _, k := range Kernels(row, plan.NewLayer(l).Factors[0].Forward()[0]) {
			ns = append(ns, k.Name())
		}
		return ns
	}
	for _, c := range []struct {
		target string
		l      spec.Linear
		want   []string
	}{
		{"avx512", spec.Linear{Kind: spec.Dense, In: 768, Out: 3072}, []string{"mul_f32_k768a768c3072_6x64_avx512", "mul_f32_k768_1x32_avx512"}},
		{"avx512", spec.Linear{Kind: spec.Dense, In: 768, Out: 96}, []string{"mul_f32_k768a768c96_6x64_avx512", "mul_f32_k768_1x32_avx512", "mul_f32_k768a768c96_12x32_avx512"}},
		{"avx512", spec.Linear{Kind: spec.Dense, In: 768, Out: 48}, []string{"mul_f32_k768a768c48_6x48_avx512", "mul_f32_k768_1x48_avx512"}},
		{"avx512", spec.Linear{Kind: spec.Dense, In: 768, Out: 16}, []string{"mul_f32_k768a768c16_12x16_avx512", "mul_f32_k768_1x16_avx512"}},
		{"avx512", spec.Linear{Kind: spec.Dense, In: 768, Out: 7}, nil},
		{"avx512", spec.Linear{Kind: spec.LowRank, In: 3072, Out: 768, Rank: 192}, []string{"mul_f32_k768a3072c192_6x64_avx512", "mul_f32_k768_1x32_avx512"}},
		{"avx512full", spec.Linear{Kind: spec.Dense, In: 768, Out: 3072}, []string{"mul_f32_k768a768c3072_6x64_avx512", "mul_f32_k768_1x64_avx512", "mul_f32_k768a768c3072_12x32_avx512", "mul_f32_k768_1x32_avx512"}},
		{"avx2", spec.Linear{Kind: spec.Dense, In: 768, Out: 3072}, []string{"mul_f32_k768a768c3072_6x32_avx2", "mul_f32_k768_1x32_avx2"}},
	} {
		if got := names(c.target, c.l); !slices.Equal(got, c.want) {
			t.Errorf("%s on %s: %v, want %v", c.l.Name(), c.target, got, c.want)
		}
	}
}

// Names carry the whole plan: kernels with one name are one kernel, on all targets.
// The specialised ones are those of all presets and of small layers of every form.
func TestNamesAreUnique(t *testing.T) {
	var layers []plan.Layer
	for _, name := range specfile.Presets() {
		m, err := specfile.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range min(m.Layers, 2) { // the first one may be dense
			f := plan.NewFFN(m.LayerFFN(i))
			layers = append(layers, f.FC1, f.FC2)
		}
		layers = append(layers, plan.NewLayer(m.QKV()), plan.NewLayer(m.Output()), plan.NewLayer(m.Head()))
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		hidden, ffn, act := 1+r.IntN(100), 1+r.IntN(200), spec.Acts()[r.IntN(len(spec.Acts()))]
		p := plan.NewFFN(draw.Structure(r.IntN, hidden, ffn, act).Network(hidden, ffn, act))
		layers = append(layers, p.FC1, p.FC2)
	}
	seen := map[string]kernel.Row{}
	add := func(k kernel.Row) {
		if err := k.Validate(); err != nil && k.ISA != kernel.Portable {
			t.Errorf("%s: %v", k.Name(), err)
		}
		if o, ok := seen[k.Name()]; ok && !reflect.DeepEqual(o, k) {
			t.Fatalf("%s is the name of %+v and of %+v", k.Name(), o, k)
		}
		seen[k.Name()] = k
	}
	for _, target := range Targets() {
		any := map[string]bool{}
		for _, k := range Any(target) {
			if any[k.Name()] {
				t.Errorf("%s comes twice", k.Name())
			}
			any[k.Name()] = true
			add(k)
		}
		before := len(seen)
		// What the runtime looks up by name: every tile of every block of k.
		for _, l := range layers {
			factors := l.Factors
			if l.Guide != nil {
				factors = append(slices.Clone(factors), *l.Guide)
			}
			for _, f := range factors {
				for _, p := range append(f.Forward(), f.BackwardData()...) {
					k0 := 0
					for i, kc := range p.KBlocks {
						_, segs := Segments(p.Format, p, k0, kc)
						k0 += kc
						for w := range kernel.NumWidths {
							for _, k := range Shaped(&target, p, i, segs, w) {
								if target.ISA != kernel.Portable {
									add(k)
								}
							}
						}
					}
				}
			}
		}
		if n := len(seen) - before; target.ISA != kernel.Portable && !target.FullWidth && n < 20 {
			t.Errorf("%s adds %d kernels for shapes", target.Name, n)
		}
	}
}

func TestPanelGroup(t *testing.T) {
	for _, target := range Targets() {
		for _, kc := range []int{1, 64, 192, 768} {
			if n := target.PanelGroup(4*kernel.Panel*kc, 1); n != 2 {
				t.Errorf("%s: one row passes over %d panels of depth %d", target.Name, n, kc)
			}
			n := target.PanelGroup(4*kernel.Panel*kc, 2048)
			if n < 2 || n%2 != 0 || n > 2 && 4*kernel.Panel*kc*n > target.PanelBytes {
				t.Errorf("%s: groups of %d panels of depth %d", target.Name, n, kc)
			}
		}
	}
}

// Rows between factors shorten chunks where they are wider than those of any preset
// whose layers are not wider between their factors than at both ends.
func TestChunkBytes(t *testing.T) {
	widest := 0
	for _, name := range specfile.Presets() {
		m, err := specfile.Load(name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range min(m.Layers, 2) {
			f := plan.NewFFN(m.LayerFFN(i))
			for _, l := range []plan.Layer{f.FC1, f.FC2} {
				if !l.Wide() {
					widest = max(widest, l.Inner())
				}
			}
		}
	}
	for _, target := range Targets() {
		for _, threads := range []int{1, 2, 16} {
			for _, m := range []int{1, 100, 1000, 10000} {
				if got, want := target.RowChunk(m, threads, widest), target.RowChunk(m, threads, 0); got != want {
					t.Errorf("%s: %d rows of %d entries pass in chunks of %d, want %d", target.Name, m, widest, got, want)
				}
				got := target.RowChunk(m, threads, 2*368*16)
				if got%target.RowTiles != 0 || got > target.RowTiles && kernel.EntryBytes*2*368*16*got > target.ChunkBytes {
					t.Errorf("%s: %d wide rows pass in chunks of %d", target.Name, m, got)
				}
			}
		}
	}
	if widest < 1000 {
		t.Errorf("the widest row of a preset has %d entries", widest)
	}
	t.Log(widest)
}

// notSizes are the constants that decide nothing by the size of an operand.
var notSizes = map[string]string{
	"walkDepth": "of the thresholds' own list",
	"hugePage":  "alignment", "smallPage": "alignment", "cacheLine": "alignment", "align": "alignment",
	"lineBytes": "a unit of prefetching", "readUnit": "of a measurement", "maxSpins": "time", "YieldCalls": "time",
	"Eps": "not a size", "gain": "not a size", "smallest": "not a size", "roundedRow": "room for a row", "LeftHead": "a place", "MinQuant": "a choice of formats, which tests of whole networks meet on both sides", "MaxKCIntegers": "a limit: what is deeper is refused", "LeftGroupBytes": "a size of a group", "Ignored": "a mark", "dropEmbedding": "a place of draws",
	"crossoverRounds": "of a measurement", "crossoverMost": "of a measurement", "crossoverTime": "of a measurement",
	"scratchTile": "room for the largest tile", "stripGap": "a distance in memory", "WeaveBlocks": "one of two numbers of operands", "gathered": "a piece of what is copied", "pairsAtOnce": "a piece of what is packed",
	"Accumulate": "a flag", "MaxMR": "room for the largest tile", "MaxAcross": "room for the largest tile", "maxStride": "the largest immediate", "ABI": "a version", "EntryBytes": "of a type", "AheadK": "a unit of prefetching", "noOp": "a mark",
}

// Every constant of the packages below that is a number is a threshold that
// tests walk, or says above why it is none.
func TestConstantsAreListed(t *testing.T) {
	listed := map[string]bool{}
	for _, target := range Targets() {
		for _, threads := range []int{1, 2} {
			for _, s := range Thresholds(target, threads) {
				listed[s.Name] = true
			}
		}
	}
	all, err := constants.Numbers(".", "..", "../../../runtime", "../../../runtime/pool", "../../../runtime/memory", "../../../runtime/mul", "../../../runtime/attention", "../../../runtime/kernel", "../../../runtime/vec", "../../../model")
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

// Every size of a schedule is a threshold, or says here why it is none.
func TestScheduleIsListed(t *testing.T) {
	notThresholds := map[string]string{
		"Tiles": "listed by width", "Unroll": "of the emitter", "PrefetchC": "of the emitter", "AheadColumns": "of the emitter", "AheadRows": "of the emitter",
		"PairTall": "not a size", "ShallowBytes": "listed as the depth at which a panel has so many bytes", "SetBytes": "listed as the rows that share sets",
		"PanelBytes": "listed as PanelGroup", "GradientBytes": "listed as gradient group", "RowTiles": "the unit of MinRowChunk and MaxRowChunk",
		"ChunksPerThread": "a factor of the thresholds of row chunks", "UnitsPerThread": "a number of shares", "WeightUnitsPerThread": "a number of shares",
	}
	listed := map[string]bool{}
	for _, threads := range []int{1, 2} {
		for _, s := range Thresholds(Targets()[0], threads) {
			listed[s.Name] = true
		}
	}
	fields := reflect.TypeOf(kernel.Schedule{})
	for i := range fields.NumField() {
		if name := fields.Field(i).Name; !listed[name] && notThresholds[name] == "" {
			t.Errorf("%s is no threshold", name)
		}
	}
}
