package config

import (
	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
)

// Draft is a configuration in the making: the defaults, overlaid with parts of
// a larger YAML document one after the other.
type Draft struct {
	model specfile.Section
	train Train
}

// NewDraft returns the defaults.
func NewDraft() Draft {
	f := defaults()
	return Draft{*f.Model, *f.Train}
}

// Overlay sets the fields that the sections model and train name; either may be
// nil. Errors are the YAML library's, with line and column.
func (d *Draft) Overlay(model, train ast.Node) error {
	d.model = d.model.Clone() // drafts are copied
	if err := d.check(model, train); err != nil {
		return err
	}
	if model != nil {
		if err := yaml.NodeToValue(model, &d.model, yaml.Strict()); err != nil {
			return err
		}
	}
	if train != nil {
		return yaml.NodeToValue(train, &d.train, yaml.Strict())
	}
	return nil
}

// check looks at the values of sections.
func (d *Draft) check(model, train ast.Node) error {
	if err := specfile.CheckSection(model, d.model); err != nil {
		return err
	}
	return specfile.CheckSection(train, d.train)
}

// SetRank sets the rank of the structured layers to a share of the hidden width.
func (d *Draft) SetRank(share float64) {
	d.model = d.model.Clone() // drafts are copied
	d.model.MLP.SetRank(int(share * float64(d.model.Hidden)))
}

// SetSeed and SetSteps set a field of the section train.
func (d *Draft) SetSeed(seed uint64) { d.train.Seed = seed }
func (d *Draft) SetSteps(steps int)  { d.train.Steps = steps }

// Config is the finished configuration; its source is all of its text. Errors
// are joined field errors.
func (d Draft) Config(name string) (*Config, error) {
	f := file{&d.model, &d.train}
	f.setSeq()
	src, err := yaml.Marshal(f)
	if err != nil {
		return nil, err
	}
	return f.config(name, src)
}

// WithNetworks is the configuration with the feed-forward networks of another model,
// their inner width and structures, and without guides. Its source says so; the rest
// of it is what c's said, and the defaults in full.
func (c *Config) WithNetworks(m spec.Model) (*Config, error) {
	f := defaults()
	if err := specfile.Decode(c.Model.Name, c.Source, &f); err != nil {
		return nil, err
	}
	f.Model.FFN, f.Model.MLP = m.FFN, specfile.Networks(m)
	f.Train.Guide = Guide{}
	f.setSeq()
	src, err := yaml.Marshal(f)
	if err != nil {
		return nil, err
	}
	return f.config(c.Model.Name, src)
}

// Of is the configuration of a model that comes from elsewhere, without a word on
// training: it has the defaults, and sequences of at most 1024 tokens. Its source says
// no more. Errors are joined field errors.
func Of(name string, m specfile.Section) (*Config, error) {
	t := newTrain()
	t.Seq = max(1, min(1024, m.MaxPositions))
	src, err := yaml.Marshal(struct {
		Model specfile.Section `yaml:"model"`
		Train map[string]int   `yaml:"train"`
	}{m, map[string]int{"seq": t.Seq}})
	if err != nil {
		return nil, err
	}
	f := file{&m, &t}
	return f.config(name, src)
}
