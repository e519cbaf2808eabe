// Package specfile reads the YAML files that describe a model and its
// training, and carries the presets: the paper's configurations and the demo.
package specfile

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"

	"github.com/structuredffn/sffn/gen/spec"
)

// Config is what a file says: the model, and how to train it.
type Config struct {
	Model spec.Model
	Train Train
	// Source is the file's text, as it was read.
	Source []byte
}

// Train are the settings of a training run.
//
// The comments on the fields of this and the other sections make docs/config.md.
// Above a field stands what the key does, and behind it
//
//	range
//	unit; range
//	unit; range; default, where it depends on other keys
//	default, of a section
//
// where ^ is the power.
type Train struct {
	// Steps is the number of updates of the weights.
	Steps int `yaml:"steps"` // steps; 1 to 2^40
	// Batch is the number of sequences in a micro-batch, which is what memory has
	// to hold. All sequences of a step are at most 2^40 tokens.
	Batch int `yaml:"batch"` // sequences; 1 to 2^40
	// Accumulate is the number of micro-batches whose gradients make a step.
	Accumulate int `yaml:"accumulate"` // micro-batches; 1 to 2^40
	// Seq is the length of a sequence.
	Seq int `yaml:"seq"` // tokens; 1 to MaxPositions; 256 or MaxPositions, the smaller
	// LR is the peak of the learning rate, which rises to it along a line and
	// falls along half a cosine.
	LR float64 `yaml:"lr"` // above 0, at most 1000
	// MinLR is what is left of the peak at the end.
	MinLR float64 `yaml:"min_lr"` // share of LR; 0 to 1
	// Warmup is how long the learning rate rises.
	Warmup float64 `yaml:"warmup"` // share of Steps; 0 to 1

	// WeightDecay is AdamW's decoupled decay, of every parameter.
	WeightDecay float64 `yaml:"weight_decay"` // per step and LR; 0 to 1000
	// Beta1 is the decay of AdamW's first moment.
	Beta1 float64 `yaml:"beta1"` // per step; 0 to 0.999999
	// Beta2 is the decay of AdamW's second moment.
	Beta2 float64 `yaml:"beta2"` // per step; 0 to 0.9999999
	// Eps is added to the root of AdamW's second moment.
	Eps float64 `yaml:"eps"` // 2^-149 to 1
	// Clip is the largest global norm of the gradients; larger ones are scaled
	// down to it.
	Clip float64 `yaml:"clip"` // L2 norm; 1e-12 to 1e12
	// Seed decides the initial weights, the order of the data and the guides' draws.
	Seed uint64 `yaml:"seed"` // 0 to 2^64-1
	// EvalEvery is how often the validation loss is measured; it always is at the
	// end, and 0 means only there.
	EvalEvery int `yaml:"eval_every"` // steps; 0 to 2^40
	// EvalTokens is how much of the validation split that takes, at least one
	// sequence.
	EvalTokens int `yaml:"eval_tokens"` // tokens; 0 to 2^40
	// NormEvery is how often the norms of gradients and weights are logged by kind
	// of layer; 0 is never.
	NormEvery int `yaml:"norm_every"` // steps; 0 to 2^40
	// SpikeThreshold is how far above the losses before it a loss counts as a
	// spike; 0 is never.
	SpikeThreshold float64 `yaml:"spike_threshold"` // standard deviations; 0 to 1e9
	// SpikePatience is how long a spike may last before the run halts; with 0 it
	// never does.
	SpikePatience int `yaml:"spike_patience"` // steps; 0 to 2^40
	// Recompute keeps only the layers' inputs for the backward pass, which
	// computes the rest again: less memory, more time, the same bits.
	Recompute bool `yaml:"recompute,omitempty"`
	// Guide turns on self-guided training: the keys that follow.
	Guide Guide `yaml:"guide,omitempty"` // no guides
}

