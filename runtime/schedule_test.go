package runtime

import (
	"fmt"

	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/runtimetest"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Schedules decide no bits: whatever is drawn, everything that a layer and a network
// compute is as on the target's own schedule, on every instruction set.
func TestSchedulesGiveEqualBits(t *testing.T) {
	specs := []any{
		spec.FFN{Kind: spec.Dense, Hidden: 112, FFN: 800, Act: spec.GELU, Bias: true},
		spec.FFN{Kind: spec.LowRank, Hidden: 100, FFN: 130, Rank: 70, Act: spec.SwiGLU, Guide: true},
		spec.FFN{Kind: spec.BlockDense, Hidden: 96, FFN: 384, Rank: 72, Blocks: 2, Act: spec.GELU},
		spec.FFN{Kind: spec.BlockShuffle, Hidden: 96, FFN: 240, Blocks: 3, Act: spec.SwiGLU, Bias: true},
		spec.Linear{Kind: spec.BlockShuffle, In: 128, Out: 256, Blocks: 4, Bias: true, Guide: true},
		spec.Linear{Kind: spec.Dense, In: 1024, Out: 48, Bias: true},
	}
	for _, target := range runtimetest.Targets() {
		if target.FullWidth {
			continue // a schedule like any other
		}
		t.Run(target.Name, func(t *testing.T) {
			rapid.Check(t, func(rt *rapid.T) {
				drawn := target
				drawn.Name, drawn.Schedule = "drawn", runtimetest.DrawSchedule(rt, target.Schedule)
				if err := drawn.Validate(); err != nil {
					rt.Fatal(err)
				}
				r := rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1))
				m, threads := rapid.IntRange(1, 330).Draw(rt, "rows"), rapid.IntRange(1, 3).Draw(rt, "threads")
				if target.ISA == kernel.Portable {
					m = 1 + m%20
				}
				u := newSubject(rapid.SampledFrom(specs).Draw(rt, "spec"), r)
				x, res, dy := runtimetest.Positive(u.r, m*u.in, 1), runtimetest.Positive(u.r, m*u.out, 1), runtimetest.Positive(u.r, m*u.out, 1)
				var got [2]*outcome
				for i, on := range []*kernel.Target{&target, &drawn} {
					got[i] = u.run(t, Options{Target: on, Pool: runtimetest.PoolOf(threads), Train: true}, x, res, dy, m)
				}
				got[1].same(t, fmt.Sprintf("%s, %d rows on %d threads, %+v", u.name, m, threads, drawn.Schedule), got[0])
				if t.Failed() {
					rt.FailNow()
				}
			})
		})
	}
}

// Options refuse a target that is illegal or for another instruction set.
func TestTargetOption(t *testing.T) {
	target := runtimetest.Targets()[0]
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

// Attention takes the options' target and pool, and its errors are those of the options
// or of the shape.
func TestAttentionOptions(t *testing.T) {
	s := AttentionSpec{QHeads: 1, KVHeads: 1, HeadDim: 4}
	if _, err := NewAttention(s, Options{ISA: "other"}); err == nil || !strings.Contains(err.Error(), "other") {
		t.Errorf("an unknown instruction set: %v", err)
	}
	if _, err := NewAttention(AttentionSpec{}, Options{}); err == nil || !strings.Contains(err.Error(), "want positive counts") {
		t.Errorf("no heads: %v", err)
	}
	one, two := runtimetest.PoolOf(1), runtimetest.PoolOf(2)
	a, err := NewAttention(s, Options{Pool: two})
	if err != nil {
		t.Fatal(err)
	}
	b, err := NewAttention(s, Options{Pool: one})
	if err != nil {
		t.Fatal(err)
	}
	ws := a.NewWorkspace()
	defer ws.Close()
	a.Forward(nil, nil, nil, 0, 0, ws)
	runtimetest.MustPanic(t, "a workspace of the other pool", func() { b.Forward(nil, nil, nil, 0, 0, ws) }, "another pool")
	for _, target := range runtimetest.Targets() {
		target.Tiles[kernel.Full].Max, target.Tiles[kernel.Half].Max = kernel.MaxMR, kernel.MaxMR
		target.Name = "taller"
		if _, err := NewAttention(s, Options{Target: &target}); err == nil || !strings.Contains(err.Error(), "no kernel") {
			t.Errorf("a target without its kernels: %v", err)
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
		x, res, dy := runtimetest.Positive(u.r, m*u.in, 1), runtimetest.Positive(u.r, m*u.out, 1), runtimetest.Positive(u.r, m*u.out, 1)
		first := map[kernel.ISA]*outcome{}
		for _, target := range runtimetest.Targets() {
			if target.ISA == kernel.Portable {
				continue
			}
			got := u.run(t, Options{Target: &target, Pool: runtimetest.PoolOf(2), Train: true}, x, res, dy, m)
			if first[target.ISA] == nil {
				first[target.ISA] = got
			}
			got.same(t, u.name+" on "+target.Name, first[target.ISA])
		}
	}
}
