package gpu

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// However a network's outputs are stored, norms find them: each place is that
// of one entry, and a thread's runs are whole.
func TestNormPlaces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := drawGPU(t)
		f := p.Spec
		blocks, err := interleave(p.Output)
		if err != nil {
			t.Fatalf("%s: %v", f.Name(), err)
		}
		n := Norm{Norm: table.Norm{Hidden: f.Hidden, Blocks: blocks, Add: true}}
		if n.Pieces()*n.Piece() != n.Hidden || n.Piece()%chunk != 0 {
			t.Fatalf("%+v: %d pieces of %d", n, n.Pieces(), n.Piece())
		}
		for i, at := range p.Output {
			piece, in := i/n.Piece(), i%n.Piece()
			if want := in%blocks*(n.Hidden/blocks) + piece*n.Run() + in/blocks; at != want {
				t.Fatalf("%+v: entry %d is stored at %d, the kernel reads %d", n, i, at, want)
			}
		}
	})
	if _, err := interleave([]int{0, 2, 1, 3, 5, 4}); err == nil || !strings.Contains(err.Error(), "output 2 is stored at 1") {
		t.Error(err)
	}
}

func model(hidden, heads, size int, p spec.Position) spec.Model {
	return spec.Model{Hidden: hidden, FFN: 64, Layers: 2, Vocab: 101, QHeads: heads, KVHeads: heads, AttnDim: heads * size, MaxPositions: 64,
		Kind: spec.Dense, Act: spec.GELU, Norm: spec.LayerNorm, Position: p}
}

// Every kernel's row of the table holds together, whatever the heads: blocks
// fit their multiprocessors, parameters have names of their own, and arrays
// lengths.
func TestPassTable(t *testing.T) {
	for _, size := range []int{2, 4, 6, 8, 10, 12, 16, 24, 32, 48, 64, 80, 96, 128, 160, 256} {
		for _, position := range []spec.Position{spec.RoPE, spec.Absolute} {
			p, err := NewPasses(model(64, 4, size, position))
			if err != nil {
				t.Fatal(err)
			}
			if (p.Rotate.Name == "") != (position == spec.Absolute) {
				t.Errorf("%s: rotates by %q", position, p.Rotate.Name)
			}
			for _, k := range p.Kernels() {
				if k.Threads%32 != 0 || k.Threads > 1024 || k.SharedBytes%16 != 0 || k.BlocksPerSM*(k.SharedBytes+1024) > 164<<10 || k.MaxRegisters() < 32 {
					t.Errorf("%s: %d threads, %d bytes of shared memory, %d blocks", k.Name, k.Threads, k.SharedBytes, k.BlocksPerSM)
				}
				c := table.Counts{table.Tokens: 6, table.Sequences: 2, table.SeqLen: 3, table.Slots: 8, table.Entries: 64, table.TableRows: 5, table.Positions: 64, table.Parts: 1}
				for _, n := range k.Blocks(c) {
					if n < 1 {
						t.Errorf("%s: grid %v", k.Name, k.Blocks(c))
					}
				}
				names := map[string]bool{}
				for _, q := range k.Params {
					if names[q.Name] || q.Type.Array() != (q.Access != "") || q.Type.Array() && q.Bytes(c) < 4 {
						t.Errorf("%s: parameter %+v", k.Name, q)
					}
					names[q.Name] = true
				}
			}
			a := p.Attend.Forward.Plan.(Attention)
			if a.Lanes()*a.Each() != size || a.Each()%2 != 0 || 32%a.Lanes() != 0 {
				t.Errorf("heads of %d: %d lanes of %d entries", size, a.Lanes(), a.Each())
			}
		}
	}
}

func TestPassErrors(t *testing.T) {
	normed, windowed := model(64, 4, 8, spec.RoPE), model(64, 4, 8, spec.RoPE)
	normed.QKNorm, windowed.Window = true, 7
	for want, m := range map[string]spec.Model{
		"hidden 36: GPU kernels need a multiple of 8":            model(36, 4, 8, spec.RoPE),
		"heads of 7: GPU kernels need an even number":            model(64, 4, 7, spec.Absolute),
		"heads of 514: GPU kernels take up to 512":               model(64, 4, 514, spec.Absolute),
		"qk_norm: GPU kernels have no norms of queries and keys": normed,
		"window 7: attention on GPUs sees all positions":         windowed,
	} {
		if _, err := NewPasses(m); err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestExtent(t *testing.T) {
	c := table.Counts{table.Tokens: 33, table.TableRows: 5}
	for _, x := range []struct {
		e    table.Extent
		want int
	}{
		{table.Extent{N: 7}, 7},
		{table.Extent{N: 7, Of: table.Tokens}, 231},
		{table.Extent{N: 7, Of: table.Tokens, Each: 16}, 21},
		{table.Extent{N: 2, Of: table.Tokens, Times: table.TableRows}, 330},
		{table.Extent{N: 1, Of: table.TableRows, Plus: 1}, 6},
	} {
		if got := x.e.In(c); got != x.want {
			t.Errorf("%+v: %d, want %d", x.e, got, x.want)
		}
	}
}
