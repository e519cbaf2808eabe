package gpu

import (
	"errors"
	"fmt"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// Passes are the kernels around a model's products, by their places in a
// step.
type Passes struct {
	// Embed sums the embeddings; EmbedBackward serves both tables.
	Embed, EmbedBackward Kernel
	// Norm1 and Norm2 are those of the layers; Norm1 adds the output of the layer
	// before, where there is one, and Norm2 that of the attention.
	Norm1, Norm2 []Norms
	// Final adds the last layer's output.
	Final Norms
	// Rotate turns queries and keys, forward and back; where positions are
	// learned, it has no name. Cache turns them and appends to the cache.
	Rotate, Cache Kernel
	Attend        Attends
	Loss          Kernel
}

// Norms are a norm's two passes.
type Norms struct{ Forward, Backward Kernel }

// NewPasses plans a model's passes, or says what of it GPU kernels cannot
// serve. The networks' outputs are stored in the order of FFN.Output.
func NewPasses(m spec.Model) (Passes, error) {
	var p Passes
	if m.Hidden%chunk != 0 {
		return p, fmt.Errorf("hidden %d: GPU kernels need a multiple of %d", m.Hidden, chunk)
	}
	if m.HeadDim()%2 != 0 {
		return p, fmt.Errorf("heads of %d: GPU kernels need an even number", m.HeadDim())
	}
	if m.HeadDim() > 2*attendThreads {
		return p, fmt.Errorf("heads of %d: GPU kernels take up to %d", m.HeadDim(), 2*attendThreads)
	}
	if m.QKNorm {
		return p, errors.New("qk_norm: GPU kernels have no norms of queries and keys")
	}
	if m.Window > 0 {
		return p, fmt.Errorf("window %d: attention on GPUs sees all positions", m.Window)
	}
	norms := func(add bool, blocks int) Norms {
		n := Norm{table.Norm{Hidden: m.Hidden, Blocks: blocks, RMS: m.Norm == spec.RMSNorm, Add: add}}
		b := n
		b.Backward = true
		return Norms{n.Kernel(), b.Kernel()}
	}
	p.Final = norms(false, 1)
	for i := range m.Layers {
		p.Norm1, p.Norm2 = append(p.Norm1, p.Final), append(p.Norm2, norms(true, 1))
		f := m.LayerFFN(i)
		blocks, err := interleave(blockMajor(f.FC2(), f.Hidden))
		if err != nil {
			return p, fmt.Errorf("%s: %w", f.Name(), err)
		}
		p.Final = norms(true, blocks)
	}
	positions := 0
	if m.Position == spec.Absolute {
		positions = m.MaxPositions
	}
	p.Embed = newEmbed(m.Hidden, m.Vocab, positions, false).Kernel()
	p.EmbedBackward = newEmbed(m.Hidden, m.Vocab, positions, true).Kernel()
	r := Rotate{table.Rotate{Heads: m.QHeads, KVHeads: m.KVHeads, HeadDim: m.HeadDim(), Turn: m.Position == spec.RoPE}}
	if r.Turn {
		p.Rotate = r.Kernel()
	}
	r.Cache = true
	p.Cache = r.Kernel()
	p.Attend = newAttends(m.QHeads, m.KVHeads, m.HeadDim())
	p.Loss = Loss{table.Loss{Vocab: m.Vocab, Pitch: up(m.Vocab, chunk)}}.Kernel()
	return p, nil
}

// Kernels lists them, those of the optimizer and the sums of norms' gradients
// among them.
func (p Passes) Kernels() []Kernel {
	ks := append(p.Attend.Kernels(), p.Embed, p.EmbedBackward, p.Cache, p.Loss, SumRows.Kernel())
	for _, n := range append(append([]Norms{p.Final}, p.Norm1...), p.Norm2...) {
		ks = append(ks, n.Forward, n.Backward)
	}
	for _, u := range Updates {
		ks = append(ks, u.Kernel())
	}
	if p.Rotate.Name != "" {
		ks = append(ks, p.Rotate)
	}
	return Unique(ks)
}
