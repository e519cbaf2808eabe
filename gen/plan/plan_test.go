package plan

import (
	"math"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/draw"
	"github.com/structuredffn/sffn/runtime/kernel"
)

func drawFFN(t *rapid.T) spec.FFN {
	pick := func(n int) int { return rapid.IntRange(0, n-1).Draw(t, "pick") }
	hidden, ffn := rapid.IntRange(1, 200).Draw(t, "hidden"), rapid.IntRange(1, 200).Draw(t, "ffn")
	if pick(2) == 0 { // widths with many divisors
		hidden, ffn = 12*(1+hidden/12), 12*(1+ffn/12)
	}
	act := rapid.SampledFrom(spec.Acts()).Draw(t, "act")
	return draw.Structure(pick, hidden, ffn, act).Network(hidden, ffn, act)
}

// A plan is right if running its products, place by place, is the layer: every
// weight is used once, on the input and for the output that its canonical
// index says, and every place of a row is written once.
func TestProductsCoverFactors(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := NewFFN(drawFFN(t))
		for _, l := range []Layer{p.FC1, p.FC2} {
			for _, f := range l.Factors {
				if f.Across { // TestAcrossCoversFactors
					continue
				}
				coversForward(t, f)
				coversBackward(t, f)
			}
		}
	})
}

func coversForward(t *rapid.T, f Factor) {
	used := make([]int, f.Weights())
	written := make([]int, f.OutWidth)
	gs := Gradients(f, &kernel.Schedule{StripRows: 12})
	for _, p := range f.Forward() {
		checkShape(t, p)
		ins, outs := gradientPlaces(gs[p.Block], f)
		ks, cols, store := p.KIndex(), p.ColumnIndex(), p.StoreIndex()
		for _, at := range store {
			written[at]++
		}
		for i, c := range cols {
			if c < 0 {
				continue
			}
			// The column's result, and where Gradients looks for its gradient.
			at := resultOf(p, i, store)
			if outs[c] != at {
				t.Fatalf("%s block %d: output %d is stored at %d, its gradient is sought at %d", f.Param, p.Block, c, at, outs[c])
			}
			for _, k := range ks {
				used[p.Block*f.In*f.Out+c*f.In+k]++
			}
		}
		readsAt(t, f, p, ins)
	}
	once(t, f.Param+" weights", used)
	once(t, f.Param+" places", written)
}

// readsAt checks that a product's kernels, block of k by block, read each k
// where it lies.
func readsAt(t *rapid.T, f Factor, p Product, places []int) {
	ks, i := p.KIndex(), 0
	for _, kc := range p.KBlocks {
		for _, s := range p.Segments(i, kc) {
			for d := range s.Len {
				if place := s.Off/4 + d*p.KStep()/4; place != places[ks[i]] {
					t.Fatalf("%s block %d: k %d is read at %d, it lies at %d (transposed %v)", f.Param, p.Block, i, place, places[ks[i]], p.Transposed)
				}
				i++
			}
		}
	}
	if i != p.Depth() {
		t.Fatalf("%s block %d: %d of %d k are read", f.Param, p.Block, i, p.Depth())
	}
}

// gradientPlaces is where the gradient plan reads each input and output of a
// block.
func gradientPlaces(g Gradient, f Factor) (in, out []int) {
	in, out = make([]int, f.In), make([]int, f.Out)
	for i, at := range g.In {
		in[g.Canon[i]] = at
	}
	for _, s := range g.Strips {
		for i, at := range s.Store {
			out[s.Row+i*s.RowStep] = at
		}
	}
	return in, out
}

// resultOf is the place before the activation of packed column i.
func resultOf(p Product, i int, store []int) int {
	if p.Epilogue != kernel.SwiGLU {
		return store[i]
	}
	place := store[i/kernel.Panel*kernel.HalfPanel+i%kernel.HalfPanel]
	if i%kernel.Panel >= kernel.HalfPanel {
		place += p.DstWidth
	}
	return place
}

func coversBackward(t *rapid.T, f Factor) {
	used := make([]int, f.Weights())
	written := make([]int, f.InWidth)
	gs := Gradients(f, &kernel.Schedule{StripRows: 12})
	for _, p := range f.BackwardData() {
		checkShape(t, p)
		ins, outs := gradientPlaces(gs[p.Block], f)
		ks, store := p.KIndex(), p.StoreIndex()
		for _, at := range store {
			written[at]++
		}
		for i, c := range p.ColumnIndex() {
			if c < 0 {
				continue
			}
			if store[i] != ins[c] {
				t.Fatalf("%s block %d: the gradient of input %d is stored at %d, the input lies at %d", f.Param, p.Block, c, store[i], ins[c])
			}
			for _, k := range ks {
				used[p.Block*f.In*f.Out+k*f.In+c]++
			}
		}
		readsAt(t, f, p, outs)
	}
	once(t, f.Param+" weights backward", used)
	once(t, f.Param+" places backward", written)
}

func once(t *rapid.T, what string, counts []int) {
	for i, n := range counts {
		if n != 1 {
			t.Fatalf("%s: %d is used %d times", what, i, n)
		}
	}
}

// checkShape checks what kernels rely on.
func checkShape(t *rapid.T, p Product) {
	sum := 0
	for i, kc := range p.KBlocks {
		sum += kc
		if kc < 1 || kc > kernel.MaxKC || i < len(p.KBlocks)-1 && kc%4 != 0 {
			t.Fatalf("blocks of k %v", p.KBlocks)
		}
	}
	if sum != p.Depth() || p.Columns()%kernel.HalfPanel != 0 || p.Columns() < p.Results() {
		t.Fatalf("blocks %v of %d products, %d columns for %d results", p.KBlocks, p.Depth(), p.Columns(), p.Results())
	}
	if last := p.LastPanel(); last != kernel.HalfPanel && last != kernel.Panel && last != kernel.LongPanel || (p.Panels()-1)*kernel.Panel+last != p.Columns() {
		t.Fatalf("%d columns in %d panels, the last %d wide", p.Columns(), p.Panels(), last)
	}
	if p.Epilogue == kernel.SwiGLU && p.LastPanel() != kernel.Panel {
		t.Fatal("a SwiGLU panel is not 32 wide")
	}
	if p.Direct {
		for i, at := range p.StoreIndex() {
			if at != p.StoreIndex()[0]+i {
				t.Fatal("direct results do not lie side by side")
			}
		}
	}
}

// The blocks of k depend on k alone: the same for every target.
func TestKBlocks(t *testing.T) {
	for k, want := range map[int][]int{0: nil, 1: {1}, 768: {768}, 769: {388, 381}, 3072: {768, 768, 768, 768}, 7424: {744, 744, 744, 744, 744, 744, 744, 744, 744, 728}} {
		if got := KBlocks(k, kernel.F32); !slices.Equal(got, want) {
			t.Errorf("%d: %v, want %v", k, got, want)
		}
	}
}

func TestPadding(t *testing.T) {
	if p := (Product{N: []Seg{{Store: Run{Len: 1}}}}).Padding(); math.Abs(p-16) > 1e-9 {
		t.Errorf("one result in 16 columns has padding %v", p)
	}
}