// Guide are the settings of self-guided training (paper, section 5). The zero
// value is training without guides.
type Guide struct {
	// MaxStepRatio is the guided part of training.
	MaxStepRatio float64 `yaml:"max_step_ratio"` // share of Steps; above 0, at most 1
	// Schedule is the course of the guide's ratio from 1 to 0.
	Schedule string `yaml:"schedule"` // cosine, linear
	// Mode says whether as many steps as were guided follow after Steps, on the
	// data of the first ones (fixedflop), or none (fixedstep).
	Mode string `yaml:"mode"` // fixedstep, fixedflop
	// ReduceFLOP leaves guides out at random, the more the smaller their ratio.
	ReduceFLOP bool `yaml:"reduce_flop"`
	// Start is the guide's first value: the matrix that the factors amount to
	// (merged), or the product that the paper's code takes, which for blockshuffle
	// leaves out the shuffles (published).
	Start string `yaml:"start"` // merged, published
}

// UnmarshalYAML fills in what a guide section leaves out.
func (g *Guide) UnmarshalYAML(unmarshal func(any) error) error {
	type plain Guide
	p := plain{MaxStepRatio: 0.5, Schedule: "cosine", Mode: "fixedstep", Start: "merged"}
	if err := unmarshal(&p); err != nil {
		return err
	}
	*g = Guide(p)
	return nil
}

// On reports whether anything is guided.
func (g Guide) On() bool { return g != Guide{} }

// Course is what training comes to: its steps, of which some are guided, and
// its FLOPs.
func (c *Config) Course() spec.Course {
	t := c.Train
	b := spec.Budget{Steps: t.Steps, Batch: t.Batch * t.Accumulate, Seq: t.Seq}
	if g := t.Guide; g.On() {
		b.Guide = &spec.Guide{MaxStepRatio: g.MaxStepRatio, FixedFLOP: g.Mode == "fixedflop", Reduce: g.ReduceFLOP}
	}
	return c.Model.Course(b)
}

// SameRun reports whether two configurations train the same model through the
// same states, bit for bit.
func (c *Config) SameRun(d *Config) bool {
	t := d.Train
	t.Recompute = c.Train.Recompute
	return c.Model == d.Model && c.Train == t
}

// file mirrors the YAML schema. Pointers tell what is left out from zero.
type file struct {
	Model *modelFile `yaml:"model"`
	Train *Train     `yaml:"train"`
}

// modelFile is the section model. Together, its keys may come to some 2^40
// parameters.
type modelFile struct {
	// Vocab is the number of token ids; 257 for bytes.
	Vocab int `yaml:"vocab"` // ids; 1 to 2^20
	// Hidden is the width of the residual stream.
	Hidden int `yaml:"hidden"` // entries; 1 to 2^20
	// FFN is the inner width of each feed-forward network.
	FFN int `yaml:"ffn"` // entries; 1 to 2^20
	// Layers is the number of layers.
	Layers int `yaml:"layers"` // layers; 1 to 4096
	// AttnDim is the width of all query heads together.
	AttnDim *int `yaml:"attn_dim,omitempty"` // entries; 1 to 2^20, a multiple of QHeads; Hidden
	// QHeads is the number of query heads. With rope, the width of one is even.
	QHeads int `yaml:"q_heads"` // heads; 1 to 2^20, a divisor of AttnDim
	// KVHeads is the number of key and value heads; fewer than query heads is
	// grouped-query attention.
	KVHeads *int `yaml:"kv_heads,omitempty"` // heads; 1 to 2^20, a divisor of QHeads; QHeads
	// MaxPositions is the longest sequence that the model accepts.
	MaxPositions int `yaml:"max_positions"` // tokens; 1 to 2^20
	// MLP is the structure of the feed-forward networks: the keys that follow.
	MLP mlpFile `yaml:"mlp"` // dense
	// Act is the activation between the two linears. With swiglu the first has a
	// gate as wide as its output.
	Act spec.Act `yaml:"act"` // gelu, swiglu
	// Bias gives biases to the linears of attention and of the feed-forward
	// networks.
	Bias bool `yaml:"bias"`
	// Norm is the normalisation before attention, before the feed-forward network
	// and before the head.
	Norm spec.Norm `yaml:"norm"` // layernorm, rmsnorm
	// Position is how the model knows positions: by rotated queries and keys, or
	// by a learned table.
	Position spec.Position `yaml:"position"` // rope, absolute
	// RotaryBase is the base of the angles of rope.
	RotaryBase float64 `yaml:"rotary_base"` // above 0
	// ScaleAttn divides attention's scores by the layer's number, counted from 1.
	ScaleAttn bool `yaml:"scale_attn_by_layer"`
	// Tie makes the head's weight that of the token embedding.
	Tie bool `yaml:"tie_embeddings"`
	// InitStd is the standard deviation of the initial weights.
	InitStd float64 `yaml:"init_std"` // above 0
	// InitFanIn draws the weights of linears with one over the root of their
	// inputs instead.
	InitFanIn bool `yaml:"init_fan_in"`
}

