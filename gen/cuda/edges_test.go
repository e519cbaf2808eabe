package cuda

import (
	"path/filepath"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
)

// edgeDir holds kernels of shapes below, at and above the thresholds of widths
// that no other folder of testdata has on all sides.
var edgeDir = filepath.Join("testdata", "edges")

// edgeTable lists them. Each width of a cycle is the depth of one product and the
// columns of another one, forward and backward.
func edgeTable() ([]plan.GPUKernel, error) {
	var ks []plan.GPUKernel
	each := func(widths []int, p plan.Precision, use func(f plan.GPUFactor)) error {
		for i, in := range widths {
			l, err := plan.NewGPULayer(spec.Linear{Kind: spec.Dense, In: in, Out: widths[(i+1)%len(widths)]}, p)
			if err != nil {
				return err
			}
			use(l.Factors[0])
		}
		return nil
	}
	add := func(products ...plan.GPUProduct) {
		for _, p := range products {
			ks = append(ks, p.Kernels()...)
		}
	}
	all := func(f plan.GPUFactor) { add(f.Products()...) }
	few := func(f plan.GPUFactor) { add(f.Few, f.FewBackward) }
	for _, c := range []struct {
		widths []int
		p      plan.Precision
		use    func(f plan.GPUFactor)
	}{
		{[]int{56, 120, 200, 88, 184, 104}, plan.BF16, all},
		{[]int{248, 264, 256}, plan.BF16, few},
		{[]int{392, 504}, plan.BF16, few}, // in parts
		{[]int{392, 512}, plan.BF16, few},
		{[]int{392, 520}, plan.BF16, few},
		{[]int{15, 63, 16, 64, 17, 65, 31, 32, 33}, plan.Float32s, all},
	} {
		if err := each(c.widths, c.p, c.use); err != nil {
			return nil, err
		}
	}
	for _, n := range []int{-1, 0, 1} {
		ks = append(ks, plan.GPUColumns{Width: 64 + 8*n, Precision: plan.BF16}.Kernel(), plan.GPUColumns{Width: 32 + n, Precision: plan.Float32s}.Kernel(),
			plan.GPUAttention{Heads: 8 + n, KVHeads: 1, HeadDim: 256, Pass: plan.AttendDelta}.Kernel())
		for _, pieces := range []int{32, 256} {
			rms := pieces+n == 256 || pieces+n == 32
			norm := plan.GPUNorm{Hidden: 8 * (pieces + n), Blocks: 1, RMS: rms, Add: n != 0}
			back := norm
			back.Backward = true
			p, err := plan.NewGPUPasses(spec.Model{Hidden: 4 * (pieces + 2*n), FFN: 64, Layers: 1, Vocab: 101, QHeads: 1, KVHeads: 1, AttnDim: 8, MaxPositions: 40,
				Kind: spec.Dense, Norm: spec.LayerNorm, Position: []spec.Position{spec.Absolute, spec.RoPE}[pieces/256]})
			if err != nil {
				return nil, err
			}
			ks = append(ks, norm.Kernel(), back.Kernel(), p.Embed, p.EmbedBackward,
				plan.GPULoss{Vocab: 8*(pieces+n) - 2*n*n, Pitch: 8 * (pieces + n)}.Kernel(),
				plan.GPURotate{Heads: pieces + n - 1, KVHeads: 1, HeadDim: 16, Rotate: true}.Kernel(),
				plan.GPURotate{Heads: pieces + n - 2, KVHeads: 1, HeadDim: 16, Rotate: true, Cache: true}.Kernel(),
				plan.GPURotate{Heads: 1, KVHeads: pieces/2 + n, HeadDim: 16, Cache: true}.Kernel())
		}
	}
	for _, size := range []int{24, 96, 160} {
		for _, pass := range []plan.GPUAttendPass{plan.AttendForward, plan.AttendQueries, plan.AttendKeys} {
			ks = append(ks, plan.GPUAttention{Heads: 2, KVHeads: 1, HeadDim: size, Pass: pass, Rows: true}.Kernel())
		}
	}
	return plan.GPUUnique(ks), nil
}
