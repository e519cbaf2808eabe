package model

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/structuredffn/sffn/gen/spec"
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

// Merge makes dense matrices of the structured networks, beside the factors,
// for decoding. With tables, which it returns again, each network is merged
// only where its table says that this ever pays; shapes that have no table are
// measured. Without measuring, every network decodes merged.
func (t *Model) Merge(measure bool, tables []Crossover) ([]Crossover, error) {
	byShape := map[spec.FFN][]int{}
	var shapes []spec.FFN
	for i, l := range t.layers {
		f := l.ffn.Spec()
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
		if measure && at >= 0 && !tables[at].Ever() {
			continue
		}
		var factored, merged []*rt.FFN
		for _, i := range byShape[shape] {
			m, err := t.layers[i].ffn.Merged()
			if err != nil {
				return nil, err
			}
			factored, merged = append(factored, t.layers[i].ffn), append(merged, m)
		}
		choose := func(int) bool { return true }
		if measure {
			if at < 0 {
				at = len(tables)
				tables = append(tables, MeasureCrossover(factored, merged, CrossoverRows))
			}
			choose = tables[at].Merge
			if !tables[at].Ever() {
				for _, m := range merged {
					m.Close()
				}
				continue
			}
		}
		for j, i := range byShape[shape] {
			t.layers[i].merged, t.layers[i].choose = merged[j], choose
		}
	}
	return tables, nil
}

// decodeFFN is the form of a layer's network that decodes so many rows.
func (l *layer) decodeFFN(rows int) *rt.FFN {
	if l.merged != nil && l.choose(rows) {
		return l.merged
	}
	return l.ffn
}
