// Package config reads the YAML files that say what a model is and how it is
// trained. Of their two sections, model: is gen/specfile's, and train: is here.
package config

import (
	"errors"
	"fmt"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
)

// Config is what a file says: the model, and how to train it.
type Config struct {
	Model spec.Model
	Train Train
	// Source is the file's text, as it was read.
	Source []byte
	// Edition says which defaults fill in what Source leaves out.
	Edition int
}

// Edition is that of the defaults today. Those of edition 1 had weight decay of
// every parameter, for which there was no key: what was begun with them goes on
// with them.
const Edition = 2

// file mirrors the YAML schema.
type file struct {
	Model *specfile.Section `yaml:"model"`
	Train *Train            `yaml:"train"`
}

func defaults() file { return defaultsOf(Edition) }

// defaultsOf are the defaults of an edition.
func defaultsOf(edition int) file {
	m, t := specfile.NewSection(), newTrain()
	t.DecayAll = edition < 2
	return file{&m, &t}
}

// Load reads a file, or the preset of that name.
func Load(name string) (*Config, error) {
	src, err := specfile.Source(name)
	if err != nil {
		return nil, err
	}
	return Parse(name, src)
}

// LoadFor reads a file, or the preset of that name, for the model of another
// configuration: the section model may be left out, and is then that one's.
func LoadFor(name string, of *Config) (*Config, error) {
	src, err := specfile.Source(name)
	if err != nil {
		return nil, err
	}
	text, err := specfile.Check(name, src)
	if err != nil {
		return nil, err
	}
	var sections struct {
		Model ast.Node `yaml:"model"`
		Train ast.Node `yaml:"train"`
	}
	if err := specfile.Decode(name, text, &sections); err != nil || sections.Model != nil {
		return Parse(name, src) // which explains errors
	}
	if err := specfile.CheckValues(name, text, file{}); err != nil {
		return nil, err
	}
	f := defaults()
	if err := specfile.Decode(of.Model.Name, of.Source, &f); err != nil {
		return nil, err
	}
	f.Train = defaults().Train
	if err := specfile.Decode(name, text, &f); err != nil {
		return nil, err
	}
	f.setSeq()
	whole, err := yaml.Marshal(f)
	if err != nil {
		return nil, err
	}
	c, err := f.config(specfile.ModelName(name), whole)
	if err != nil {
		return nil, specfile.Locate(name, text, err)
	}
	return c, nil
}

// Parse reads the text of a file; name is for messages and the model's name.
// Unknown fields, duplicate keys, values of the wrong kind (see
// [specfile.CheckValues]) and values out of range are errors with line and column.
func Parse(name string, src []byte) (*Config, error) {
	text, err := specfile.Check(name, src)
	if err != nil {
		return nil, err
	}
	if err := specfile.CheckValues(name, text, file{}); err != nil {
		return nil, err
	}
	return ParseSaved(name, text, Edition)
}

// ParseSaved reads what Parse has read before, an earlier version's too: what that
// took is taken as it was, with the defaults of its edition.
func ParseSaved(name string, src []byte, edition int) (*Config, error) {
	src, err := specfile.Check(name, src)
	if err != nil {
		return nil, err
	}
	f := defaultsOf(edition)
	if err := specfile.Decode(name, src, &f); err != nil {
		return nil, err
	}
	if f.Model == nil || f.Train == nil { // what is saved may have none
		return nil, fmt.Errorf("%s: the section model: or train: is empty", name)
	}
	c, err := f.config(specfile.ModelName(name), src)
	if err != nil {
		return nil, specfile.Locate(name, src, err)
	}
	c.Edition = edition
	return c, nil
}

// In is what the configuration's text says with the defaults of another edition.
func (c *Config) In(edition int) (*Config, error) {
	d, err := ParseSaved(c.Model.Name, c.Source, edition)
	if err == nil {
		d.Model.Name, d.Train.Steps = c.Model.Name, c.Train.Steps
	}
	return d, err
}

// setSeq fills in the length of sequences.
func (f *file) setSeq() {
	if f.Train.Seq == unset {
		f.Train.Seq = min(256, max(1, f.Model.MaxPositions))
	}
}

// config is the configuration of that name; its errors are field errors.
func (f *file) config(name string, src []byte) (*Config, error) {
	f.setSeq()
	m, err := f.Model.Spec(name)
	m.Guided = f.Train.Guide.On()
	return &Config{Model: m, Train: *f.Train, Source: src, Edition: Edition}, errors.Join(err, f.Train.validate(m))
}

// Course is what training comes to.
type Course struct {
	// Steps is the number of all optimizer steps, of which Guided are guided
	// and Repeated see data a second time.
	Steps, Guided, Repeated int
	// FLOPs is the cost of all steps, a backward pass counted as two forward
	// passes.
	FLOPs float64
}

// Course computes the steps and the cost of training.
func (c *Config) Course() Course {
	m, t := c.Model, c.Train
	m.Guided = false // guides are counted by their phase
	batch, to := t.Batch*t.Accumulate, Course{Steps: t.Steps}
	guides := 0.0 // guided steps' worth of guides
	if g := t.Guide; g.On() {
		to.Guided = int(float64(t.Steps) * g.MaxStepRatio)
		if g.Mode == "fixedflop" {
			to.Repeated = to.Guided
			to.Steps += to.Guided
		}
		guides = float64(to.Guided)
		if g.ReduceFLOP {
			guides /= 2 // on average
		}
	}
	guide := 2 * float64(batch) * float64(t.Seq) * float64(m.GuideParams())
	to.FLOPs = 3 * (float64(to.Steps)*m.ForwardFLOPs(batch, t.Seq) + guides*guide)
	return to
}

// SameRun reports whether two configurations train the same model through the
// same states, bit for bit, given that both have the same number of lanes.
func (c *Config) SameRun(d *Config) bool {
	t := d.Train
	t.Recompute, t.Lanes = c.Train.Recompute, c.Train.Lanes
	return c.Model.SameLayers(d.Model) && c.Train == t
}
