package train

import (
	"math"

	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/runtime/vec"
)

// AdamW is the optimizer: decoupled weight decay on every parameter, then the
// bias-corrected Adam step, on gradients clipped by their global norm.
type AdamW struct {
	Beta1, Beta2, Eps, Decay, Clip float64
	// M and V are the moments, laid out as the parameters; Steps counts the
	// updates they have seen.
	M, V  *model.Params
	Steps int

	m    *model.Model
	sums []float64
}

// updateChunk is the unit of work, and of the gradient norm's partial sums:
// a function of nothing, so that no sum depends on the threads.
const updateChunk = 1 << 16

// NewAdamW returns an optimizer with zero moments.
func NewAdamW(m *model.Model, beta1, beta2, eps, decay, clip float64) *AdamW {
	o := &AdamW{Beta1: beta1, Beta2: beta2, Eps: eps, Decay: decay, Clip: clip, M: model.NewParams(m.Spec), V: model.NewParams(m.Spec), m: m}
	o.sums = make([]float64, (len(m.Params.Data)+updateChunk-1)/updateChunk)
	return o
}

// Close frees the moments.
func (o *AdamW) Close() {
	o.M.Close()
	o.V.Close()
}

// Step updates the parameters, after which the model has to be repacked. It
// returns the global L2 norm of the gradients before clipping.
func (o *AdamW) Step(grads *model.Params, lr float64) float64 {
	g, p := grads.Data, o.m.Params.Data
	v := o.m.Vec()
	each := func(f func(i, lo, hi int)) {
		o.m.Pool().Run(len(o.sums), func(_, i int) { f(i, i*updateChunk, min(len(g), (i+1)*updateChunk)) })
	}
	each(func(i, lo, hi int) { o.sums[i] = v.SumSquares(g[lo:hi]) })
	sum := 0.0
	for _, s := range o.sums {
		sum += s
	}
	norm := math.Sqrt(sum)
	o.Steps++
	step := vec.AdamWStep{LR: lr, Beta1: o.Beta1, Beta2: o.Beta2, Eps: o.Eps, Decay: o.Decay,
		Bias1: 1 - math.Pow(o.Beta1, float64(o.Steps)), Bias2: 1 - math.Pow(o.Beta2, float64(o.Steps)),
		GradScale: min(1, o.Clip/(norm+1e-6))}
	each(func(_, lo, hi int) { v.AdamW(p[lo:hi], g[lo:hi], o.M.Data[lo:hi], o.V.Data[lo:hi], step) })
	return norm
}
