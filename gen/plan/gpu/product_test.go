package gpu

import (
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// Every place of a row belongs to one entry, packs hold every weight once, and
// 16-byte copies reach all of them.
func TestPlaces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawGPU(t)
		for _, l := range p.Layers() {
			for _, g := range l.Factors {
				k := g.Forward
				covers(t, k.Blocks, k.A)
				covers(t, k.Blocks, k.C)
				for b := range k.Blocks {
					permutation(t, g.Out[b])
					permutation(t, g.In[b])
				}
			}
			permutation(t, l.Bias)
		}
		permutation(t, p.Output)
	})
}

// drawGPU plans a network whose widths and runs are multiples of 8.
func drawGPU(t *rapid.T) FFN {
	f := drawFFN(t, chunk)
	f.FFN *= 2                       // whole chunks of gates and of ups
	if f.Kind == spec.BlockShuffle { // and of the runs between its factors
		f.Hidden, f.FFN = f.Hidden*f.Blocks, f.FFN*f.Blocks
	}
	p, err := NewBF16(f)
	if err != nil {
		t.Fatalf("%s: %v", f.Name(), err)
	}
	return p
}

// drawFFN is a network whose widths are multiples of unit.
func drawFFN(t *rapid.T, unit int) spec.FFN {
	n := func(name string, hi int) int { return unit * rapid.IntRange(1, hi).Draw(t, name) }
	f := spec.FFN{
		Kind:   rapid.SampledFrom([]spec.Kind{spec.Dense, spec.LowRank, spec.BlockDense, spec.BlockShuffle}).Draw(t, "kind"),
		Hidden: n("hidden", 100), FFN: n("ffn", 200), Act: rapid.SampledFrom(spec.Acts()).Draw(t, "act"),
	}
	switch f.Kind {
	case spec.LowRank:
		f.Rank = n("rank", min(f.Hidden, f.FFN)/unit)
	case spec.BlockDense:
		f.Blocks = rapid.IntRange(1, 5).Draw(t, "blocks")
		f.Hidden, f.FFN, f.Rank = f.Hidden*f.Blocks, f.FFN*f.Blocks, f.Blocks*n("rank", 20)
	case spec.BlockShuffle:
		f.Blocks = rapid.IntRange(1, 7).Draw(t, "blocks")
		f.Hidden, f.FFN = f.Hidden*f.Blocks, f.FFN*f.Blocks
	}
	return f
}

func covers(t *rapid.T, blocks int, o table.Operand) {
	seen := make([]int, o.Pitch)
	for b := range blocks {
		for i := range o.Cols.Len {
			seen[o.Cols.At(b, i)]++
		}
		for i := 0; i < o.Cols.Len; i += chunk {
			if first := o.Cols.At(b, i); first%chunk != 0 || o.Cols.At(b, i+chunk-1) != first+chunk-1 {
				t.Fatalf("%+v: block %d: entries from %d are not 16 aligned bytes", o, b, i)
			}
		}
	}
	if slices.ContainsFunc(seen, func(n int) bool { return n != 1 }) {
		t.Fatalf("%+v does not cover its row once: %v", o, seen)
	}
}

func permutation(t *rapid.T, p []int) {
	s := slices.Clone(p)
	slices.Sort(s)
	for i, v := range s {
		if i != v {
			t.Fatalf("%v is no permutation", p)
		}
	}
}

// Widths that the kernels cannot serve are errors that say what would be
// right.
func TestErrors(t *testing.T) {
	for _, c := range []struct {
		f    spec.FFN
		want string
	}{
		{spec.FFN{Kind: spec.Dense, Hidden: 100, FFN: 256, Act: spec.GELU}, "fc1: inputs of weight: blocks of 100 in runs of 100: GPU kernels copy 8 neighbours"},
		{spec.FFN{Kind: spec.LowRank, Hidden: 64, FFN: 256, Rank: 12, Act: spec.GELU}, "fc1: outputs of lr1: blocks of 12"},
		{spec.FFN{Kind: spec.BlockShuffle, Hidden: 64, FFN: 256, Blocks: 4, Act: spec.GELU}, "fc1: outputs of blkdiag1: blocks of 16 in runs of 4"},
		{spec.FFN{Kind: spec.Dense, Hidden: 64, FFN: 12, Act: spec.SwiGLU}, "multiple of 16"},
		{spec.FFN{Kind: spec.LowRank, Hidden: 64, FFN: 256, Rank: 16, Act: spec.GELU, Guide: true}, "fc1: guided layers have no GPU kernels"},
	} {
		if _, err := NewBF16(c.f); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %s", c.f.Name(), err, c.want)
		}
	}
}

