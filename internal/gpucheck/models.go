package gpucheck

import (
	"errors"
	"fmt"

	"github.com/structuredffn/sffn/internal/bench"
	"github.com/structuredffn/sffn/model/gpu"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// ModelTime is the speed of a whole model: a training step with its optimizer, a
// prompt, or a token of each sequence.
type ModelTime = bench.DeviceResult

// Batches of the tables: sequences that are trained, and that are decoded, at a
// time.
var (
	trainBatches  = []int{1, 8}
	decodeBatches = []int{1, 4, 16, 64}
)

// models times steps and tokens of whole models. What does not fit the device's
// memory is left out, with a note.
func (c *check) models() error {
	for _, cfg := range c.Timed {
		m := cfg.Model
		if err := c.at("%s", m.Name); err != nil {
			return err
		}
		ks, err := gpu.Kernels(m)
		if err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		if err := c.d.Load(ks); err != nil {
			return fmt.Errorf("%s: %w", m.Name, err)
		}
		add := func(what string, rs []ModelTime, err error) error {
			if errors.Is(err, driver.OutOfMemory) {
				c.note("%s, %s: %v", m.Name, what, err)
				err = nil
			}
			if err != nil {
				return fmt.Errorf("%s, %s: %w", m.Name, what, err)
			}
			c.part.Checks += len(rs)
			c.report.Models = append(c.report.Models, rs...)
			for _, r := range rs {
				c.logf("  %s, %s, %d x %d: %.0f tokens/s", r.Model, r.Op, r.Batch, r.Seq, r.Tokens)
			}
			return errors.Join(c.d.Trim(), c.tick())
		}
		for _, seq := range c.Contexts {
			for _, batch := range trainBatches {
				seq := min(seq, m.MaxPositions)
				r, err := bench.DeviceTrain(c.d, m, batch, seq, c.Repeats)
				rs := []ModelTime{r}
				if err != nil {
					rs = nil
				}
				if err := add(fmt.Sprintf("a step of %d x %d", batch, seq), rs, err); err != nil {
					return err
				}
			}
			for _, batch := range decodeBatches {
				seq := min(seq, m.MaxPositions-1)
				rs, err := bench.DeviceDecode(c.d, m, batch, seq, c.Repeats)
				if err := add(fmt.Sprintf("decoding %d x %d", batch, seq), rs, err); err != nil {
					return err
				}
			}
		}
	}
	return nil
}
