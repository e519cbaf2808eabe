// Package golden runs golden vectors, inputs with the results that a reference
// program computed from them, through the very layers, models and loop that
// train and decode. They lie in a directory with a manifest.json, which lists the
// cases, and one safetensors file a case; README.md has the format, and where
// those come from that the package carries.
package golden

import (
	"archive/zip"
	_ "embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/model/train"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Result is the outcome of one case.
type Result struct {
	Case string `json:"case"`
	Kind string `json:"kind"`
	// Status is passed or failed; Reason says why it failed.
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
	// Worst is the largest |got - expected| / atol over all tensors, and
	// Tensor where it is.
	Worst  float64 `json:"worst"`
	Tensor string  `json:"tensor,omitempty"`
}

func (r Result) String() string {
	line := fmt.Sprintf("worst %.3f at %s", r.Worst, r.Tensor)
	if r.Status != Passed {
		line = r.Reason
	}
	return fmt.Sprintf("%-8s %s: %s", r.Status, r.Case, line)
}

// Report is the outcome of all cases.
type Report struct {
	ISA     kernel.ISA `json:"isa"`
	Passed  int        `json:"passed"`
	Failed  int        `json:"failed"`
	Skipped int        `json:"skipped"` // 0: cases of every kind run
	Cases   []Result   `json:"cases"`
}

// The statuses of a case.
const (
	Passed = "passed"
	Failed = "failed"
)

// Case is one entry of the manifest; which fields it has depends on its kind.
type Case struct {
	Name    string                `json:"name"`
	Kind    string                `json:"kind"`
	File    string                `json:"file"`
	Tensors map[string]tensorSpec `json:"tensors"`

	Layer      string    `json:"layer"`
	In         int       `json:"in"`
	Out        int       `json:"out"`
	Hidden     int       `json:"hidden"`
	FFN        int       `json:"ffn"`
	Act        string    `json:"act"`
	Rank       int       `json:"rank"`
	Blocks     int       `json:"nblocks"` // 0 where rows and columns have different ones
	RowBlocks  int       `json:"b1"`
	ColBlocks  int       `json:"b2"`
	InSplit    int       `json:"m0"`
	OutSplit   int       `json:"n0"`
	ByRule     bool      `json:"default_split"` // the splits are the kind's rule
	Bias       bool      `json:"bias"`
	WeightInit string    `json:"weight_init"`
	DrawStds   []float64 `json:"draw_stds"`
	InitRange  float64   `json:"initializer_range"`

	TMax      []int          `json:"t_max"`
	Schedules []scheduleSpec `json:"schedules"`

	Model     modelSpec    `json:"model"`
	Method    methodSpec   `json:"method"`
	Training  trainingSpec `json:"training"`
	Batch     int          `json:"batch"`
	Optimizer optimSpec    `json:"optimizer"`
	LR        scheduleSpec `json:"lr_schedule"`
	Clip      float64      `json:"grad_clip"`
	Steps     int          `json:"steps"`
	Micro     int          `json:"micro_batch"`
	Accum     int          `json:"accumulation"`
	Seq       int          `json:"seq"`
	Guided    int          `json:"guided_steps"`
	Repeated  int          `json:"repeat_steps"`
}

type tensorSpec struct {
	Shape []int   `json:"shape"`
	DType string  `json:"dtype"`
	Role  string  `json:"role"`
	Atol  float64 `json:"atol"`
}

type scheduleSpec struct {
	Index  int     `json:"index"`
	TMax   int     `json:"T_max"`
	LR     float64 `json:"lr"`
	Warmup int     `json:"warmup_steps"`
	EtaMin float64 `json:"eta_min"`
}

type trainingSpec struct {
	Name   string `json:"name"`
	Kwargs struct {
		Mode      string              `json:"mode"`
		Scheduler train.GuideSchedule `json:"scheduler"`
		Reduce    bool                `json:"reduce_flop"`
		Ratio     float64             `json:"max_step_ratio"`
	} `json:"kwargs"`
}

// guided reports whether a training run is self-guided.
func (t trainingSpec) guided() bool { return t.Name == "self_guided_training" }

type methodSpec struct {
	Name   string `json:"name"`
	Kwargs struct {
		FirstLayer *bool `json:"first_layer"`
		Rank       int   `json:"rank"`
		Blocks     int   `json:"nblocks"`
		Training   struct {
			Enabled bool `json:"enabled"`
		} `json:"training"`
	} `json:"kwargs"`
}

type modelSpec struct {
	Hidden       int    `json:"hidden_dim"`
	AttnDim      int    `json:"attn_dim"`
	FFN          int    `json:"ffn_dim"`
	QHeads       int    `json:"num_q_heads"`
	KVHeads      int    `json:"num_kv_heads"`
	Layers       int    `json:"num_layers"`
	MaxPositions int    `json:"max_position_embeddings"`
	Vocab        int    `json:"vocab_size"`
	Tie          bool   `json:"tie_word_embeddings"`
	Norm         string `json:"ln"`
	Act          string `json:"act"`
	Bias         bool   `json:"bias"`
	ScaleAttn    bool   `json:"scale_attn_by_inverse_layer_idx"`
	Position     struct {
		Name string  `json:"name"`
		Base float64 `json:"rotary_base"`
	} `json:"pos_emb"`
	Init struct {
		Range float64 `json:"initializer_range"`
	} `json:"init"`
}

type optimSpec struct {
	LR    float64    `json:"lr"`
	Betas [2]float64 `json:"betas"`
	Eps   float64    `json:"eps"`
	Decay float64    `json:"weight_decay"`
}

// maxManifest bounds the manifest that is read.
const maxManifest = 16 << 20

//go:embed cases.zip
var archive string

// Cases are the vectors that the program carries.
func Cases() fs.FS {
	r, err := zip.NewReader(strings.NewReader(archive), int64(len(archive)))
	if err != nil {
		panic(fmt.Sprintf("golden: cases.zip: %v", err)) // a test opens it
	}
	return r
}

// List reads the manifest of a directory.
func List(dir fs.FS) ([]Case, error) {
	const name = "manifest.json"
	info, err := fs.Stat(dir, name)
	if err != nil {
		return nil, err
	}
	if info.Size() > maxManifest {
		return nil, fmt.Errorf("%s: %d bytes are too many for a manifest, want at most %d", name, info.Size(), maxManifest)
	}
	src, err := fs.ReadFile(dir, name)
	if err != nil {
		return nil, err
	}
	var m struct {
		Format int    `json:"format"`
		Cases  []Case `json:"cases"`
	}
	if err := json.Unmarshal(src, &m); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	if m.Format != 1 {
		return nil, fmt.Errorf("%s: format %d is unknown, want 1", name, m.Format)
	}
	if len(m.Cases) == 0 {
		return nil, fmt.Errorf("%s: no cases", name)
	}
	return m.Cases, nil
}

// Verify verifies every case of the directory with the layers that opt selects,
// and calls each after each case. A case that cannot be read, or in which the
// program panics, has failed; an error means that the directory itself cannot be
// read.
func Verify(dir fs.FS, opt rt.Options, each func(Result)) (Report, error) {
	out := Report{ISA: opt.ISA}
	cases, err := List(dir)
	if err != nil {
		return out, err
	}
	for i := range cases {
		c := &cases[i]
		r := Result{Case: c.Name, Kind: c.Kind, Status: Passed}
		if err := c.verify(dir, opt, &r); err != nil {
			r.Status, r.Reason = Failed, err.Error()
			out.Failed++
		} else {
			out.Passed++
		}
		out.Cases = append(out.Cases, r)
		each(r)
	}
	return out, nil
}

// kinds run the cases of each kind.
var kinds = map[string]func(*data, rt.Options) error{
	"layer": layerCase, "guided_layer": layerCase, "mlp": mlpCase, "guided_mlp": mlpCase, "init": initCase, "ratio_schedule": ratioCase, "lr_schedule": lrCase,
	"model": modelCase, "trajectory": trajectoryCase,
}

func (c *Case) verify(dir fs.FS, opt rt.Options, r *Result) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic in %s: %v", panicked(), p)
		}
	}()
	run := kinds[c.Kind]
	if run == nil {
		return fmt.Errorf("manifest.json: unknown kind %q", c.Kind)
	}
	if !fs.ValidPath(c.File) {
		return fmt.Errorf("manifest.json: file %q is not inside the directory", c.File)
	}
	f, err := safetensors.OpenFS(dir, c.File)
	if err != nil {
		return err
	}
	defer f.Close()
	d := &data{Case: c, file: f, result: r, done: map[string]bool{}}
	if err := run(d, opt); err != nil {
		return err
	}
	return d.finish()
}

