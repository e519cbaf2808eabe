package cuda

import (
	"path/filepath"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// edgeDir holds kernels of shapes below, at and above the thresholds of widths
// that no other folder of testdata has on all sides.
var edgeDir = filepath.Join("testdata", "edges")

// edgeTable lists them. Each width of a cycle is the depth of one product and the
// columns of another one, forward and backward.
func edgeTable() ([]gpu.Kernel, error) {
	var ks []gpu.Kernel
	each := func(widths []int, p table.Precision, use func(f gpu.Factor)) error {
		for i, in := range widths {
			l, err := gpu.NewLayer(spec.Linear{Kind: spec.Dense, In: in, Out: widths[(i+1)%len(widths)]}, p)
			if err != nil {
				return err
			}
			use(l.Factors[0])
		}
		return nil
	}
	add := func(products ...gpu.Product) {
		for _, p := range products {
			ks = append(ks, p.Kernels()...)
		}
	}
	all := func(f gpu.Factor) { add(f.Products()...) }
	few := func(f gpu.Factor) { add(f.Few, f.FewBackward) }
	for _, c := range []struct {
		widths []int
		p      table.Precision
		use    func(f gpu.Factor)
	}{
		{[]int{56, 120, 200, 88, 184, 104}, table.BF16, all},
		{[]int{248, 264, 256}, table.BF16, few},
		{[]int{392, 504}, table.BF16, few}, // in parts
		{[]int{392, 512}, table.BF16, few},
		{[]int{392, 520}, table.BF16, few},
		{[]int{15, 63, 16, 64, 17, 65, 31, 32, 33}, table.Float32s, all},
	} {
		if err := each(c.widths, c.p, c.use); err != nil {
			return nil, err
		}
	}
	for _, n := range []int{-1, 0, 1} {
		ks = append(ks, gpu.Columns{Columns: table.Columns{Width: 64 + 8*n, Precision: table.BF16}}.Kernel(), gpu.Columns{Columns: table.Columns{Width: 32 + n, Precision: table.Float32s}}.Kernel(),
			gpu.Attention{Attention: table.Attention{Heads: 8 + n, KVHeads: 1, HeadDim: 256, Pass: table.AttendDelta}}.Kernel())
		for _, pieces := range []int{32, 256} {
			rms := pieces+n == 256 || pieces+n == 32
			norm := gpu.Norm{Norm: table.Norm{Hidden: 8 * (pieces + n), Blocks: 1, RMS: rms, Add: n != 0}}
			back := norm
			back.Backward = true
			p, err := gpu.NewPasses(spec.Model{Hidden: 4 * (pieces + 2*n), FFN: 64, Layers: 1, Vocab: 101, QHeads: 1, KVHeads: 1, AttnDim: 8, MaxPositions: 40,
				Kind: spec.Dense, Norm: spec.LayerNorm, Position: []spec.Position{spec.Absolute, spec.RoPE}[pieces/256]})
			if err != nil {
				return nil, err
			}
			ks = append(ks, norm.Kernel(), back.Kernel(), p.Embed, p.EmbedBackward,
				gpu.Loss{Loss: table.Loss{Vocab: 8*(pieces+n) - 2*n*n, Pitch: 8 * (pieces + n)}}.Kernel(),
				gpu.Rotate{Rotate: table.Rotate{Heads: pieces + n - 1, KVHeads: 1, HeadDim: 16, Turn: true}}.Kernel(),
				gpu.Rotate{Rotate: table.Rotate{Heads: pieces + n - 2, KVHeads: 1, HeadDim: 16, Turn: true, Cache: true}}.Kernel(),
				gpu.Rotate{Rotate: table.Rotate{Heads: 1, KVHeads: pieces/2 + n, HeadDim: 16, Cache: true}}.Kernel())
		}
	}
	for _, size := range []int{24, 96, 160} {
		for _, pass := range []table.AttendPass{table.AttendForward, table.AttendQueries, table.AttendKeys} {
			ks = append(ks, gpu.Attention{Attention: table.Attention{Heads: 2, KVHeads: 1, HeadDim: size, Pass: pass, Rows: true}}.Kernel())
		}
	}
	return gpu.Unique(ks), nil
}
