package bench

import (
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model/decode"
	rt "github.com/structuredffn/sffn/runtime"
)

// MergeResult is the rate of a feed-forward network as factors and merged into
// dense matrices, and of the one that --merge auto takes.
type MergeResult struct {
	Layer   string `json:"layer"`
	Rows    int    `json:"rows"` // tokens
	Threads int    `json:"threads"`
	// Tokens a second through one network, its weights coming from memory.
	Factored float64 `json:"factored_tokens_per_second"`
	Merged   float64 `json:"merged_tokens_per_second"`
	Auto     float64 `json:"auto_tokens_per_second"`
	// Choice is what auto takes, by a measurement of its own, and Behind the
	// share by which it is slower than the better of the two.
	Choice string  `json:"choice"`
	Behind float64 `json:"behind"`
}

// mostCopies bounds the networks that are made: those of a few kilobytes stay in a
// cache.
const mostCopies = 1 << 10

// Merge times networks of one shape, as factors and merged, enough of them for
// the merged weights to come from memory. A first, shorter measurement is the one
// that auto decides by.
func (b *Bench) Merge(f spec.FFN, rows []int) ([]MergeResult, error) {
	dense := 4 * (f.FC1().In*f.FC1().Out + f.FC2().In*f.FC2().Out)
	var factored, merged []*rt.FFN
	defer func() {
		for _, n := range append(factored, merged...) {
			n.Close()
		}
	}()
	for i := 0; i < 2 || i < mostCopies && i*dense < memoryBytes(); i++ {
		n, err := b.network(f, 1, false)
		if err != nil {
			return nil, err
		}
		n.arena.Close()
		n.ws.Close()
		factored = append(factored, n.FFN)
		m, err := n.Merged()
		if err != nil {
			return nil, err
		}
		merged = append(merged, m)
	}
	table := decode.MeasureCrossover(factored, merged, decode.CrossoverRows)
	best := decode.MeasureCrossover(factored, merged, rows)
	for range b.Repeats - 1 {
		c := decode.MeasureCrossover(factored, merged, rows)
		for i := range rows {
			best.Factored[i], best.Merged[i] = min(best.Factored[i], c.Factored[i]), min(best.Merged[i], c.Merged[i])
		}
	}
	var results []MergeResult
	for i, m := range rows {
		r := MergeResult{Layer: f.Name(), Rows: m, Threads: b.Pool.Threads(), Factored: float64(m) / best.Factored[i], Merged: float64(m) / best.Merged[i], Choice: "factored"}
		r.Auto = r.Factored
		if table.Merge(m) {
			r.Choice, r.Auto = "merged", r.Merged
		}
		r.Behind = 1 - r.Auto/max(r.Factored, r.Merged)
		results = append(results, r)
	}
	return results, nil
}