// mlpFile is the section mlp of a model.
type mlpFile struct {
	// Kind is the chain of factors that stands for each matrix.
	Kind spec.Kind `yaml:"kind"` // dense, lowrank, blockdense, blockshuffle
	// Rank is the inner width of lowrank and blockdense.
	Rank int `yaml:"rank"` // entries; lowrank: 1 to Hidden or FFN, the smaller, blockdense: multiples of Blocks to 2^20; none
	// Blocks is the number of blocks of blockdense and blockshuffle.
	Blocks int `yaml:"blocks"` // blocks; divisors of Hidden and FFN, for blockdense also of Rank; none
	// FirstDense keeps the first layer's network dense.
	FirstDense bool `yaml:"first_layer_dense"`
}

// unset is the length of sequences where none is given: its default depends on
// the model.
const unset = math.MinInt

// defaults are the settings of the paper's runs.
func defaults() file {
	return file{
		Model: &modelFile{MaxPositions: 1024, MLP: mlpFile{Kind: spec.Dense, FirstDense: true}, Act: spec.GELU, Bias: true,
			Norm: spec.LayerNorm, Position: spec.RoPE, RotaryBase: 10000, Tie: true, InitStd: 0.02},
		Train: &Train{Steps: 1000, Batch: 1, Accumulate: 1, Seq: unset, LR: 6e-4, MinLR: 0.1, Warmup: 0.1,
			WeightDecay: 0.1, Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, Clip: 1, Seed: 1, EvalTokens: 1 << 16,
			NormEvery: 10, SpikeThreshold: 8, SpikePatience: 100},
	}
}

//go:embed presets/*.yaml
var presets embed.FS

// Presets lists the names of the built-in configurations, sorted.
func Presets() []string {
	entries, err := presets.ReadDir("presets")
	if err != nil {
		panic(err) // embedded
	}
	var names []string
	for _, e := range entries {
		names = append(names, strings.TrimSuffix(e.Name(), ".yaml"))
	}
	slices.Sort(names) // without what follows the names
	return names
}

// shares are those of the dense network's weights that the paper's structured
// ones have, in per cent, as presets are called.
var shares = []string{"63", "32"}

// Shapes lists the presets of the paper's table of one size, gpt2s, gpt2m, gpt2l
// or gpt2xl: dense, and each structure at each share.
func Shapes(size string) (names []string) {
	known := Presets()
	add := func(name string) {
		if slices.Contains(known, name) {
			names = append(names, name)
		}
	}
	for _, k := range spec.Kinds() {
		add(size + "-" + string(k))
		for _, s := range shares {
			add(size + "-" + string(k) + "-" + s)
		}
	}
	return names
}

// alike asks for the presets whose names are nearest and at most a quarter off,
// up to three.
func alike(name string) string {
	names := Presets()
	far := map[string]int{}
	for _, p := range names {
		far[p] = distance(name, p)
	}
	slices.SortStableFunc(names, func(a, b string) int { return far[a] - far[b] })
	least := far[names[0]]
	names = slices.DeleteFunc(names[:3], func(p string) bool { return far[p] > least || 4*least > len(p) })
	if len(names) == 0 || len(name) > maxName {
		return ""
	}
	return "; did you mean " + strings.Join(names, " or ") + "?"
}

// maxName bounds what is compared with the presets.
const maxName = 100

// distance is how many letters to insert, remove or replace make b of a.
func distance(a, b string) int {
	a = a[:min(len(a), maxName)]
	row := make([]int, len(b)+1) // of the distances of a's first i letters
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		corner := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := corner
			if a[i] != b[j] {
				d = 1 + min(corner, row[j], row[j+1])
			}
			corner, row[j+1] = row[j+1], d
		}
	}
	return row[len(b)]
}

