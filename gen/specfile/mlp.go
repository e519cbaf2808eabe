package specfile

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/structuredffn/sffn/gen/spec"
)

// MLP is the section mlp of a model: one structure for all layers, with
// exceptions,
//
//	mlp: {kind: lowrank, rank: 192, except: [{layers: 10-11, kind: dense}]}
//
// or a list of the layers' structures:
//
//	mlp:
//	  - {kind: dense}
//	  - {kind: lowrank, rank: 192}
//	  - {layers: 2-11, kind: blockdense, rank: 512, blocks: 2}
type MLP struct {
	// Kind is the chain of factors that stands for each matrix.
	Kind spec.Kind `yaml:"kind"` // {kinds}
	// Rank is the inner width of {ranked}.
	Rank int `yaml:"rank"` // entries; 1 to 2^20, for lowrank to Hidden or FFN, the smaller, for blockdense multiples of Blocks; none
	// Blocks is the number of blocks of {blocked}.
	Blocks int `yaml:"blocks"` // blocks; divisors of Hidden and FFN, for blockdense also of Rank; none
	// HiddenSplit is how {split} cut Hidden, by the kind's rule where it is left out.
	HiddenSplit int `yaml:"hidden_split"` // entries or blocks; divisors of Hidden; none
	// FFNSplit is how {split} cut FFN, by the kind's rule where it is left out.
	FFNSplit int `yaml:"ffn_split"` // entries or blocks; divisors of FFN; none
	// FirstDense keeps the first layer's network dense, unless Except names it.
	FirstDense bool `yaml:"first_layer_dense"`
	// Except lists layers that have a structure of their own: the keys that follow,
	// for each entry of the list.
	Except []LayerMLP `yaml:"except,omitempty"` // no layers

	// list, where it is not empty, has the structures of all layers.
	list []LayerMLP
}

// LayerMLP is an entry of a list of layers.
type LayerMLP struct {
	// Layers is what the entry is for, counted from 0. In a list of all layers, an
	// entry that leaves it out is for the next one.
	Layers Layers `yaml:"layers,omitempty"` // a layer, `3`, or several, `0-3`
	// Kind is as in mlp, of these layers.
	Kind spec.Kind `yaml:"kind"` // {kinds}
	// Rank is as in mlp, of these layers.
	Rank int `yaml:"rank,omitempty"` // entries; as `mlp.rank`; none
	// Blocks is as in mlp, of these layers.
	Blocks int `yaml:"blocks,omitempty"` // blocks; as `mlp.blocks`; none
	// HiddenSplit is as in mlp, of these layers.
	HiddenSplit int `yaml:"hidden_split,omitempty"` // entries or blocks; as `mlp.hidden_split`; none
	// FFNSplit is as in mlp, of these layers.
	FFNSplit int `yaml:"ffn_split,omitempty"` // entries or blocks; as `mlp.ffn_split`; none
}

func (l LayerMLP) structure() spec.Structure {
	return spec.Structure{Kind: l.Kind, Rank: l.Rank, Blocks: l.Blocks, HiddenSplit: l.HiddenSplit, FFNSplit: l.FFNSplit}
}

// structureFields are the keys that say what a structure is.
var structureFields = []string{"kind", "rank", "blocks", "hidden_split", "ffn_split"}

// Layers names a layer, 3, or several, 0-3; of window_layers a list of these.
type Layers string

const wantedLayers = "a layer such as 3, or several such as 0-3"

// span reads the layers that an entry names of so many.
func (l Layers) span(of int) (lo, hi int, err error) {
	first, last, several := strings.Cut(string(l), "-")
	if !several {
		last = first
	}
	lo, err1 := strconv.Atoi(first)
	hi, err2 := strconv.Atoi(last)
	switch {
	case err1 != nil || err2 != nil || !decimal.MatchString(first) || !decimal.MatchString(last):
		return 0, 0, fmt.Errorf("%q names no layers; want %s", l, wantedLayers)
	case lo > hi || hi >= of:
		return 0, 0, fmt.Errorf("%s is out of range; the model has layers 0 to %d", l, of-1)
	}
	return lo, hi, nil
}

