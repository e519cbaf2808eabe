package checkpoint

import (
	"path/filepath"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model/safetensors"
)

// Weights reads the parameters of a checkpoint one by one, as often as they are
// asked for.
type Weights struct{ f *safetensors.File }

// OpenWeights checks the whole file of a checkpoint's parameters and opens it.
func OpenWeights(dir string) (*Weights, error) {
	sums, err := readSums(dir)
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
	return &Weights{f}, nil
}

// Read fills dst with a parameter, in canonical order.
func (w *Weights) Read(dst []float32, q spec.Param) error {
	return w.f.ReadFloat32s(dst, q.Name, q.Shape)
}

// File is the file itself, whose tensors are the parameters.
func (w *Weights) File() *safetensors.File { return w.f }

// Close closes the file.
func (w *Weights) Close() error { return w.f.Close() }
