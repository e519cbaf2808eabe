package checkpoint

import (
	"path/filepath"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model/quantize"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/quant"
)

// Weights reads the parameters of a checkpoint one by one, as often as they are
// asked for.
type Weights struct {
	f *safetensors.File
	// integers are the parameters that the file has as integers, by name.
	integers map[string]quantize.Param
}

// OpenWeights checks the whole file of a checkpoint's parameters and opens it.
func OpenWeights(dir string) (*Weights, error) {
	sums, err := readSums(dir)
	if err != nil {
		return nil, err
	}
	c, s, err := Describe(dir)
	if err != nil {
		return nil, err
	}
	if err := sums.readTensors(dir, modelFile, nil); err != nil {
		return nil, err
	}
	f, err := safetensors.Open(filepath.Join(dir, modelFile))
	if err != nil {
		return nil, err
	}
	return &Weights{f, integersOf(c.Model, s.Weights)}, nil
}

// integersOf are the parameters that are integers of a model whose weights have a format.
func integersOf(m spec.Model, weights kernel.FormatName) map[string]quantize.Param {
	integers := map[string]quantize.Param{}
	if weights.Quantized() {
		m.Guided = false
		for _, p := range quantize.Params(m, weights) {
			if p.Format.Quantized() {
				integers[p.Name] = p
			}
		}
	}
	return integers
}

// Read fills dst with a parameter, in canonical order; integers with what they stand for.
func (w *Weights) Read(dst []float32, q spec.Param) error {
	p, ok := w.integers[q.Name]
	if !ok {
		return w.f.ReadFloat32s(dst, q.Name, q.Shape)
	}
	m, err := p.Load(w.f)
	if err == nil {
		p.Weights(dst, m)
	}
	return err
}

// Matrix is a parameter as integers, nil where the file has it as float32.
func (w *Weights) Matrix(q spec.Param) (*quant.Matrix, error) {
	p, ok := w.integers[q.Name]
	if !ok {
		return nil, nil
	}
	return p.Load(w.f)
}

// File is the file itself, whose tensors are the parameters.
func (w *Weights) File() *safetensors.File { return w.f }

// Close closes the file.
func (w *Weights) Close() error { return w.f.Close() }
