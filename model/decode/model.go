// Package decode continues texts: all that a server needs of a trained model. It
// holds weights once, as the kernels' packs: a model is read from a checkpoint
// layer by layer, structured networks may be merged into dense ones, and a decoder
// feeds sequences through them with a cache of keys and values, and samples.
package decode

import (
	"io"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	rt "github.com/structuredffn/sffn/runtime"
)

// Model is a model that decodes, maybe with merged networks.
type Model struct {
	*model.Model
	weights  model.Source
	file     io.Closer // of weights, nil where there is none
	networks []network
}

// Load reads a model to decode; from gives its weights again where networks are
// merged.
func Load(s spec.Model, from model.Source, opt rt.Options) (*Model, error) {
	m, err := model.Load(s, from, opt)
	if err != nil {
		return nil, err
	}
	return newModel(m, from), nil
}

// loadIntegers is Load of a model some of whose weights are integers already.
func loadIntegers(s spec.Model, from model.Source, integers model.Integers, opt rt.Options) (*Model, error) {
	m, err := model.LoadIntegers(s, from, integers, opt)
	if err != nil {
		return nil, err
	}
	return newModel(m, from), nil
}

// Of decodes with a model that has its parameters, such as one in training.
func Of(m *model.Model) *Model { return newModel(m, m.Params.Read) }

func newModel(m *model.Model, from model.Source) *Model {
	return &Model{Model: m, weights: from, networks: make([]network, m.Spec.Layers)}
}

// Close frees the model; of one that was there before, only the merged networks.
func (m *Model) Close() {
	for i := range m.networks {
		m.networks[i].close()
	}
	if m.Params == nil {
		m.Model.Close()
	}
	if m.file != nil {
		m.file.Close() // it was read only
	}
}
