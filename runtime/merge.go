package runtime

import (
	"fmt"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Merge computes the dense matrix [out, in] that a layer's factors amount to, by
// sending the identity through the layer. Guide and bias are no part of it.
func Merge(l spec.Linear, w Weights, opt Options) ([]float32, error) {
	l.Bias, l.Guide, opt.Train, opt.Format = false, false, false, kernel.F32
	layer, err := NewLinear(l, Weights{Factors: w.Factors}, opt)
	if err != nil {
		return nil, err
	}
	defer layer.Close()
	ws := layer.NewWorkspace()
	defer ws.Close()
	merged := make([]float32, l.Out*l.In)
	rows := layer.layer.opt.Target.MergeRows
	eye, columns := make([]float32, rows*l.In), make([]float32, rows*l.Out)
	for i0 := 0; i0 < l.In; i0 += rows {
		n := min(rows, l.In-i0)
		clear(eye)
		for i := range n {
			eye[i*l.In+i0+i] = 1
		}
		layer.Forward(columns, eye, nil, n, nil, ws)
		for o := range l.Out {
			row := merged[o*l.In+i0:][:n]
			for i := range row {
				row[i] = columns[i*l.Out+o]
			}
		}
	}
	return merged, nil
}

// Merged returns the dense network that f amounts to, for decoding. It holds
// packs of its own and no weights: they follow no change of f's, and Repack
// panics. A guide that is on is refused: its share of the sums changes from step
// to step.
func (f *FFN) Merged() (*FFN, error) {
	if f.fc1.mix.On || f.fc2.mix.On {
		return nil, fmt.Errorf("runtime: %s: its guide is on, and a merged network has none; switch it off first", f.spec.Name())
	}
	if len(f.fc1.weights.Factors) == 0 {
		return nil, fmt.Errorf("runtime: %s holds packs alone, its weights were dropped; want NewMerged with them", f.spec.Name())
	}
	return NewMerged(f.spec, FFNWeights{f.fc1.weights, f.fc2.weights}, f.fc1.opt)
}

// NewMerged is [FFN.Merged] of weights, of which it keeps none.
func NewMerged(f spec.FFN, w FFNWeights, opt Options) (*FFN, error) {
	opt.Train = false
	var dense FFNWeights
	for _, p := range []struct {
		l    spec.Linear
		from Weights
		to   *Weights
	}{{f.FC1(), w.FC1, &dense.FC1}, {f.FC2(), w.FC2, &dense.FC2}} {
		m, err := Merge(p.l, p.from, opt)
		if err != nil {
			return nil, err
		}
		*p.to = Weights{Factors: [][]float32{m}, Bias: p.from.Bias}
	}
	m, err := NewFFN(spec.FFN{Kind: spec.Dense, Hidden: f.Hidden, FFN: f.FFN, Act: f.Act, Bias: f.Bias}, dense, opt)
	if err != nil {
		return nil, err
	}
	m.DropWeights()
	return m, nil
}
