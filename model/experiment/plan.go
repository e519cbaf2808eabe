// Package experiment trains the runs of a plan, written in one YAML file, and
// reports what they show. Every run is an ordinary run's folder; a plan that is
// interrupted goes on where it was.
package experiment

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"

	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/model/config"
)

// Plan is what a file says: studies, and the runs that they need.
type Plan struct {
	// Name is the file's, Source its text.
	Name   string
	Source []byte
	// Corpus is goroot, or Text lists files and folders.
	Corpus string
	Text   []string
	// Tokenizer is that of the data: byte where the file names none.
	Tokenizer string
	Studies   []Study
	// Runs lists every training once, in the order of the studies.
	Runs []*Run
}

// Study compares variants with a reference, at one or more sizes and seeds.
type Study struct {
	Name, Question string
	// Reference is the variant that the others are compared with.
	Reference string
	Variants  []string
	Sizes     []string
	// Fit asks for loss against training FLOPs, with a line for each variant.
	Fit    bool
	Points []Point
}

// Point is the place of a run in a study. Studies share runs of the same
// configuration.
type Point struct {
	Size, Variant string
	Seed          uint64
	Run           *Run
}

// Run is one training.
type Run struct {
	Name   string
	Config *config.Config
}

// The schema of the file.
type planFile struct {
	Corpus    string      `yaml:"corpus"`
	Text      []string    `yaml:"text"`
	Tokenizer string      `yaml:"tokenizer"`
	Model     ast.Node    `yaml:"model"`
	Train     ast.Node    `yaml:"train"`
	Studies   []studyFile `yaml:"studies"`
}

type studyFile struct {
	Name      string        `yaml:"name"`
	Question  string        `yaml:"question"`
	Reference string        `yaml:"reference"`
	Seeds     []uint64      `yaml:"seeds"`
	Fit       bool          `yaml:"fit"`
	Sizes     []sizeFile    `yaml:"sizes"`
	Variants  []variantFile `yaml:"variants"`
}

type sizeFile struct {
	Name  string   `yaml:"name"`
	Seeds []uint64 `yaml:"seeds"` // in place of the study's
	Model ast.Node `yaml:"model"`
	Train ast.Node `yaml:"train"`
}

type variantFile struct {
	Name  string   `yaml:"name"`
	Model ast.Node `yaml:"model"`
	Train ast.Node `yaml:"train"`
	// RankOfHidden sets the rank to a share of the hidden width.
	RankOfHidden float64 `yaml:"rank_of_hidden"`
	// FLOPsOf names an earlier variant whose training FLOPs this one gets, by
	// the number of its steps.
	FLOPsOf string `yaml:"flops_of"`
}

// maxRuns bounds what a plan asks for: the points of its studies, shared runs
// counted each time.
const maxRuns = 10000

// Load reads a plan.
func Load(name string) (*Plan, error) {
	src, err := specfile.ReadText(name)
	if err != nil {
		return nil, err
	}
	return Parse(name, src)
}

// Parse reads the text of a plan; name is for messages.
func Parse(name string, src []byte) (*Plan, error) {
	src, err := specfile.Check(name, src)
	if err != nil {
		return nil, err
	}
	if err := specfile.CheckValues(name, src, planFile{}); err != nil {
		return nil, err
	}
	var f planFile
	if err := yaml.NewDecoder(bytes.NewReader(src), yaml.Strict()).Decode(&f); errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%s: the file is empty, want the sections corpus, model, train and studies", name)
	} else if err != nil {
		return nil, specfile.SyntaxError(name, err)
	}
	if (f.Corpus == "") == (len(f.Text) == 0) || f.Corpus != "" && f.Corpus != "goroot" {
		return nil, fmt.Errorf("%s: want either corpus: goroot, or a list text: of files and folders", name)
	}
	if len(f.Studies) == 0 {
		return nil, fmt.Errorf("%s: studies: is empty, want one or more", name)
	}
	p := &Plan{Name: name, Source: src, Corpus: f.Corpus, Text: f.Text, Tokenizer: cmp.Or(f.Tokenizer, "byte")}
	base := config.NewDraft()
	if err := base.Overlay(f.Model, f.Train); err != nil {
		return nil, specfile.SyntaxError(name, err)
	}
	b := builder{Plan: p, base: base, bySource: map[string]*Run{}}
	seen := map[string]bool{}
	points := 0
	for i := range f.Studies {
		s := &f.Studies[i]
		if err := s.check(seen); err != nil {
			return nil, fmt.Errorf("%s: studies[%d]: %w", name, i, err)
		}
		for _, z := range s.Sizes {
			points += len(s.Variants) * len(s.seeds(z))
		}
		if points > maxRuns {
			return nil, fmt.Errorf("%s: studies[%d]: %q: the sizes, variants and seeds make more than %d runs, want fewer", name, i, s.Name, maxRuns)
		}
	}
	for _, s := range f.Studies {
		if err := b.study(s); err != nil {
			return nil, err
		}
	}
	return p, nil
}

var goodName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)