// Load reads a file, or the preset of that name.
func Load(name string) (*Config, error) {
	if src, err := presets.ReadFile("presets/" + name + ".yaml"); err == nil {
		return Parse(name, src)
	}
	src, err := ReadText(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: no such file, nor a preset%s; sffn info --presets lists them", name, alike(name))
	} else if err != nil {
		return nil, err
	}
	return Parse(name, src)
}

// Parse reads the text of a file; name is for messages and the model's name.
// Unknown fields, duplicate keys, values of the wrong kind (see [CheckValues])
// and values out of range are errors with line and column.
func Parse(name string, src []byte) (*Config, error) {
	text, err := Check(name, src)
	if err != nil {
		return nil, err
	}
	if err := CheckValues(name, text, file{}); err != nil {
		return nil, err
	}
	return ParseSaved(name, text)
}

// ParseSaved reads what Parse has read before, an earlier version's too: what that
// took is taken as it was.
func ParseSaved(name string, src []byte) (*Config, error) {
	src, err := Check(name, src)
	if err != nil {
		return nil, err
	}
	f := defaults()
	dec := yaml.NewDecoder(bytes.NewReader(src), yaml.Strict())
	if err := dec.Decode(&f); err != nil {
		return nil, syntaxError(name, err)
	}
	if f.Model == nil || f.Train == nil { // what is saved may have none
		return nil, fmt.Errorf("%s: the section model: or train: is empty", name)
	}
	c, err := f.config(strings.TrimSuffix(filepath.Base(name), filepath.Ext(name)), src)
	if err != nil {
		return nil, locate(name, src, err)
	}
	return c, nil
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
	c := &Config{Model: f.Model.spec(), Train: *f.Train, Source: src}
	c.Model.Guided = c.Train.Guide.On()
	c.Model.Name = name
	return c, errors.Join(c.Model.Validate(), c.Train.validate(c.Model))
}

// syntaxError also explains an empty file.
func syntaxError(name string, err error) error {
	if errors.Is(err, io.EOF) {
		return fmt.Errorf("%s: the file is empty, want a section model: and, to train, a section train: in it", name)
	}
	return SyntaxError(name, err)
}

// SyntaxError puts the file's name before the line and column of an error of the
// YAML library.
func SyntaxError(name string, err error) error {
	msg := strings.TrimSpace(yaml.FormatError(err, false, true))
	if len(msg) > 2000 {
		msg = msg[:2000] + " ..." // the source's lines are in it
	}
	if rest, ok := strings.CutPrefix(msg, "["); ok {
		return errors.New(name + ":" + strings.Replace(rest, "]", ":", 1))
	}
	return fmt.Errorf("%s: %s", name, msg)
}

func (m *modelFile) spec() spec.Model {
	or := func(p *int, d int) int {
		if p != nil {
			return *p
		}
		return d
	}
	return spec.Model{
		Vocab: m.Vocab, Hidden: m.Hidden, FFN: m.FFN, Layers: m.Layers,
		AttnDim: or(m.AttnDim, m.Hidden), QHeads: m.QHeads, KVHeads: or(m.KVHeads, m.QHeads), MaxPositions: m.MaxPositions,
		Kind: m.MLP.Kind, Rank: m.MLP.Rank, Blocks: m.MLP.Blocks, FirstLayerDense: m.MLP.FirstDense,
		Act: m.Act, Bias: m.Bias, Norm: m.Norm, Position: m.Position, RotaryBase: m.RotaryBase,
		ScaleAttnByLayer: m.ScaleAttn, TieEmbeddings: m.Tie, InitStd: m.InitStd, InitFanIn: m.InitFanIn,
	}
}

// maxStep bounds the tokens of a step, so that no count of them overflows.
const maxStep = 1 << 40

