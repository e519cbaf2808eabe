package decode

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	rt "github.com/structuredffn/sffn/runtime"
)

// Crossover is what was measured of one shape of network: how long it takes as
// factors, and merged into dense matrices, by the number of rows (tokens).
type Crossover struct {
	Layer string `json:"layer"` // the network's canonical name
	Rows  []int  `json:"rows"`
	// Factored and Merged are seconds for one network.
	Factored []float64 `json:"factored"`
	Merged   []float64 `json:"merged"`
}

// gain is the share of time from which merging is worth its memory.
const gain = 0.02

// Merge reports whether the merged network is the faster one at so many rows:
// at the measured number that is next below.
func (c Crossover) Merge(rows int) bool {
	i, found := slices.BinarySearch(c.Rows, rows)
	if !found {
		i--
	}
	return i >= 0 && c.Merged[i] < (1-gain)*c.Factored[i]
}

// Always reports whether merging pays at every number of rows.
func (c Crossover) Always() bool {
	return c.Rows[0] == 1 && !slices.ContainsFunc(c.Rows, func(rows int) bool { return !c.Merge(rows) })
}

// Ever reports whether merging pays at any number of rows.
func (c Crossover) Ever() bool { return slices.ContainsFunc(c.Rows, c.Merge) }

// Validate reports a table that cannot have been measured.
func (c Crossover) Validate() error {
	if len(c.Rows) == 0 || len(c.Factored) != len(c.Rows) || len(c.Merged) != len(c.Rows) || c.Rows[0] < 1 || !slices.IsSorted(c.Rows) {
		return fmt.Errorf("the table of %s has %d, %d and %d entries; want as many times as rows, in rising order", c.Layer, len(c.Rows), len(c.Factored), len(c.Merged))
	}
	return nil
}

// CrossoverRows are the numbers of rows that Merge measures. With more,
// arithmetic alone decides, and the last answer stays.
var CrossoverRows = []int{1, 2, 4, 8, 16, 32, 64, 128}

const (
	// crossoverRounds of measuring take turns between factored and merged, two
	// at least where they take longer than crossoverMost; the fastest counts,
	// which other work on the machine disturbs least.
	crossoverRounds = 7
	crossoverMost   = 300 * time.Millisecond
	// crossoverTime is the least time of one measurement.
	crossoverTime = 2 * time.Millisecond
)

// MeasureCrossover times networks of one shape against their merged forms, all
// of them one after the other, as decoding does: weights come from as far away.
func MeasureCrossover(factored, merged []*rt.FFN, rows []int) Crossover {
	f := factored[0]
	c := Crossover{Layer: f.Spec().Name(), Rows: rows, Factored: make([]float64, len(rows)), Merged: make([]float64, len(rows))}
	most, h := rows[len(rows)-1], f.Spec().Hidden
	ws := f.NewWorkspace()
	defer ws.Close()
	r := rand.New(rand.NewPCG(1, 1))
	x, y := make([]float32, most*h), make([]float32, most*h)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	pass := func(nets []*rt.FFN, m int) {
		for _, n := range nets {
			n.Forward(y, x, nil, m, nil, ws)
		}
	}
	seconds := func(nets []*rt.FFN, m int) float64 {
		start, n := time.Now(), 0
		for n == 0 || time.Since(start) < crossoverTime {
			pass(nets, m)
			n++
		}
		return time.Since(start).Seconds() / float64(n*len(nets))
	}
	for i, m := range rows {
		pass(factored, m) // the first pass finds its memory
		pass(merged, m)
		start := time.Now()
		for round := 0; round < crossoverRounds && (round < 2 || time.Since(start) < crossoverMost); round++ {
			a, b := seconds(factored, m), seconds(merged, m)
			if round == 0 || a < c.Factored[i] {
				c.Factored[i] = a
			}
			if round == 0 || b < c.Merged[i] {
				c.Merged[i] = b
			}
		}
	}
	return c
}

// Merge makes dense matrices of the structured networks, for decoding. With
// tables, which it returns again, each network is merged only where its table says
// that this ever pays; shapes that have no table are measured. Without measuring,
// every network decodes merged. Where the model was loaded to run, a network that
// is always merged takes the place of its factors.
func (m *Model) Merge(measure bool, tables []Crossover) ([]Crossover, error) {
	byShape := map[spec.FFN][]int{}
	var shapes []spec.FFN
	for i := range m.Spec.Layers {
		f := m.FFN(i).Spec()
		if f.Kind == spec.Dense {
			continue
		}
		if byShape[f] == nil {
			shapes = append(shapes, f)
		}
		byShape[f] = append(byShape[f], i)
	}
	for _, shape := range shapes {
		at := slices.IndexFunc(tables, func(c Crossover) bool { return c.Layer == shape.Name() })
		if measure && at < 0 {
			table, err := m.measure(byShape[shape])
			if err != nil {
				return nil, err
			}
			at, tables = len(tables), append(tables, table)
		}
		choose, always := func(int) bool { return true }, true
		if measure {
			choose, always = tables[at].Merge, tables[at].Always()
		}
		if measure && !tables[at].Ever() {
			continue
		}
		for _, i := range byShape[shape] {
			if err := m.merge(i); err != nil {
				return nil, err
			}
			if n := &m.networks[i]; always && m.Params == nil {
				m.SetFFN(i, n.merged)
				*n = network{}
			} else {
				n.choose = choose
			}
		}
	}
	return tables, nil
}

// measure merges networks of one shape and times them.
func (m *Model) measure(layers []int) (c Crossover, err error) {
	var factored, merged []*rt.FFN
	for _, i := range layers {
		if err := m.merge(i); err != nil {
			return c, err
		}
		factored, merged = append(factored, m.FFN(i)), append(merged, m.networks[i].merged)
	}
	c = MeasureCrossover(factored, merged, CrossoverRows)
	if !c.Ever() {
		for _, i := range layers {
			m.networks[i].close()
		}
	}
	return c, nil
}

// merge makes the merged form of a layer's network, if it is not there.
func (m *Model) merge(i int) (err error) {
	n := &m.networks[i]
	if n.merged != nil {
		return nil
	}
	return model.WithNetwork(m.Spec, i, m.weights, func(w rt.FFNWeights) error {
		n.merged, err = rt.NewMerged(m.FFN(i).Spec(), w, m.Options())
		return err
	})
}

// network is a layer's merged feed-forward network, which decodes the numbers of
// rows that choose picks; the zero value is none.
type network struct {
	merged *rt.FFN
	choose func(rows int) bool
}

func (n *network) close() {
	if n.merged != nil {
		n.merged.Close()
	}
	*n = network{}
}

// network is the form of layer i's network that decodes so many rows.
func (m *Model) network(i, rows int) *rt.FFN {
	if n := &m.networks[i]; n.merged != nil && n.choose(rows) {
		return n.merged
	}
	return m.FFN(i)
}
