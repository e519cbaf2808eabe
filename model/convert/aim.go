package convert

import (
	"errors"
	"fmt"
	"slices"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/term"
)

// Aim says what the feed-forward networks of a dense model become. Either Budget is
// given, or what the kind takes of Rank and Blocks.
type Aim struct {
	Kind spec.Kind
	// Budget is the share of the weights of all feed-forward networks that is kept.
	Budget float64
	// Rank and Blocks are those of the kind. With a budget, blocks may be given for
	// kinds that have both.
	Rank, Blocks int
	// Keep are layers that stay dense; the budget pays for them.
	Keep []int
}

// usualBlocks are those of kinds that have both a rank and blocks, where nobody says.
const usualBlocks = 2

func fieldError(field, format string, args ...any) error {
	return &spec.FieldError{Field: field, Msg: fmt.Sprintf(format, args...)}
}

// Check looks at what needs no model.
func (a Aim) Check() error {
	if !slices.Contains(spec.Kinds(), a.Kind) {
		return fieldError("kind", "unknown kind %q; valid are %s", a.Kind, spec.Names(spec.Kinds(), ""))
	}
	ranked, blocked := slices.Contains(spec.Ranked(), a.Kind), slices.Contains(spec.Blocked(), a.Kind)
	budget := a.Budget != 0
	switch {
	case budget && !(a.Budget > 0 && a.Budget <= 1):
		return fieldError("budget", "%v is out of range, want a share of the weights, above 0 and up to 1", a.Budget)
	case a.Rank < 0 || a.Rank > 0 && !ranked:
		return fieldError("rank", "%d: want 1 or more, of %s", a.Rank, spec.Names(spec.Ranked(), "or"))
	case a.Blocks < 0 || a.Blocks > 0 && !blocked:
		return fieldError("blocks", "%d: want 1 or more, of %s", a.Blocks, spec.Names(spec.Blocked(), "or"))
	case budget && a.Rank > 0:
		return fieldError("rank", "the budget chooses it; give one of the two")
	case budget && a.Blocks > 0 && !ranked:
		return fieldError("blocks", "the budget chooses it; give one of the two")
	case a.Kind == spec.Dense && !budget:
		return fieldError("budget", "a dense network becomes a narrower one: want the share of its weights")
	case a.Kind == spec.Dense && len(a.Keep) > 0:
		return fieldError("dense-layers", "all layers of a model are equally wide: none stays as it is beside narrower ones")
	case !budget && ranked && a.Rank == 0:
		return fieldError("budget", "a %s layer has a rank: want a budget, or a rank", a.Kind)
	case !budget && !ranked && blocked && a.Blocks == 0:
		return fieldError("budget", "a %s layer has blocks: want a budget, or blocks", a.Kind)
	}
	return nil
}

// structures are what a network may become, by rising weights, none as heavy as the
// dense one. There is one where no budget chooses.
func (a Aim) structures(m spec.Model) ([]spec.Structure, error) {
	s := spec.Structure{Kind: a.Kind, Rank: a.Rank, Blocks: a.Blocks}
	ranked := slices.Contains(spec.Ranked(), a.Kind)
	if ranked && s.Blocks == 0 && slices.Contains(spec.Blocked(), a.Kind) {
		s.Blocks = usualBlocks
	}
	valid := func(s spec.Structure) error { return s.Network(m.Hidden, m.FFN, m.Act).Validate() }
	if a.Budget == 0 {
		return []spec.Structure{s}, valid(s)
	}
	var all []spec.Structure
	var last error
	whole := weights(m, spec.Structure{Kind: spec.Dense})
	for n := 1; n <= max(m.Hidden, m.FFN*m.Act.Columns()); n++ {
		if ranked {
			s.Rank = n
		} else {
			s.Blocks = n
		}
		if err := valid(s); err != nil {
			last = err
			continue
		}
		if weights(m, s) < whole {
			all = append(all, s)
		} else if ranked {
			break
		}
	}
	if len(all) == 0 && last == nil {
		last = fmt.Errorf("no %s network is smaller than a dense one of %d and %d", a.Kind, m.Hidden, m.FFN)
	}
	if len(all) == 0 {
		return nil, last
	}
	slices.SortStableFunc(all, func(x, y spec.Structure) int { return weights(m, x) - weights(m, y) })
	return all, nil
}

