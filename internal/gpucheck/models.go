package gpucheck

import (
	"errors"
	"fmt"
	"slices"

	"github.com/structuredffn/sffn/internal/bench"
	"github.com/structuredffn/sffn/model/config"
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

// model times steps and tokens of a whole model. What does not fit the device's
// memory is left out, with a note.
func (c *check) model(cfg *config.Config) error {
	m := cfg.Model
	ks, err := gpu.Kernels(m)
	if err != nil {
		return err
	}
	if err := c.d.Load(ks); err != nil {
		return err
	}
	timed := bench.NewDeviceModel(c.d, m)
	defer timed.Close()
	for _, op := range []struct {
		name    string
		spare   int // positions beside those of a context
		batches []int
		time    func(shapes []bench.Shape, repeats int) ([]ModelTime, error)
	}{{"a step", 0, trainBatches, timed.Train}, {"decoding", 1, decodeBatches, timed.Decode}} {
		var seqs []int
		for _, seq := range c.Contexts {
			if seq = min(seq, m.MaxPositions-op.spare); !slices.Contains(seqs, seq) {
				seqs = append(seqs, seq)
			}
		}
		for shapes := bench.Shapes(op.batches, seqs); len(shapes) > 0; {
			if err := c.at("%s, %s", m.Name, op.name); err != nil {
				return err
			}
			rs, err := op.time(shapes, c.Repeats)
			c.part.Checks += len(rs)
			c.report.Models = append(c.report.Models, rs...)
			for _, r := range rs {
				c.logf("  %s, %s, %d x %d: %.0f tokens/s", r.Model, r.Op, r.Batch, r.Seq, r.Tokens)
			}
			if err = errors.Join(err, c.d.Trim()); err == nil {
				break
			}
			if !errors.Is(err, driver.OutOfMemory) {
				return fmt.Errorf("%s: %w", op.name, err)
			}
			last := shapes[len(shapes)-1]
			c.note("%s, %s of %d x %d: %v", m.Name, op.name, last.Batch, last.Seq, err)
			if len(rs) > 0 { // it is no memory for what is timed together
				break
			}
			shapes = shapes[:len(shapes)-1]
		}
	}
	return nil
}
