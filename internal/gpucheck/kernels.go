package gpucheck

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
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
	if err := c.compile(ks); err != nil {
		return err
	}
	cost := func(k plan.GPUKernel) int {
		n := 0
		for _, p := range k.Params {
			if p.Type.Array() {
				n += p.Bytes(plan.GPUCountsOf{plan.Tokens: 1000, plan.Parts: 1, plan.Sequences: 1, plan.SeqLen: 1000})
			}
		}
		return n
	}
	slices.SortStableFunc(ks, func(a, b plan.GPUKernel) int { return cost(a) - cost(b) })
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
		for _, rows := range c.Rows {
			if err := c.tick(); err != nil {
				return errors.Join(err, r.Close())
			}
			err := p.Prove(k, rows)
			if !c.check(fmt.Sprintf("%d rows", rows), err) {
				proof.Problem = err.Error()
				if lost(err) { // the driver runs nothing more in this context
					if err := c.reopen(ks); err != nil {
						return fmt.Errorf("after that: %w", err)
					}
					if p, r, err = c.prover(c.loaded, proofSamples); err != nil {
						return err
					}
				}
				break
			}
			proof.Rows = append(proof.Rows, rows)
		}
		proof.Seconds = time.Since(start).Seconds()
		c.report.Kernels = append(c.report.Kernels, proof)
	}
	return r.Close()
}

// lost reports whether an error is one after which a context runs nothing.
func lost(err error) bool {
	e := (*driver.Error)(nil)
	return errors.As(err, &e) && e.Result.Asynchronous()
}

// reopen opens the device again after a kernel that has lost the context, and
// loads its kernels.
func (c *check) reopen(ks []plan.GPUKernel) error {
	c.d.Close() // everything in it is lost
	d, err := cuda.Open(c.api, c.Device)
	if err != nil {
		return err
	}
	d.Verdicts = c.d.Verdicts
	c.d, c.loaded = d, map[string]*cuda.Kernel{}
	return c.compile(ks)
}
