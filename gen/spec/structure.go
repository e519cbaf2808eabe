package spec

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Structure is what may differ from layer to layer: the kind of a network's
// linears, its rank, blocks and splits, 0 where it has none.
type Structure struct {
	Kind        Kind `json:"kind"`
	Rank        int  `json:"rank,omitempty"`
	Blocks      int  `json:"blocks,omitempty"`
	HiddenSplit int  `json:"hidden_split,omitempty"`
	FFNSplit    int  `json:"ffn_split,omitempty"`
}

// String is the structure as names have it: blockdense_r512_b2.
func (s Structure) String() string {
	return name(string(s.Kind), s.Rank, s.Blocks, s.HiddenSplit, s.FFNSplit)
}

// Text says in words what the structure is.
func (s Structure) Text() string {
	text := string(s.Kind)
	if s.Rank > 0 {
		text += fmt.Sprintf(", rank %d", s.Rank)
	}
	if s.Blocks > 0 {
		text += fmt.Sprintf(", %d blocks", s.Blocks)
	}
	for _, split := range []struct {
		of string
		n  int
	}{{"hidden", s.HiddenSplit}, {"ffn", s.FFNSplit}} {
		if split.n > 0 {
			text += fmt.Sprintf(", %s split %d", split.of, split.n)
		}
	}
	return text
}

// Network is the network of this structure, without bias and guide.
func (s Structure) Network(hidden, ffn int, act Act) FFN {
	return FFN{Kind: s.Kind, Hidden: hidden, FFN: ffn, Rank: s.Rank, Blocks: s.Blocks, HiddenSplit: s.HiddenSplit, FFNSplit: s.FFNSplit, Act: act}
}

// Structure is that of the network.
func (f FFN) Structure() Structure {
	return Structure{f.Kind, f.Rank, f.Blocks, f.HiddenSplit, f.FFNSplit}
}

// own is the structure of the layers that Except leaves out.
func (m Model) own() Structure {
	return Structure{m.Kind, m.Rank, m.Blocks, m.HiddenSplit, m.FFNSplit}
}

// SetOwn gives the layers that Except leaves out a structure.
func (m *Model) SetOwn(s Structure) {
	m.Kind, m.Rank, m.Blocks, m.HiddenSplit, m.FFNSplit = s.Kind, s.Rank, s.Blocks, s.HiddenSplit, s.FFNSplit
}

// Exceptions are the layers of a model that have another structure than the
// model's own, as a text that == compares: "0:dense 10-11:lowrank_r192". The runs
// of layers are in rising order, and as long as they can be. [Model.SetStructure]
// writes it.
type Exceptions string

// run is a stretch of layers [lo, hi] of one structure.
type run struct {
	lo, hi int
	Structure
}

func (r run) String() string {
	return stretch(r.lo, r.hi) + ":" + r.Structure.String()
}

// next reads the first run of e. What is no run ends the text.
func (e Exceptions) next() (r run, rest Exceptions, ok bool) {
	text, tail, _ := strings.Cut(string(e), " ")
	layers, structure, ok := strings.Cut(text, ":")
	if !ok {
		return r, "", false
	}
	var errs [4]error
	r.lo, r.hi, ok = cutStretch(layers)
	structure, splits, split := strings.Cut(structure, "_s")
	structure, blocks, blocked := strings.Cut(structure, "_b")
	kind, rank, ranked := strings.Cut(structure, "_r")
	r.Kind = Kind(kind)
	if ranked {
		r.Rank, errs[0] = strconv.Atoi(rank)
	}
	if blocked {
		r.Blocks, errs[1] = strconv.Atoi(blocks)
	}
	if split {
		hidden, ffn, _ := strings.Cut(splits, "x")
		r.HiddenSplit, errs[2] = strconv.Atoi(hidden)
		r.FFNSplit, errs[3] = strconv.Atoi(ffn)
	}
	return r, Exceptions(tail), ok && errs == [4]error{}
}

func (e Exceptions) runs() (all []run) {
	for e != "" {
		r, rest, ok := e.next()
		if !ok {
			break
		}
		all, e = append(all, r), rest
	}
	return all
}

// Structure is that of layer i, counted from 0, or the model's own past the last
// layer.
func (m Model) Structure(i int) Structure {
	for e := m.Except; e != ""; {
		r, rest, ok := e.next()
		if !ok || r.lo > i {
			break
		}
		if i <= r.hi {
			return r.Structure
		}
		e = rest
	}
	return m.own()
}

// SetStructure gives layers lo to hi a structure.
func (m *Model) SetStructure(lo, hi int, s Structure) {
	var all []run
	for _, r := range m.Except.runs() {
		if r.lo < lo {
			all = append(all, run{r.lo, min(r.hi, lo-1), r.Structure})
		}
		if r.hi > hi {
			all = append(all, run{max(r.lo, hi+1), r.hi, r.Structure})
		}
	}
	if s != m.own() {
		all = append(all, run{lo, hi, s})
	}
	slices.SortFunc(all, func(a, b run) int { return cmp.Compare(a.lo, b.lo) })
	var text []string
	for i, r := range all {
		if n := len(text); i > 0 && r.lo == all[i-1].hi+1 && r.Structure == all[i-1].Structure {
			r.lo = all[i-1].lo
			all[i], text = r, text[:n-1]
		}
		text = append(text, r.String())
	}
	m.Except = Exceptions(strings.Join(text, " "))
}

// Stretch is a run of layers that have the same network: First to Last.
type Stretch struct {
	First, Last int
	FFN
}

// Stretches lists a valid model's runs of equal networks, in order.
func (m Model) Stretches() (all []Stretch) {
	for i := range m.Layers {
		f := m.LayerFFN(i)
		if n := len(all); n > 0 && all[n-1].FFN == f {
			all[n-1].Last = i
			continue
		}
		all = append(all, Stretch{i, i, f})
	}
	return all
}

// FFNs lists the networks of a valid model's layers, each once.
func (m Model) FFNs() (all []FFN) {
	for _, s := range m.Stretches() {
		if !slices.Contains(all, s.FFN) {
			all = append(all, s.FFN)
		}
	}
	return all
}

// Structured reports whether any layer of the model is.
func (m Model) Structured() bool {
	for i := range min(m.Layers, MaxLayers) {
		if m.Structure(i).Kind != Dense {
			return true
		}
	}
	return false
}

// SameLayers reports whether two valid models are the same in all their layers,
// whichever structure each calls its own.
func (m Model) SameLayers(n Model) bool {
	if m.Layers != n.Layers {
		return false
	}
	for i := range m.Layers {
		if m.Structure(i) != n.Structure(i) {
			return false
		}
	}
	n.SetOwn(m.own())
	n.Except = m.Except
	return m == n
}

// exceptions collects the errors of layers that have a structure of their own.
func (c *checker) exceptions(m Model) {
	again := m
	again.Except = ""
	for _, r := range m.Except.runs() {
		if r.lo < 0 || r.lo > r.hi || r.hi >= m.Layers {
			c.fail("except", "layers %d-%d are out of range, the model has 0 to %d", r.lo, r.hi, m.Layers-1)
			return
		}
		again.SetStructure(r.lo, r.hi, r.Structure)
		one := checker{}
		one.ffn(m.LayerFFN(r.lo))
		for _, err := range one.errs {
			c.fail("except", "layer %d: %v", r.lo, err)
		}
	}
	if again.Except != m.Except {
		c.fail("except", "%q is not written as %q", m.Except, again.Except)
	}
}
