package decode

import (
	"errors"
	"fmt"

	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/token"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Checkpoint is a model on disk.
type Checkpoint struct {
	Dir    string
	Config *config.Config
	State  checkpoint.State
	// Tokenizer is nil of a model that came without one: it takes ids only.
	Tokenizer token.Tokenizer
}

// Open describes a checkpoint, whose header has to be that of its configuration's
// model. Guides are left out: they are for training only.
func Open(dir string) (*Checkpoint, error) {
	cfg, state, err := checkpoint.Describe(dir)
	if err != nil {
		return nil, err
	}
	c := &Checkpoint{Dir: dir, Config: cfg, State: state}
	c.Config.Model.Guided = false
	if err := checkpoint.VerifyAs(dir, c.Config, state.Weights); err != nil {
		return nil, err
	}
	if c.Tokenizer, err = checkpoint.Tokenizer(dir, c.State); err != nil {
		return nil, err
	}
	if c.Tokenizer == nil {
		return c, nil
	}
	if ids, vocab := c.Tokenizer.Vocab(), c.Config.Model.Vocab; ids > vocab {
		return nil, fmt.Errorf("%s: the %s tokenizer has %d ids, the model takes %d", dir, c.Tokenizer.Name(), ids, vocab)
	}
	return c, nil
}

// Text returns the tokenizer, which has to be there.
func (c *Checkpoint) Text() (token.Tokenizer, error) {
	if c.Tokenizer == nil {
		return nil, fmt.Errorf("%s came without a tokenizer: it takes token ids, as sffn logits does, and no text; import it again with --tokenizer", c.Dir)
	}
	return c.Tokenizer, nil
}

// Load reads the model to decode on the CPU. Its file stays open until Close, for
// networks that are merged.
func (c *Checkpoint) Load(opt rt.Options) (*Model, error) {
	w, err := checkpoint.OpenWeights(c.Dir)
	if err != nil {
		return nil, err
	}
	if stored := c.State.Weights; stored != "" {
		if f := opt.Format; f != "" && f != kernel.F32 && f != stored {
			w.Close()
			return nil, fmt.Errorf("%s holds its weights as %s, and runs in no other format than that, not in %s", c.Dir, stored, f)
		}
		opt.Format = stored
	}
	m, err := loadIntegers(c.Config.Model, w.Read, w.Matrix, opt)
	if err != nil {
		w.Close()
		return nil, c.diverged(err)
	}
	m.file = w
	return m, nil
}

// Params reads all parameters, for a device.
func (c *Checkpoint) Params() (*model.Params, error) {
	p := model.NewParams(c.Config.Model)
	err := checkpoint.Load(c.Dir, p)
	if err == nil {
		err = c.diverged(p.Finite())
	}
	if err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

// diverged explains weights that are not finite.
func (c *Checkpoint) diverged(err error) error {
	if bad := (*model.NotFiniteError)(nil); errors.As(err, &bad) {
		return fmt.Errorf("%s: %w; the run has diverged, or the file is not what was trained", c.Dir, err)
	}
	return err
}
