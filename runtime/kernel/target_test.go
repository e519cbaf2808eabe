package kernel

import (
	"strings"
	"testing"
)

func rows() []Target {
	return []Target{{Name: "a", ISA: AVX512}, {Name: "wide", ISA: AVX512, FullWidth: true}, {Name: "b", ISA: AVX2}, {Name: "c", ISA: Portable}}
}

// Which row runs where nobody asks, and what is said where somebody asks in vain.
func TestChoose(t *testing.T) {
	zen4, zen5, laptop := Processor{"AuthenticAMD", 25, 0x11}, Processor{"AuthenticAMD", 26, 0x02}, Processor{"AuthenticAMD", 26, 0x24}
	sapphire, tiger := Processor{"GenuineIntel", 6, 0x8f}, Processor{"GenuineIntel", 6, 0x8c}
	for _, c := range []struct {
		p         Processor
		available []ISA
		name      string
		isa       ISA
		want, err string
	}{
		{p: zen4, available: ISAs, want: "a"},
		{p: zen5, available: ISAs, want: "wide"},
		{p: laptop, available: ISAs, want: "a"},
		{p: sapphire, available: ISAs, want: "wide"},
		{p: tiger, available: ISAs, want: "a"},
		{p: Processor{}, available: ISAs, want: "a"},
		{p: zen5, available: ISAs[1:], want: "b"},
		{p: zen5, available: ISAs[2:], want: "c"},
		{p: zen5, available: ISAs, isa: AVX2, want: "b"},
		{p: zen5, available: ISAs, name: "a", want: "a"},
		{p: zen4, available: ISAs, name: "wide", isa: AVX512, want: "wide"},
		{p: zen4, available: ISAs, name: "zen", err: `unknown target "zen"; valid: [a wide b c]`},
		{p: zen4, available: ISAs[1:], name: "wide", err: "target wide needs avx512, which is not available on this machine or in this build; available: [avx2 portable]"},
		{p: zen4, available: ISAs, name: "b", isa: AVX512, err: "target b is for avx2, not for avx512"},
	} {
		got, err := choose(rows(), c.p, c.available, c.name, c.isa)
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%+v: %v", c, err)
			}
		} else if err != nil || got.Name != c.want {
			t.Errorf("%+v: target %s, %v", c, got.Name, err)
		}
	}
}

// A row that is there already must be the same: generated packages of two versions
// do not run side by side, each by the other's schedule.
func TestRegisterTargets(t *testing.T) {
	defer func(old []Target) { targets = old }(targets)
	targets = nil
	good := Target{Name: "t", ISA: AVX2, Schedule: Schedule{
		Tiles: [NumWidths]Tile{Full: {Max: 6, Main: 6, Sweeps: 1}, Half: {Max: 6, Main: 6, Sweeps: 1}, Long: {Max: 6, Main: 6, Sweeps: 1}}, Across: AcrossTile{Rows: 1, Columns: 1, Depth: 1}, Unroll: 4,
		SetBytes: 4096, PanelBytes: 1, RowTiles: 1, MinRowChunk: 1, MaxRowChunk: 1, ChunkBytes: 1, ChunksPerThread: 1, UnitsPerThread: 1,
		Int8Rows: 1, Int4Rows: 1, StripRows: 1, LeftStrips: 1, GradientBytes: 1, WeightUnitsPerThread: 1, SmallUnit: 1, BiasColumns: 1, ColumnRows: 1, MergeRows: 1}}
	RegisterTargets(good)
	RegisterTargets(good)
	if len(Targets()) != 1 {
		t.Errorf("%d targets", len(Targets()))
	}
	other, illegal := good, good
	other.RowTiles, other.MinRowChunk, other.MaxRowChunk = 2, 2, 2
	illegal.Name, illegal.Unroll = "u", 0
	for want, row := range map[string]Target{"generated for another schedule of target t": other, "target u: unroll: 0 is out of range": illegal} {
		func() {
			defer func() {
				if v, _ := recover().(string); !strings.Contains(v, want) {
					t.Errorf("%q, want %q", v, want)
				}
			}()
			RegisterTargets(row)
		}()
	}
}

// Sizes of packs follow from the format: pairs of k that are padded, scales behind
// the groups.
func TestPackedSizes(t *testing.T) {
	f32, _ := F32.Format()
	bf16 := Format{Name: "x", Weights: Type{"bfloat16", 16}, KGroup: 2}
	int4 := Format{Name: "y", Weights: Type{"int4", 4}, KGroup: 4, Scales: GroupScales, ScaleType: Type{"bfloat16", 16}, ScaleGroup: 32}
	int8 := Format{Name: "z", Weights: Type{"int8", 8}, KGroup: 4, Scales: ColumnScales, ScaleType: Float32}
	for _, c := range []struct {
		f           Format
		columns, kc int
		want        int
	}{
		{f32, 32, 7, 4 * 32 * 7}, {f32, 16, 768, 4 * 16 * 768},
		{bf16, 32, 7, 2 * 32 * 8}, {bf16, 48, 8, 2 * 48 * 8},
		{int4, 32, 64, 2 * 9 * 64}, {int4, 32, 33, 32*36/2 + 2*2*32}, // 576 bytes a group of 32
		{int8, 32, 6, 32*8 + 4*32},
	} {
		if got := c.f.PanelBytes(c.columns, c.kc); got != c.want {
			t.Errorf("%s: %d columns of %d k take %d bytes, want %d", c.f.Name, c.columns, c.kc, got, c.want)
		}
	}
	l := Layout{Columns: 3*Panel + HalfPanel - Panel, KBlocks: []int{5, 3}, Panel: Panel} // 80: a panel of 32, and one of 48
	p := NewPacked(bf16, l, func(n int) []byte { return make([]byte, n) })
	if want := 2*80*6 + 2*80*4; len(p.Data) != want || len(p.Panel(0, 0)) != 2*32*6 || len(p.Panel(1, 1)) != 2*48*4 || p.PanelStep(1) != 2*32*4 {
		t.Errorf("%d bytes of %d, panels of %d and %d", len(p.Data), want, len(p.Panel(0, 0)), len(p.Panel(1, 1)))
	}
	seen := 0
	for b := range l.KBlocks {
		for i := range l.Panels() {
			for at := range p.Panel(b, i) {
				p.Panel(b, i)[at]++
				seen++
			}
		}
	}
	for i, n := range p.Data {
		if n != 1 {
			t.Fatalf("byte %d belongs to %d panels", i, n)
		}
	}
	if seen != len(p.Data) {
		t.Errorf("panels have %d bytes of %d", seen, len(p.Data))
	}
}