// The model's choices where they are known: a low rank on an H100 is merged
// for one token, because a second launch costs more than the larger matrix, and
// not where the larger matrix's arithmetic counts.
func TestRoofline(t *testing.T) {
	p, err := NewBF16(spec.FFN{Kind: spec.LowRank, Hidden: 768, FFN: 3072, Rank: 256, Act: spec.GELU})
	if err != nil {
		t.Fatal(err)
	}
	h100 := Chips[1]
	if best := Fastest(p.FC1.Estimates(h100, 1)); best.Variant != Merged {
		t.Errorf("one token: %+v", best)
	}
	es := p.FC1.Estimates(h100, 32768)
	if best := Fastest(es); best.Variant == Merged || best.Why(h100) != "shared memory" {
		t.Errorf("32768 tokens: %+v, bound by %s", best, best.Why(h100))
	}
	if e := es[0]; e.Launches != 2 || e.FLOPs != 2*32768*256*(768+3072) || e.Bytes != 2*(256*(768+3072)+32768*(768+3072+2*256)) {
		t.Errorf("one by one: %+v", e)
	}
	wide, err := NewBF16(spec.FFN{Kind: spec.LowRank, Hidden: 2048, FFN: 8192, Rank: 512, Act: spec.GELU})
	if err != nil {
		t.Fatal(err)
	}
	if es := wide.FC1.Estimates(h100, 1); len(es) != 2 || es[1].Variant != Merged {
		t.Errorf("an intermediate of 512 does not fit beside a tile: %+v", es)
	}
}

// What the data sheets say, and what tiles leave of it: shared memory has operands
// for a warp of 64 x 32 at the rate of an A100's tensor cores, at half that of an
// H100's, and for narrower warps at less.
func TestSharedFLOPs(t *testing.T) {
	for i, sheet := range []float64{312e12, 989e12} {
		if g := Chips[i]; math.Abs(g.perSecond(g.MMA)/sheet-1) > 0.005 {
			t.Errorf("%s: %.4g operations a second, the data sheet says %.4g", g.Name, g.perSecond(g.MMA), sheet)
		}
	}
	for _, c := range []struct {
		tile       table.Tile
		want       float64
		a100, h100 string // what binds a product that is large enough
	}{
		// (8 warps x (64+32) + 128+128) x 2 bytes in 128 a clock, for 2 x 128 x 128
		{table.Tile{M: 128, N: 128, WarpsM: 2, WarpsN: 4}, 2048, "tensor cores", "shared memory"},
		{table.Tile{M: 128, N: 64, WarpsM: 2, WarpsN: 4}, 16384 / 13.0, "shared memory", "shared memory"},
		{table.Tile{M: 64, N: 64, WarpsM: 2, WarpsN: 4}, 1024, "shared memory", "shared memory"},
		{table.Tile{M: 16, N: 64, WarpsM: 1, WarpsN: 4}, 2048 / 3.25, "shared memory", "shared memory"},
		{table.Tile{M: 256, N: 128, WarpsM: 2, WarpsN: 2}, 65536 / 18.0, "tensor cores", "tensor cores"},
	} {
		if got := SharedFLOPs(c.tile); math.Abs(got-c.want) > 1e-9*c.want {
			t.Errorf("%+v: %v operations a clock, want %v", c.tile, got, c.want)
		}
		for i, want := range []string{c.a100, c.h100} {
			var e Estimate
			e.add(Chips[i], 1e12, 1e12/Chips[i].shared(c.tile), 1, 1000)
			if got := e.Why(Chips[i]); got != want {
				t.Errorf("%+v on %s is bound by %s, want %s", c.tile, Chips[i].Name, got, want)
			}
			if least := 1e12 / min(Chips[i].tensor(), Chips[i].shared(c.tile)); math.Abs(e.Seconds-Chips[i].Launch-least) > 1e-9*least {
				t.Errorf("%+v on %s: %v seconds, want %v", c.tile, Chips[i].Name, e.Seconds, least)
			}
		}
	}
}

// A single layer is in bf16 where its widths allow it, unless something else is
// wanted, and a guided one is in nothing.
func TestLayer(t *testing.T) {
	even, odd := spec.Linear{Kind: spec.LowRank, In: 48, Out: 96, Rank: 16}, spec.Linear{Kind: spec.BlockShuffle, In: 48, Out: 96, Blocks: 4}
	guided := even
	guided.Guide = true
	for _, c := range []struct {
		l    spec.Linear
		p    table.Precision
		want table.Precision
		err  string
	}{
		{even, "", table.BF16, ""}, {even, table.BF16, table.BF16, ""}, {even, table.Float32s, table.Float32s, ""},
		{odd, "", table.Float32s, ""}, {odd, table.Float32s, table.Float32s, ""},
		{odd, table.BF16, "", "blockshuffle_48x96_b4: inputs of blkdiag1: blocks of 12 in runs of 12"},
		{guided, "", "", "guided layers have no GPU kernels"}, {guided, table.BF16, "", "guided layers"}, {guided, table.Float32s, "", "guided layers"},
	} {
		g, err := NewLayer(c.l, c.p)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s in %q: %v, want %s", c.l.Name(), c.p, err, c.err)
			}
			continue
		}
		if err != nil || g.Precision != c.want {
			t.Errorf("%s in %q: %s, %v", c.l.Name(), c.p, g.Precision, err)
		}
	}
}