// panicked is the function that has panicked, for the deferred function that
// recovers.
func panicked() string {
	pcs := make([]uintptr, 16)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)]) // from the panic on
	for {
		f, more := frames.Next()
		if !strings.HasPrefix(f.Function, "runtime.") || !more { // of Go
			return fmt.Sprintf("%s (%s:%d)", f.Function, filepath.Base(f.File), f.Line)
		}
	}
}

// data is the state of one case.
type data struct {
	*Case
	file   *safetensors.File
	result *Result
	done   map[string]bool
	err    error // the first tensor that misses
}

// floats reads an input and checks its size against the spec's.
func (d *data) floats(name string, shape ...int) ([]float32, error) {
	n := 1
	for _, s := range shape {
		n *= s
	}
	t, ok := d.file.Lookup(name)
	if ok && t.Size() != n {
		return nil, fmt.Errorf("%s: %s has shape %v, want %v", d.File, name, t.Shape, shape)
	}
	return d.file.Float32s(name)
}

// rows reads an input of any number of rows of the given width.
func (d *data) rows(name string, width int) (x []float32, m int, err error) {
	if x, err = d.file.Float32s(name); err != nil {
		return nil, 0, err
	}
	if len(x) == 0 || len(x)%width != 0 {
		return nil, 0, fmt.Errorf("%s: %s has %d entries, want rows of %d", d.File, name, len(x), width)
	}
	return x, len(x) / width, nil
}

