package runtime

import (
	"fmt"

	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// drawSchedule draws a legal schedule that runs the kernels of another: what the
// emitter was told stays.
func drawSchedule(t *rapid.T, s kernel.Schedule) kernel.Schedule {
	n := func(name string, lo, hi int) int { return rapid.IntRange(lo, hi).Draw(t, name) }
	narrower := kernel.MaxMR
	for _, w := range []kernel.Width{kernel.Half, kernel.Full, kernel.Long, kernel.Pair} {
		if tile := &s.Tiles[w]; tile.Max > 0 {
			tile.Max = n(fmt.Sprint("max", w), 1, min(narrower, tile.Max))
			narrower = tile.Max
			tile.Main = n(fmt.Sprint("main", w), 1, tile.Max)
		}
	}
	if rapid.Bool().Draw(t, "pairs") {
		s.Tiles[kernel.Pair] = kernel.Tile{}
	}
	s.Across = kernel.AcrossTile{Rows: n("across_rows", 1, s.Across.Rows), Columns: n("across_columns", 1, s.Across.Columns), Depth: n("across_depth", 1, kernel.RowBlock), Ahead: s.Across.Ahead}
	s.ChunkBytes = 1 << n("chunk_bytes", 0, 21)
	s.LoneRows, s.PairTall = n("lone_rows", 0, kernel.MaxMR), rapid.Bool().Draw(t, "pair_tall")
	s.ShallowBytes, s.SetBytes = n("shallow_bytes", 0, 64<<10), 64<<n("set_bytes", 0, 7)
	s.PanelBytes, s.FewRows = n("panel_bytes", 1, 1<<20), n("few_rows", 0, 200)
	s.RowTiles = n("row_tiles", 1, kernel.MaxMR)
	s.MinRowChunk = n("min_row_chunk", s.RowTiles, 60)
	s.MaxRowChunk = s.RowTiles * n("max_row_chunk", (s.MinRowChunk+s.RowTiles-1)/s.RowTiles, 100)
	s.ChunksPerThread, s.UnitsPerThread = n("chunks_per_thread", 1, 6), n("units_per_thread", 1, 12)
	s.InlineFlops = n("inline_flops", 0, 200_000)
	s.StripRows, s.LeftStrips = n("strip_rows", 1, s.StripRows), n("left_strips", 1, 9)
	s.GradientBytes = n("gradient_bytes", 1, 1<<20)
	s.WeightUnitsPerThread, s.SmallUnit = n("weight_units_per_thread", 1, 9), n("small_unit", 1, 1<<18)
	s.BiasColumns, s.ColumnRows, s.MergeRows = n("bias_columns", 1, 300), n("column_rows", 1, 300), n("merge_rows", 1, 300)
	return s
}

// Schedules decide no bits: whatever is drawn, everything that a layer, a network
// and attention compute is as on the target's own schedule, on every instruction set.
func TestSchedulesGiveEqualBits(t *testing.T) {
	specs := []any{
		spec.FFN{Kind: spec.Dense, Hidden: 112, FFN: 800, Act: spec.GELU, Bias: true},
		spec.FFN{Kind: spec.LowRank, Hidden: 100, FFN: 130, Rank: 70, Act: spec.SwiGLU, Guide: true},
		spec.FFN{Kind: spec.BlockDense, Hidden: 96, FFN: 384, Rank: 72, Blocks: 2, Act: spec.GELU},
		spec.FFN{Kind: spec.BlockShuffle, Hidden: 96, FFN: 240, Blocks: 3, Act: spec.SwiGLU, Bias: true},
		spec.Linear{Kind: spec.BlockShuffle, In: 128, Out: 256, Blocks: 4, Bias: true, Guide: true},
		spec.Linear{Kind: spec.Dense, In: 1024, Out: 48, Bias: true},
	}
	attention := AttentionSpec{QHeads: 2, KVHeads: 1, HeadDim: 36, Scale: 1. / 6}
	for _, target := range available() {
		if target.FullWidth {
			continue // a schedule like any other
		}
		t.Run(target.Name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				drawn := target
				drawn.Name, drawn.Schedule = "drawn", drawSchedule(rt, target.Schedule)
				if err := drawn.Validate(); err != nil {
					rt.Fatal(err)
				}
				r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
				m, threads := rapid.IntRange(1, 330).Draw(rt, "rows"), rapid.IntRange(1, 3).Draw(rt, "threads")
				if target.ISA == kernel.Portable {
					m = 1 + m%20
				}
				u := newSubject(rapid.SampledFrom(specs).Draw(rt, "spec"), r)
				x, res, dy := u.positive(m*u.in, 1), u.positive(m*u.out, 1), u.positive(m*u.out, 1)
				var got [2]*outcome
				for i, on := range []*kernel.Target{&target, &drawn} {
					got[i] = u.run(t, Options{Target: on, Pool: poolOf(threads), Train: true}, x, res, dy, m)
				}
				got[1].same(t, fmt.Sprintf("%s, %d rows on %d threads, %+v", u.name, m, threads, drawn.Schedule), got[0])

				qkv, do := random(r, m*attention.RowWidth(), 1), random(r, m*attention.OutWidth(), 1)
				var results [2][][]float32
				for i, on := range []*kernel.Target{&target, &drawn} {
					a, err := NewAttention(attention, Options{Target: on, Pool: poolOf(threads)})
					if err != nil {
						rt.Fatal(err)
					}
					ws := a.NewWorkspace()
					o, sums, dqkv := poisoned(m*attention.OutWidth()), poisoned(2*m*attention.QHeads), poisoned(m*attention.RowWidth())
					a.Forward(o, sums, qkv, 1, m, ws)
					a.Backward(dqkv, do, o, sums, qkv, 1, m, ws)
					ws.Close()
					results[i] = [][]float32{o, sums, dqkv}
				}
				for i := range results[0] {
					sameBits(t, fmt.Sprintf("attention, %d rows, %+v", m, drawn.Schedule), results[1][i], results[0][i])
				}
				if t.Failed() {
					rt.FailNow()
				}
			})
		})
	}
}

