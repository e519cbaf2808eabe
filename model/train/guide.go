package train

import (
	"encoding/binary"
	"math/rand/v2"

	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/schedule"
	rt "github.com/structuredffn/sffn/runtime"
)

// Guidance mixes the guides of a model into its layers, step by step (paper,
// section 5).
type Guidance struct {
	// Steps is the length of the guided phase, along which the ratio falls.
	Steps  int
	Course schedule.Course
	// Uniform, where not nil, draws the numbers in [0, 1) of the n guides in a
	// micro-batch, which uses those guides whose number is below the ratio.
	Uniform func(step, micro, n int) []float64

	guides []rt.Guide
	used   []bool
}

// Ratio is the guides' share in a step, counted from 0.
func (g *Guidance) Ratio(step int) float64 { return schedule.Ratio(g.Course, step, g.Steps) }

// Set prepares the model for a micro-batch. It returns the guides that this
// micro-batch or an earlier one of the same step uses.
func (g *Guidance) Set(m *model.Model, step, micro int) (used []bool) {
	n := len(m.Params.Guides())
	if micro == 0 {
		g.guides, g.used = make([]rt.Guide, n), make([]bool, n)
	}
	ratio := g.Ratio(step)
	var u []float64
	if g.Uniform != nil {
		u = g.Uniform(step, micro, n)
	}
	for i := range g.guides {
		g.guides[i] = rt.Guide{On: u == nil || u[i] < ratio, Ratio: float32(ratio)}
		g.used[i] = g.used[i] || g.guides[i].On
	}
	m.SetGuides(g.guides)
	return g.used
}

// Unset turns the guides off: for what the model does without them.
func (g *Guidance) Unset(m *model.Model) { m.SetGuides(make([]rt.Guide, len(m.Params.Guides()))) }

// uniforms draws as a function of the seed and the place in the run, so that a
// run that resumes goes on with the numbers of an unbroken one, and every
// process of several with the same.
func uniforms(seed uint64) func(step, micro, n int) []float64 {
	return func(step, micro, n int) []float64 {
		key := [32]byte{24: 'g', 'u', 'i', 'd', 'e'}
		for i, v := range []uint64{seed, uint64(step), uint64(micro)} {
			binary.LittleEndian.PutUint64(key[8*i:], v)
		}
		r := rand.New(rand.NewChaCha8(key))
		u := make([]float64, n)
		for i := range u {
			u[i] = r.Float64()
		}
		return u
	}
}
