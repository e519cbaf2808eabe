package tool

import (
	"fmt"

	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/token"
	rt "github.com/structuredffn/sffn/runtime"
)

// loaded is a trained model.
type loaded struct {
	*model.Model
	config *config.Config
	state  checkpoint.State
	dir    string // of the checkpoint
	tok    token.Tokenizer
}

// loadRun reads the newest checkpoint of a run, or the checkpoint itself.
func loadRun(name string, opt rt.Options) (*loaded, error) {
	dir, err := checkpoint.Find(name)
	if err != nil {
		return nil, fmt.Errorf("--model: %w", err)
	}
	c, s, err := checkpoint.Describe(dir)
	if err != nil {
		return nil, err
	}
	c.Model.Guided = false // guides are for training only
	if err := checkpoint.Verify(dir, c); err != nil {
		return nil, err
	}
	tok, err := token.New(s.Tokenizer)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	if tok.Vocab() > c.Model.Vocab {
		return nil, fmt.Errorf("%s: the %s tokenizer has %d ids, the model takes %d", dir, tok.Name(), tok.Vocab(), c.Model.Vocab)
	}
	p := model.NewParams(c.Model)
	if err := checkpoint.Load(dir, p); err != nil {
		return nil, err
	}
	if err := p.Finite(); err != nil {
		p.Close()
		return nil, fmt.Errorf("%s: %w; the run has diverged, or the file is not what was trained", dir, err)
	}
	m, err := model.New(c.Model, p, opt)
	if err != nil {
		return nil, err
	}
	return &loaded{m, c, s, dir, tok}, nil
}

func (l *loaded) close() {
	l.Model.Close()
	l.Params.Close()
}
