package plan

import (
	"fmt"

	"github.com/structuredffn/sffn/gen/spec"
)

// GPUPasses are the kernels around a model's products, by their places in a
// step.
type GPUPasses struct {
	// Embed sums the embeddings; EmbedBackward serves both tables.
	Embed, EmbedBackward GPUKernel
	// Norm1 and Norm2 are those of the layers; Norm1 adds the output of the layer
	// before, where there is one, and Norm2 that of the attention.
	Norm1, Norm2 []GPUNorms
	// Final adds the last layer's output.
	Final GPUNorms
	// Rotate turns queries and keys, forward and back; where positions are
	// learned, it has no name. Cache turns them and appends to the cache.
	Rotate, Cache GPUKernel
	Attend        GPUAttends
	Loss          GPUKernel
}

// GPUNorms are a norm's two passes.
type GPUNorms struct{ Forward, Backward GPUKernel }

// NewGPUPasses plans a model's passes, or says what of it GPU kernels cannot
// serve. The networks' outputs are stored in the order of GPUFFN.Output.
func NewGPUPasses(m spec.Model) (GPUPasses, error) {
	var p GPUPasses
	if m.Hidden%chunk != 0 {
		return p, fmt.Errorf("hidden %d: GPU kernels need a multiple of %d", m.Hidden, chunk)
	}
	if m.HeadDim()%2 != 0 {
		return p, fmt.Errorf("heads of %d: GPU kernels need an even number", m.HeadDim())
	}
	if m.HeadDim() > 2*attendThreads {
		return p, fmt.Errorf("heads of %d: GPU kernels take up to %d", m.HeadDim(), 2*attendThreads)
	}
	norms := func(add bool, blocks int) GPUNorms {
		n := GPUNorm{Hidden: m.Hidden, Blocks: blocks, RMS: m.Norm == spec.RMSNorm, Add: add}
		b := n
		b.Backward = true
		return GPUNorms{n.Kernel(), b.Kernel()}
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
	r := GPURotate{Heads: m.QHeads, KVHeads: m.KVHeads, HeadDim: m.HeadDim(), Rotate: m.Position == spec.RoPE}
	if r.Rotate {
		p.Rotate = r.Kernel()
	}
	r.Cache = true
	p.Cache = r.Kernel()
	p.Attend = newAttends(m.QHeads, m.KVHeads, m.HeadDim())
	p.Loss = GPULoss{Vocab: m.Vocab, Pitch: up(m.Vocab, chunk)}.Kernel()
	return p, nil
}

// Kernels lists them, those of the optimizer and the sums of norms' gradients
// among them.
func (p GPUPasses) Kernels() []GPUKernel {
	ks := append(p.Attend.Kernels(), p.Embed, p.EmbedBackward, p.Cache, p.Loss, SumRows.Kernel())
	for _, n := range append(append([]GPUNorms{p.Final}, p.Norm1...), p.Norm2...) {
		ks = append(ks, n.Forward, n.Backward)
	}
	for _, u := range GPUUpdates {
		ks = append(ks, u.Kernel())
	}
	if p.Rotate.Name != "" {
		ks = append(ks, p.Rotate)
	}
	return GPUUnique(ks)
}