// tokens reads a tensor of ids.
func (d *data) tokens(name string) ([]int32, error) {
	x, err := d.file.Int64s(name)
	if err != nil {
		return nil, err
	}
	ids := make([]int32, len(x))
	for i, v := range x {
		if v != int64(int32(v)) {
			return nil, fmt.Errorf("%s: %s[%d] = %d is no token", d.File, name, i, v)
		}
		ids[i] = int32(v)
	}
	return ids, nil
}

// compare holds what was computed against an expected tensor, at its own
// absolute tolerance.
func compare[T float32 | float64](d *data, name string, got []T) {
	d.done[name] = true
	want, err := d.file.Float32s(name)
	if err != nil {
		d.fail(err)
		return
	}
	if len(want) != len(got) {
		d.fail(fmt.Errorf("%s has %d entries, computed %d", name, len(want), len(got)))
		return
	}
	atol := d.Tensors[name].Atol
	if !(atol > 0) {
		d.fail(fmt.Errorf("%s: the manifest gives no tolerance", name))
		return
	}
	for i, w := range want {
		miss := math.Abs(float64(got[i]) - float64(w))
		if ratio := miss / atol; ratio > d.result.Worst || ratio != ratio {
			d.result.Worst, d.result.Tensor = ratio, name
		}
		if !(miss <= atol) {
			d.fail(fmt.Errorf("%s[%d] = %v, want %v within %v", name, i, got[i], w, atol))
		}
	}
}

// same holds whole numbers against an expected tensor.
func same(d *data, name string, got []int64) {
	d.done[name] = true
	want, err := d.file.Int64s(name)
	if err == nil && !slices.Equal(want, got) {
		err = fmt.Errorf("%s = %v, want %v", name, got, want)
	}
	if err != nil {
		d.fail(err)
	}
}

func (d *data) fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

// finish reports the first miss, or an expected tensor that nobody computed.
func (d *data) finish() error {
	if d.err != nil {
		return d.err
	}
	var left []string
	for name, t := range d.Tensors {
		if t.Role == "expected" && !d.done[name] {
			left = append(left, name)
		}
	}
	if len(left) > 0 {
		slices.Sort(left)
		return fmt.Errorf("nothing computed for %s", strings.Join(left, ", "))
	}
	if len(d.done) == 0 {
		return fmt.Errorf("manifest.json: the case expects nothing")
	}
	return nil
}

// kind translates the manifest's name of a structure.
func kind(name string) spec.Kind {
	if name == "linear" {
		return spec.Dense
	}
	return spec.Kind(name)
}