// Options refuse a target that is illegal or for another instruction set.
func TestTargetOption(t *testing.T) {
	target := available()[0]
	if err := (&Options{ISA: "other", Target: &target}).setDefaults(); err == nil || !strings.Contains(err.Error(), "other") {
		t.Errorf("a target for another instruction set: %v", err)
	}
	target.RowTiles = 0
	if err := (&Options{Target: &target}).setDefaults(); err == nil || !strings.Contains(err.Error(), "row_tiles: 0 is out of range") {
		t.Errorf("an illegal schedule: %v", err)
	}
	for _, target := range kernel.Targets() {
		if slices.Contains(kernel.Available(), target.ISA) {
			continue
		}
		if err := (&Options{Target: &target}).setDefaults(); err == nil {
			t.Errorf("%s runs where its instruction set is missing", target.Name)
		}
	}
}

// The rows of one instruction set give equal bits at the size of use: widths of the
// paper's smallest model, and more rows than a chunk of any of them.
func TestTargetsGiveEqualBits(t *testing.T) {
	const m = 600
	for _, s := range []spec.FFN{
		{Kind: spec.LowRank, Hidden: 768, FFN: 3072, Rank: 192, Act: spec.GELU, Bias: true},
		{Kind: spec.BlockShuffle, Hidden: 768, FFN: 3072, Blocks: 4, Act: spec.SwiGLU},
	} {
		u := newSubject(s, rand.New(rand.NewPCG(6, 6)))
		x, res, dy := u.positive(m*u.in, 1), u.positive(m*u.out, 1), u.positive(m*u.out, 1)
		first := map[kernel.ISA]*outcome{}
		for _, target := range available() {
			if target.ISA == kernel.Portable {
				continue
			}
			got := u.run(t, Options{Target: &target, Pool: poolOf(2), Train: true}, x, res, dy, m)
			if first[target.ISA] == nil {
				first[target.ISA] = got
			}
			got.same(t, u.name+" on "+target.Name, first[target.ISA])
		}
	}
}