func (t Train) validate(m spec.Model) error {
	var errs []error
	fail := func(field, format string, args ...any) {
		errs = append(errs, &spec.FieldError{Field: field, Msg: fmt.Sprintf(format, args...)})
	}
	count := func(field string, v, lo int) {
		if v < lo || v > 1<<40 {
			fail(field, "%d is out of range, want %d or more", v, lo)
		}
	}
	count("steps", t.Steps, 1)
	count("batch", t.Batch, 1)
	count("accumulate", t.Accumulate, 1)
	count("seq", t.Seq, 1)
	if n := float64(t.Batch) * float64(t.Accumulate) * float64(t.Seq); n > maxStep {
		fail("batch", "%d sequences of %d tokens, %d times a step, are %.3g tokens, want at most %d", t.Batch, t.Seq, t.Accumulate, n, int64(maxStep))
	}
	count("eval_every", t.EvalEvery, 0)
	count("eval_tokens", t.EvalTokens, 0)
	count("norm_every", t.NormEvery, 0)
	count("spike_patience", t.SpikePatience, 0)
	if t.Seq > m.MaxPositions {
		fail("seq", "%d is more than the model's max_positions %d", t.Seq, m.MaxPositions)
	}
	within := func(field string, v, lo, hi float64) {
		if !(v >= lo && v <= hi) {
			fail(field, "%v is out of range, want %v to %v", v, lo, hi)
		}
	}
	within("lr", t.LR, math.SmallestNonzeroFloat64, 1e3)
	within("min_lr", t.MinLR, 0, 1)
	within("warmup", t.Warmup, 0, 1)
	within("weight_decay", t.WeightDecay, 0, 1e3)
	within("beta1", t.Beta1, 0, 0.999999)
	within("beta2", t.Beta2, 0, 0.9999999)
	within("eps", t.Eps, math.SmallestNonzeroFloat32, 1)
	within("clip", t.Clip, 1e-12, 1e12)
	within("spike_threshold", t.SpikeThreshold, 0, 1e9)
	if t.Guide.On() {
		errs = append(errs, t.Guide.validate(m))
	}
	return errors.Join(errs...)
}

func (g Guide) validate(m spec.Model) error {
	var errs []error
	if !(g.MaxStepRatio > 0 && g.MaxStepRatio <= 1) {
		errs = append(errs, &spec.FieldError{Field: "guide.max_step_ratio", Msg: fmt.Sprintf("%v is out of range, want more than 0, at most 1", g.MaxStepRatio)})
	}
	for _, f := range []struct {
		name, got string
		valid     [2]string
	}{{"schedule", g.Schedule, [2]string{"cosine", "linear"}}, {"mode", g.Mode, [2]string{"fixedstep", "fixedflop"}}, {"start", g.Start, [2]string{"merged", "published"}}} {
		if f.got != f.valid[0] && f.got != f.valid[1] {
			errs = append(errs, &spec.FieldError{Field: "guide." + f.name, Msg: fmt.Sprintf("unknown %s %q; valid are %s, %s", f.name, f.got, f.valid[0], f.valid[1])})
		}
	}
	if m.Kind == spec.Dense || m.FirstLayerDense && m.Layers == 1 {
		errs = append(errs, &spec.FieldError{Field: "guide", Msg: "no layer of the model is structured, so that there is nothing to guide; leave it out"})
	}
	return errors.Join(errs...)
}

// locate puts file, line and column before each field error: those of the
// field, or of its section where the field is left out.
func locate(name string, src []byte, err error) error {
	doc, perr := parser.ParseBytes(src, 0)
	var out []error
	for _, e := range flatten(err) {
		fe := (*spec.FieldError)(nil)
		if perr != nil || !errors.As(e, &fe) {
			out = append(out, fmt.Errorf("%s: %w", name, e))
			continue
		}
		line, column := position(doc, fe.Field)
		out = append(out, fmt.Errorf("%s:%d:%d: %w", name, line, column, e))
	}
	return errors.Join(out...)
}

func flatten(err error) []error {
	if j, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range j.Unwrap() {
			out = append(out, flatten(e)...)
		}
		return out
	}
	return []error{err}
}

func position(doc *ast.File, field string) (line, column int) {
	for _, path := range []string{"$.model.mlp." + field, "$.model." + field, "$.train." + field, "$.model.mlp", "$.model"} {
		p, err := yaml.PathString(path)
		if err != nil {
			continue // a field that is no key, such as fc1's output
		}
		if n, err := p.FilterFile(doc); err == nil && n != nil {
			pos := n.GetToken().Position
			return pos.Line, pos.Column
		}
	}
	return 1, 1
}