// UnmarshalYAML takes a section or a list.
func (m *MLP) UnmarshalYAML(n ast.Node) error {
	if _, ok := n.(*ast.SequenceNode); ok {
		*m = MLP{list: []LayerMLP{}}
		return yaml.NodeToValue(n, &m.list, yaml.Strict())
	}
	if m.list != nil {
		*m = NewSection().MLP // of a draft, which had a list
	}
	type plain MLP
	p := plain(*m)
	if err := yaml.NodeToValue(n, &p, yaml.Strict()); err != nil {
		return err
	}
	*m = MLP(p)
	return nil
}

// MarshalYAML writes what UnmarshalYAML takes.
func (m MLP) MarshalYAML() (any, error) {
	if m.list != nil {
		return m.list, nil
	}
	type plain MLP
	return plain(m), nil
}

// SetRank sets the rank of all layers whose kind has one; that of mlp itself in any
// case, which says so where its kind has none.
func (m *MLP) SetRank(rank int) {
	m.Rank = rank
	for _, list := range [][]LayerMLP{m.Except, m.list} {
		for i := range list {
			if slices.Contains(spec.Ranked(), list[i].Kind) {
				list[i].Rank = rank
			}
		}
	}
}

// Networks is the section of a valid model's structures.
func Networks(s spec.Model) MLP {
	own := s.Structure(s.Layers)
	m := MLP{Kind: own.Kind, Rank: own.Rank, Blocks: own.Blocks, HiddenSplit: own.HiddenSplit, FFNSplit: own.FFNSplit}
	for _, r := range s.Stretches() {
		t := r.Structure()
		if t == own {
			continue
		}
		layers := strconv.Itoa(r.First)
		if r.Last > r.First {
			layers += "-" + strconv.Itoa(r.Last)
		}
		m.Except = append(m.Except, LayerMLP{Layers(layers), t.Kind, t.Rank, t.Blocks, t.HiddenSplit, t.FFNSplit})
	}
	return m
}

// fill gives a model its structures; errors are joined field errors, those of the
// whole model.
func (m *MLP) fill(s *spec.Model) error {
	entries, at := m.Except, "mlp.except"
	s.SetOwn(spec.Structure{Kind: m.Kind, Rank: m.Rank, Blocks: m.Blocks, HiddenSplit: m.HiddenSplit, FFNSplit: m.FFNSplit})
	if m.list != nil {
		entries, at = m.list, "mlp"
		s.SetOwn(spec.Structure{Kind: spec.Dense}) // until the layers have theirs
	}
	errs := []error{s.Validate()}
	fail := func(field string, format string, args ...any) {
		errs = append(errs, &spec.FieldError{Field: field, Msg: fmt.Sprintf(format, args...)})
	}
	layers := max(0, min(s.Layers, spec.MaxLayers))
	entryOf := make([]int, layers) // of each layer, counted from 1
	next := 0                      // the layer of an entry that names none
	for i, e := range entries {
		name := fmt.Sprintf("%s[%d]", at, i)
		for _, err := range flatten(e.structure().Network(s.Hidden, s.FFN, s.Act).Validate()) {
			if fe := (*spec.FieldError)(nil); errors.As(err, &fe) && slices.Contains(structureFields, fe.Field) {
				fail(name+"."+fe.Field, "%s", fe.Msg)
			}
		}
		if layers == 0 {
			continue // which is an error
		}
		if e.Layers == "" && m.list != nil {
			e.Layers = Layers(strconv.Itoa(next))
		}
		lo, hi, err := e.Layers.span(layers)
		if err != nil {
			fail(name+".layers", "%v", err)
			continue
		}
		next = hi + 1
		for l := lo; l <= hi; l++ {
			if other := entryOf[l]; other > 0 {
				fail(name+".layers", "layer %d is in %s[%d], too; want it once", l, at, other-1)
				break
			}
			entryOf[l] = i + 1
		}
	}
	if l := slices.Index(entryOf, 0); l >= 0 && m.list != nil {
		fail("mlp", "layer %d is in no entry of the list; want each of 0 to %d", l, layers-1)
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	structure := func(l int) spec.Structure { return entries[entryOf[l]-1].structure() }
	if m.list != nil {
		s.SetOwn(structure(layers - 1))
	} else if m.FirstDense {
		s.SetStructure(0, 0, spec.Structure{Kind: spec.Dense})
	}
	for l := range layers {
		if entryOf[l] > 0 {
			s.SetStructure(l, l, structure(l))
		}
	}
	return nil
}