// weights are those of a network of that structure in a model.
func weights(m spec.Model, s spec.Structure) int {
	f := s.Network(m.Hidden, m.FFN, m.Act)
	return f.FC1().Weights() + f.FC2().Weights()
}

// Model is what a dense model becomes: with a budget, all layers that are not kept have
// the largest rank that it pays for. Errors are of fields by the names of Aim.
func (a Aim) Model(m spec.Model) (spec.Model, error) {
	if err := a.Check(); err != nil {
		return m, err
	}
	m.Guided = false
	if m.Structured() {
		return m, errors.New("the model has structured layers already; want a dense one")
	}
	for _, i := range a.Keep {
		if i < 0 || i >= m.Layers {
			return m, fieldError("dense-layers", "layer %d is out of range, the model has 0 to %d", i, m.Layers-1)
		}
	}
	if a.Kind == spec.Dense {
		m.FFN = int(a.Budget * float64(m.FFN))
		if m.FFN < 1 {
			return m, fieldError("budget", "%s leave no hidden unit", term.Percent(a.Budget))
		}
		return m, m.Validate()
	}
	all, err := a.structures(m)
	if err != nil {
		return m, err
	}
	s := all[0]
	if a.Budget > 0 {
		room := a.room(m)
		if s, err = largest(m, all, room, a.Budget); err != nil {
			return m, err
		}
	}
	return a.with(m, func(int) spec.Structure { return s })
}

// kept are the layers that stay dense.
func (a Aim) kept(i int) bool { return slices.Contains(a.Keep, i) }

// changed lists the layers that do not.
func (a Aim) changed(m spec.Model) (layers []int) {
	for i := range m.Layers {
		if !a.kept(i) {
			layers = append(layers, i)
		}
	}
	return layers
}

// room is what the budget leaves for one of the layers that are not kept, in weights.
func (a Aim) room(m spec.Model) float64 {
	dense, n := float64(weights(m, spec.Structure{Kind: spec.Dense})), len(a.changed(m))
	return dense * (a.Budget*float64(m.Layers) - float64(m.Layers-n)) / float64(max(1, n))
}

func largest(m spec.Model, all []spec.Structure, room, budget float64) (s spec.Structure, err error) {
	dense := float64(weights(m, spec.Structure{Kind: spec.Dense}))
	if least := float64(weights(m, all[0])); least > room {
		return s, fieldError("budget", "%s of the weights leave %s for each layer that changes, the smallest %s network takes %s; want more, other blocks, or fewer layers that stay dense",
			term.Percent(budget), term.Percent(max(0, room)/dense), all[0].Text(), term.Percent(least/dense))
	}
	i := slices.IndexFunc(all, func(s spec.Structure) bool { return float64(weights(m, s)) > room })
	if i < 0 {
		i = len(all)
	}
	return all[i-1], nil
}

// with gives the layers that are not kept their structures.
func (a Aim) with(m spec.Model, of func(layer int) spec.Structure) (spec.Model, error) {
	changed := a.changed(m)
	if len(changed) == 0 {
		return m, fieldError("dense-layers", "all layers stay dense")
	}
	m.SetOwn(of(changed[len(changed)-1]))
	m.Except = ""
	for i := range m.Layers {
		if a.kept(i) {
			m.SetStructure(i, i, spec.Structure{Kind: spec.Dense})
		} else {
			m.SetStructure(i, i, of(i))
		}
	}
	return m, m.Validate()
}
