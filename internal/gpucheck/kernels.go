package gpucheck

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// KernelProof is what came of one kernel.
type KernelProof struct {
	Kernel string `json:"kernel"`
	Code   string `json:"code"` // machine code or PTX
	// Rows are the sizes at which it was right, Problem what happened at the next.
	Rows    []int   `json:"rows"`
	Problem string  `json:"problem,omitempty"`
	Seconds float64 `json:"seconds"`
}

// proofSamples are the stretches of each result of which one entry is compared,
// beside one of every tile of a product.
const proofSamples = 1000

// kernels proves every kernel at every number of rows: entries of all tiles
// against float64, that everything was written, nothing beside it, and that a
// second run leaves the same bits. The largest kernels come last.
func (c *check) kernels() error {
	ks, err := c.table()
	if err != nil {
		return err
	}
	cost := func(k table.Kernel) int {
		n := 0
		for _, p := range k.Params {
			if p.Type.Array() {
				n += p.Bytes(table.Counts{table.Tokens: 1000, table.Parts: 1, table.Sequences: 1, table.SeqLen: 1000})
			}
		}
		return n
	}
	slices.SortStableFunc(ks, func(a, b table.Kernel) int { return cost(a) - cost(b) })
	ks = ks[min(c.from, len(ks)):] // the others are proven, or have ended a process
	if ks, err = c.compile(ks); err != nil {
		return err
	}
	p, r, err := c.prover(c.loaded, proofSamples)
	if err != nil {
		return err
	}
	for _, k := range ks {
		start := time.Now()
		proof := KernelProof{Kernel: k.Name, Code: "PTX", Rows: []int{}}
		if c.loaded[k.Name].MachineCode {
			proof.Code = "machine code"
		}
		c.proving = &proof
		for _, rows := range c.rowsOf(k, cost(k)) {
			if err := c.at("%s, %d rows", k.Name, rows); err != nil {
				return errors.Join(err, r.Close())
			}
			err := p.Prove(k, rows)
			if !c.check(fmt.Sprintf("%d rows", rows), err) {
				proof.Problem = err.Error()
				break
			}
			proof.Rows = append(proof.Rows, rows)
		}
		c.proving = nil
		proof.Seconds = time.Since(start).Seconds()
		c.report.Kernels = append(c.report.Kernels, proof)
	}
	return errors.Join(c.tick(), r.Close()) // the last kernel may have lost the context
}

// Sizes of which kernels of large arrays run at some: those around tiles.
const largeArrays = 32 << 20

// fewMost bounds the rows of kernels for few tokens, which models run with up to
// fewer of them.
const fewMost = 1000

// rowsOf are the rows that a kernel is proven at whose arrays have so many bytes:
// all where none of those that are asked for is among them.
func (c *check) rowsOf(k table.Kernel, bytes int) (rows []int) {
	few := k.Shape.Product != nil && k.Rows.To > 0
	for _, n := range c.Rows {
		if few && n > fewMost || bytes > largeArrays && n < edges[len(edges)-1] && !slices.Contains(edges, n) {
			continue
		}
		rows = append(rows, n)
	}
	if len(rows) == 0 {
		return c.Rows
	}
	return rows
}

// edges straddle tiles of 16, 64 and 128 rows.
var edges = []int{1, 15, 16, 17, 63, 64, 65, 127, 128, 129}