// check validates everything about a study but its configurations.
func (s *studyFile) check(studies map[string]bool) error {
	if err := newName("study", s.Name, studies); err != nil {
		return err
	}
	if len(s.Seeds) == 0 {
		return fmt.Errorf("%q: seeds: is empty, want one or more", s.Name)
	}
	if err := noSeedTwice(s.Seeds); err != nil {
		return fmt.Errorf("%q: %w", s.Name, err)
	}
	if len(s.Variants) == 0 {
		return fmt.Errorf("%q: variants: is empty, want one or more", s.Name)
	}
	if len(s.Sizes) == 0 {
		s.Sizes = []sizeFile{{}}
	} else {
		sizes := map[string]bool{}
		for _, z := range s.Sizes {
			if err := newName("size", z.Name, sizes); err != nil {
				return fmt.Errorf("%q: %w", s.Name, err)
			}
			if err := noSeedTwice(z.Seeds); err != nil {
				return fmt.Errorf("%q: size %q: %w", s.Name, z.Name, err)
			}
		}
	}
	variants := map[string]bool{}
	for _, v := range s.Variants {
		if v.FLOPsOf != "" && !variants[v.FLOPsOf] {
			return fmt.Errorf("%q: variant %q: flops_of: %q is no variant before it", s.Name, v.Name, v.FLOPsOf)
		}
		if !(v.RankOfHidden >= 0 && v.RankOfHidden <= 16) {
			return fmt.Errorf("%q: variant %q: rank_of_hidden: %v is out of range, want 0 (the model's rank) to 16", s.Name, v.Name, v.RankOfHidden)
		}
		if err := newName("variant", v.Name, variants); err != nil {
			return fmt.Errorf("%q: %w", s.Name, err)
		}
	}
	if s.Reference == "" {
		s.Reference = s.Variants[0].Name
	} else if !variants[s.Reference] {
		return fmt.Errorf("%q: reference: %q is none of the variants", s.Name, s.Reference)
	}
	return nil
}

// seeds are those of a size.
func (s *studyFile) seeds(z sizeFile) []uint64 {
	if len(z.Seeds) > 0 {
		return z.Seeds
	}
	return s.Seeds
}

func noSeedTwice(seeds []uint64) error {
	seen := map[uint64]bool{}
	for _, s := range seeds {
		if seen[s] {
			return fmt.Errorf("seeds: %d comes twice", s)
		}
		seen[s] = true
	}
	return nil
}

func newName(what, name string, seen map[string]bool) error {
	if !goodName.MatchString(name) {
		return fmt.Errorf("%s name %q: want lower-case letters, digits, '.', '_' and '-'", what, name)
	}
	if seen[name] {
		return fmt.Errorf("%s %q comes twice", what, name)
	}
	seen[name] = true
	return nil
}

// builder turns studies into runs.
type builder struct {
	*Plan
	base     config.Draft
	bySource map[string]*Run
}

func (b *builder) study(f studyFile) error {
	s := Study{Name: f.Name, Question: strings.TrimSpace(f.Question), Reference: f.Reference, Fit: f.Fit}
	for _, v := range f.Variants {
		s.Variants = append(s.Variants, v.Name)
	}
	for _, z := range f.Sizes {
		s.Sizes = append(s.Sizes, z.Name)
		flops := map[string]float64{}
		for _, v := range f.Variants {
			d := b.base
			if err := errors.Join(d.Overlay(z.Model, z.Train), d.Overlay(v.Model, v.Train)); err != nil {
				return specfile.SyntaxError(b.Name, err)
			}
			if v.RankOfHidden > 0 {
				d.SetRank(v.RankOfHidden)
			}
			if v.FLOPsOf != "" {
				if err := equalFLOPs(&d, flops[v.FLOPsOf]); err != nil {
					return b.wrong(f, z, v, err)
				}
			}
			for _, seed := range f.seeds(z) {
				d.SetSeed(seed)
				r, err := b.run(d, f.Name, z.Name, v.Name, seed)
				if err != nil {
					return b.wrong(f, z, v, err)
				}
				flops[v.Name] = r.Config.Course().FLOPs
				s.Points = append(s.Points, Point{z.Name, v.Name, seed, r})
			}
		}
	}
	b.Studies = append(b.Studies, s)
	return nil
}

// wrong says which configuration is invalid.
func (b *builder) wrong(s studyFile, z sizeFile, v variantFile, err error) error {
	return fmt.Errorf("%s: study %q, size %q, variant %q: %w", b.Name, s.Name, z.Name, v.Name, err)
}

// run returns the run of a configuration, which studies share.
func (b *builder) run(d config.Draft, study, size, variant string, seed uint64) (*Run, error) {
	parts := []string{study, variant, fmt.Sprintf("s%d", seed)}
	if size != "" {
		parts = []string{study, size, variant, fmt.Sprintf("s%d", seed)}
	}
	c, err := d.Config(strings.Join(parts, "-"))
	if err != nil {
		return nil, err
	}
	r, ok := b.bySource[string(c.Source)]
	if !ok {
		r = &Run{c.Model.Name, c}
		b.bySource[string(c.Source)] = r
		b.Runs = append(b.Runs, r)
	}
	return r, nil
}

// maxSteps bounds the steps of a run that gets the FLOPs of another.
const maxSteps = 1 << 30

// equalFLOPs sets the steps with which training comes nearest to so many FLOPs.
func equalFLOPs(d *config.Draft, want float64) error {
	d.SetSteps(1)
	c, err := d.Config("")
	if err != nil {
		return err
	}
	at := func(steps int) float64 {
		c.Train.Steps = steps
		return c.Course().FLOPs
	}
	n := 1 + sort.Search(maxSteps, func(i int) bool { return at(i+1) >= want })
	if n > 1 && want-at(n-1) < at(n)-want {
		n--
	}
	d.SetSteps(n)
	return nil
}
