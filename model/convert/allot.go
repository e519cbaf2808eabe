package convert

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/checkpoint"
	rt "github.com/structuredffn/sffn/runtime"
)

// Effect is what a layer's structure costs, measured with all other layers dense.
type Effect struct {
	Layer     int            `json:"layer"`
	Structure spec.Structure `json:"structure"`
	Weights   int            `json:"weights"`
	// Loss is how much the loss on the calibration's text rises, in nats a token.
	Loss float64 `json:"loss"`
}

// levels are the weights at which layers are measured, relative to an equal share of
// the budget; the dense network, which costs nothing, is one more.
var levels = []float64{0.4, 0.7, 1, 1.4}

// What is measured is fitted to so many tokens of the calibration at most, fittedTokens.
// Its effect is measured on these as well, or, of large models, on fewer: on as many as a
// pass takes measuredWork operations for, but not below fewestTokens.
const (
	fittedTokens = 1 << 14
	measuredWork = 5e11
	fewestTokens = 1 << 11
)

// measuredSweeps is how often a fit that is only measured goes through its factors:
// nearly as good as any number, and in a fraction of the time.
const measuredSweeps = 2

// measured are the structures at which layers are measured, by rising weights.
func (a Aim) measured(m spec.Model, all []spec.Structure) (some []spec.Structure) {
	room := a.room(m)
	for _, level := range levels {
		if s, err := largest(m, all, level*room, a.Budget); err == nil {
			some = append(some, s)
		}
	}
	// Less than the smallest is nothing.
	return slices.Compact(append([]spec.Structure{all[0]}, some...))
}

// allot measures the layers that change, one by one, and shares the budget out.
func (c *Conversion) allot(ctx context.Context, w *checkpoint.Weights, r *Report) error {
	from := c.From.Config.Model
	all, err := c.Aim.structures(from)
	if err != nil {
		return err
	}
	m, err := c.From.Load(c.Options)
	if err != nil {
		return err
	}
	defer m.Close()
	few := *c.Calibration
	few.IDs = few.first(fittedTokens)
	text, err := NewStream(m, &few)
	if err != nil {
		return err
	}
	defer text.Close()
	ids := few.first(max(fewestTokens, int(measuredWork/float64(2*from.Count().Total))))
	c.sweeps = measuredSweeps
	defer func() { c.sweeps = 0 }()
	before := math.NaN()
	for i := range from.Layers {
		if err := text.mix(ctx, i); err != nil {
			return err
		}
		if i == 0 {
			if before, err = text.loss(ctx, 0, m.FFN(0), len(ids)); err != nil {
				return err
			}
		}
		if !c.Aim.kept(i) {
			err := model.WithNetwork(from, i, w.Read, func(dense rt.FFNWeights) error {
				whole := from.LayerFFN(i)
				for _, s := range c.Aim.measured(from, all) {
					f := s.Network(from.Hidden, from.FFN, from.Act)
					f.Bias = whole.Bias
					n, err := c.convert(ctx, f, whole, dense, text)
					if err != nil {
						return fmt.Errorf("layer %d: %w", i, err)
					}
					ffn, err := rt.NewFFN(f, n.FFNWeights, c.Options)
					if err != nil {
						return err
					}
					after, err := text.loss(ctx, i, ffn, len(ids))
					ffn.Close()
					if err != nil {
						return err
					}
					r.Effects = append(r.Effects, Effect{i, s, weights(from, s), after - before})
				}
				r.Effects = append(r.Effects, Effect{i, spec.Structure{Kind: spec.Dense}, weights(from, spec.Structure{Kind: spec.Dense}), 0})
				return nil
			})
			if err != nil {
				return err
			}
		}
		if err := text.advance(ctx, m.FFN(i)); err != nil {
			return err
		}
		c.step()
	}
	budget := c.Aim.room(from) * float64(len(c.Aim.changed(from)))
	got := share(from, r.Effects, all, budget)
	c.to, err = c.Aim.with(from, func(i int) spec.Structure { return got[i] })
	return err
}

// first are up to so many tokens, of whole sequences, and one sequence at least.
func (c *Calibration) first(tokens int) []int32 {
	return c.IDs[:max(c.Seq, min(len(c.IDs), tokens)/c.Seq*c.Seq)]
}

// piece is a stretch of a layer's course from few weights to many, on which each
// weight lowers the loss by the same.
type piece struct {
	layer    int
	from, to Effect
}

func (p piece) slope() float64 {
	return (p.from.Loss - p.to.Loss) / float64(p.to.Weights-p.from.Weights)
}

// share gives each layer that was measured a structure, so that the effects add up to
// the least within the budget of weights: between measurements effects are taken to
// fall in a straight line, and of each layer the convex course below all measurements
// counts, so that the steepest piece is always the one to take first. The last piece
// that is paid for is taken in part. all are the structures that there are, by rising
// weights.
func share(m spec.Model, effects []Effect, all []spec.Structure, budget float64) map[int]spec.Structure {
	got := map[int]spec.Structure{}
	at := map[int]int{} // weights
	var pieces []piece
	byLayer := map[int][]Effect{}
	for _, e := range effects {
		byLayer[e.Layer] = append(byLayer[e.Layer], e)
	}
	for layer, es := range byLayer {
		course := convex(es)
		got[layer], at[layer] = course[0].Structure, course[0].Weights
		budget -= float64(course[0].Weights)
		for i := range course[1:] {
			pieces = append(pieces, piece{layer, course[i], course[i+1]})
		}
	}
	slices.SortFunc(pieces, func(a, b piece) int {
		return cmp.Or(cmp.Compare(b.slope(), a.slope()), cmp.Compare(a.layer, b.layer), cmp.Compare(a.from.Weights, b.from.Weights))
	})
	cut := map[int]bool{}
	for _, p := range pieces {
		if cut[p.layer] {
			continue
		}
		if more := float64(p.to.Weights - p.from.Weights); more <= budget {
			budget -= more
			got[p.layer], at[p.layer] = p.to.Structure, p.to.Weights
			continue
		}
		cut[p.layer] = true
		for _, s := range all {
			if n := weights(m, s); n > at[p.layer] && n < p.to.Weights && float64(n-at[p.layer]) <= budget {
				budget -= float64(n - at[p.layer])
				got[p.layer], at[p.layer] = s, n
			}
		}
	}
	return got
}

// convex is the lower hull of effects over weights, from the fewest weights to where the
// loss is least.
func convex(es []Effect) (hull []Effect) {
	es = slices.Clone(es)
	slices.SortStableFunc(es, func(a, b Effect) int { return cmp.Or(a.Weights-b.Weights, cmp.Compare(a.Loss, b.Loss)) })
	for _, e := range es {
		if n := len(hull); n > 0 && (e.Weights == hull[n-1].Weights || e.Loss >= hull[n-1].Loss) {
			continue // more weights for nothing
		}
		for n := len(hull); n > 1; n = len(hull) {
			a, b := piece{from: hull[n-2], to: hull[n-1]}, piece{from: hull[n-1], to: e}
			if a.slope() > b.slope() {
				break
			}
			hull = hull[:n-1]
		}
		hull = append(hull, e)
	}
	return hull
}
