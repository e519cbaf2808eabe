package train

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/structuredffn/sffn/model"
	rt "github.com/structuredffn/sffn/runtime"
)

// Guidance mixes the guides of a model into its layers, step by step (paper,
// section 5).
type Guidance struct {
	// Steps is the length of the guided phase, along which the ratio falls.
	Steps    int
	Schedule GuideSchedule
	// Uniform, where not nil, draws the numbers in [0, 1) of the n guides in a
	// micro-batch, which uses those guides whose number is below the ratio. It
	// fills u with them.
	Uniform func(u []float64, step, micro int)

	guides []rt.Guide
	used   []bool
	u      []float64
}

// Ratio is the guides' share in a step, counted from 0.
func (g *Guidance) Ratio(step int) float64 { return g.Schedule.Ratio(step, g.Steps) }

// draw fills in how the guides run in a micro-batch.
func (g *Guidance) draw(m *model.Model, step, micro int) {
	if ranges, _ := m.Params.Ranges(); g.guides == nil {
		n := len(ranges)
		g.guides, g.used, g.u = make([]rt.Guide, n), make([]bool, n), make([]float64, n)
	}
	ratio := g.Ratio(step)
	if g.Uniform != nil {
		g.Uniform(g.u, step, micro)
	}
	for i := range g.guides {
		g.guides[i] = rt.Guide{On: g.Uniform == nil || g.u[i] < ratio, Ratio: float32(ratio)}
	}
}

// Set prepares the model for a micro-batch.
func (g *Guidance) Set(m *model.Model, step, micro int) {
	g.draw(m, step, micro)
	m.SetGuides(g.guides)
}

// Used says which guides any of a step's micro-batches uses.
func (g *Guidance) Used(m *model.Model, step, micros int) []bool {
	for micro := range micros {
		g.draw(m, step, micro)
		for i := range g.guides {
			g.used[i] = micro > 0 && g.used[i] || g.guides[i].On
		}
		if g.Uniform == nil {
			break // they are all alike
		}
	}
	return g.used
}

// Unset turns the guides off: for what the model does without them.
func (g *Guidance) Unset(m *model.Model) { m.SetGuides(make([]rt.Guide, len(m.Params.Guides()))) }

// uniforms draws as a function of the seed and the place in the run, so that a
// run that resumes goes on with the numbers of an unbroken one, and every
// process of several with the same.
func uniforms(seed uint64) func(u []float64, step, micro int) {
	source := new(rand.ChaCha8)
	r := rand.New(source)
	return func(u []float64, step, micro int) {
		key := [32]byte{24: 'g', 'u', 'i', 'd', 'e'}
		for i, v := range [3]uint64{seed, uint64(step), uint64(micro)} {
			binary.LittleEndian.PutUint64(key[8*i:], v)
		}
		source.Seed(key)
		for i := range u {
			u[i] = r.Float64()
		}
	}
}
