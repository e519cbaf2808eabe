package decode

import (
	"errors"
	"fmt"
	"strings"

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
		if opt.Format, err = runsIn(stored, opt.Format); err != nil {
			w.Close()
			return nil, fmt.Errorf("%s holds its weights as %s, %w", c.Dir, stored, err)
		}
	}
	m, err := loadIntegers(c.Config.Model, w.Read, w.Matrix, opt)
	if err != nil {
		w.Close()
		return nil, c.diverged(err)
	}
	m.file = w
	return m, nil
}

// runsIn is the format in which weights that are stored in a format run: that one, or the
// one that is asked for, where its packs hold the same numbers. Float32 is what nobody asked
// for.
func runsIn(stored, asked kernel.FormatName) (kernel.FormatName, error) {
	if asked == "" || asked == kernel.F32 {
		return stored, nil
	}
	var valid []string
	was, _ := stored.Format()
	for _, name := range kernel.Formats() {
		if f, _ := name.Format(); f.Weights == was.Weights {
			if name == asked {
				return asked, nil
			}
			valid = append(valid, string(name))
		}
	}
	return "", fmt.Errorf("and runs in %s, not in %s", strings.Join(valid, " or "), asked)
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
