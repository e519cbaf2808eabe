package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/structuredffn/sffn/model/safetensors"
)

// Comparison counts what two results were compared in, and says where they differ.
type Comparison struct {
	Tensors, Steps, Tokens int
	Bytes                  int64
	// Differences has the first one of each kind of data: curve, checkpoints'
	// states and tensors, logits, tokens.
	Differences []string
}

func (c *Comparison) differs(format string, args ...any) {
	c.Differences = append(c.Differences, fmt.Sprintf(format, args...))
}

// compare compares the folders of two results, see [program.results]. It is an error
// when one lacks what every tool writes.
func compare(base, head string) (*Comparison, error) {
	c := &Comparison{}
	if err := c.curve(base, head); err != nil {
		return nil, err
	}
	if err := c.checkpoints(base, head); err != nil {
		return nil, err
	}
	for _, name := range logitsFiles {
		if err := c.tensors(filepath.Join(base, name), filepath.Join(head, name)); err != nil {
			return nil, err
		}
	}
	for _, d := range decodings {
		if err := c.tokens(d.file, base, head); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// stored is a tensor of one of a run's files.
type stored struct {
	safetensors.Tensor
	file *safetensors.File
}

// readTensors opens the safetensors files at a path, a file or a folder, and lists
// their tensors by name: which file holds a tensor may change.
func readTensors(path string) (list []stored, byName map[string]stored, err error) {
	byName = map[string]stored{}
	err = filepath.WalkDir(path, func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(name, ".safetensors") {
			return err
		}
		f, err := safetensors.Open(name)
		if err != nil {
			return err
		}
		if len(f.Tensors()) == 0 {
			return fmt.Errorf("%s has no tensors", name)
		}
		for _, t := range f.Tensors() {
			if _, twice := byName[t.Name]; twice {
				return fmt.Errorf("%s: another file of %s has a tensor %s, too", name, path, t.Name)
			}
			s := stored{t, f}
			list, byName[t.Name] = append(list, s), s
		}
		return nil
	})
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("%s has no safetensors file", path)
	}
	return list, byName, err
}

func closeAll(list []stored) {
	for i, s := range list {
		if i == 0 || s.file != list[i-1].file {
			s.file.Close()
		}
	}
}

// tensors compares the tensors below two paths bit for bit.
func (c *Comparison) tensors(base, head string) error {
	want, wanted, err := readTensors(base)
	if err != nil {
		return err
	}
	got, found, err := readTensors(head)
	if err != nil {
		return err
	}
	defer closeAll(want)
	defer closeAll(got)
	first, others := "", 0
	differs := func(format string, args ...any) {
		if first == "" {
			first = fmt.Sprintf(format, args...)
		} else {
			others++
		}
	}
	for _, w := range want {
		g, ok := found[w.Name]
		if !ok {
			differs("%s is missing", w.Name)
			continue
		}
		if w.DType != g.DType || !slices.Equal(w.Shape, g.Shape) {
			differs("%s is %s %v, was %s %v", w.Name, g.DType, g.Shape, w.DType, w.Shape)
			continue
		}
		x, err := w.file.Float32s(w.Name)
		if err != nil {
			return err
		}
		y, err := g.file.Float32s(w.Name)
		if err != nil {
			return err
		}
		c.Tensors++
		c.Bytes += 4 * int64(len(x))
		at, n := -1, 0
		for i := range x {
			if math.Float32bits(x[i]) != math.Float32bits(y[i]) {
				if n++; at < 0 {
					at = i
				}
			}
		}
		if n > 0 {
			differs("%s%v is %g (%08x), was %g (%08x); %d of its %d entries differ", w.Name, place(at, w.Shape),
				y[at], math.Float32bits(y[at]), x[at], math.Float32bits(x[at]), n, len(x))
		}
	}
	for _, g := range got {
		if _, ok := wanted[g.Name]; !ok {
			differs("%s is new", g.Name)
		}
	}
	if first != "" {
		if others > 0 {
			first += fmt.Sprintf("; and %d other tensors", others)
		}
		c.differs("%s: %s", filepath.Base(base), first)
	}
	return nil
}

// place is the index of entry i of a row-major tensor.
func place(i int, shape []int) []int {
	index := make([]int, len(shape))
	for d := len(shape) - 1; d >= 0; d-- {
		index[d], i = i%shape[d], i/shape[d]
	}
	return index
}

// incidental are the fields of metrics and state that depend on the clock, on how
// something is stored, or on who wrote it.
var incidental = []string{"tokens_per_second", "format", "data"}

// object reads a JSON object. Numbers stay as written: Go writes the shortest
// decimal that gives the same float64.
func object(text []byte) (map[string]any, error) {
	var o map[string]any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	return o, d.Decode(&o)
}

// unequal names the first field, in alphabetic order, in which two JSON values
// differ. Fields that only one has are left out: a tool may log more than another.
func unequal(name string, base, head any) string {
	x, isObject := base.(map[string]any)
	y, both := head.(map[string]any)
	if isObject && both {
		for _, key := range slices.Sorted(maps.Keys(x)) {
			if v, ok := y[key]; ok && !slices.Contains(incidental, key) {
				if d := unequal(strings.TrimPrefix(name+"."+key, "."), x[key], v); d != "" {
					return d
				}
			}
		}
		return ""
	}
	v, err := json.Marshal(base)
	w, err2 := json.Marshal(head)
	if err == nil && err2 == nil && bytes.Equal(v, w) {
		return ""
	}
	return fmt.Sprintf("%s is %s, was %s", name, w, v)
}

// curve compares the metrics step by step.
func (c *Comparison) curve(base, head string) error {
	want, err := readCurve(base)
	if err != nil {
		return err
	}
	got, err := readCurve(head)
	if err != nil {
		return err
	}
	if len(want) != len(got) {
		c.differs("metrics: %d steps, were %d", len(got), len(want))
	}
	c.Steps = min(len(want), len(got))
	for i := range c.Steps {
		if d := unequal("", want[i], got[i]); d != "" {
			c.differs("metrics: step %d: %s", i+1, d)
			break
		}
	}
	return nil
}

func readCurve(dir string) (steps []map[string]any, err error) {
	name := filepath.Join(dir, runFolder, "metrics.jsonl")
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	for line := range bytes.Lines(text) {
		o, err := object(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, len(steps)+1, err)
		}
		for _, field := range []string{"step", "loss", "grad_norm", "lr"} {
			if _, ok := o[field]; !ok {
				return nil, fmt.Errorf("%s:%d: no %s", name, len(steps)+1, field)
			}
		}
		steps = append(steps, o)
	}
	if len(steps) == 0 {
		return nil, fmt.Errorf("%s has no steps", name)
	}
	return steps, nil
}

// checkpoints compares the runs' checkpoints, up to the first that differs: the
// rest follows from it.
func (c *Comparison) checkpoints(base, head string) error {
	var names [2][]string
	for i, dir := range []string{base, head} {
		folders, err := filepath.Glob(filepath.Join(dir, runFolder, "step-*"))
		if err != nil {
			return err
		}
		for _, f := range folders {
			names[i] = append(names[i], filepath.Base(f))
		}
		if len(names[i]) == 0 {
			return fmt.Errorf("%s has no checkpoints", dir)
		}
	}
	if !slices.Equal(names[0], names[1]) {
		c.differs("checkpoints are %v, were %v", names[1], names[0])
		return nil
	}
	for _, name := range names[0] {
		before := len(c.Differences)
		x, y := filepath.Join(base, runFolder, name), filepath.Join(head, runFolder, name)
		if err := c.state(x, y); err != nil {
			return err
		}
		if err := c.tensors(x, y); err != nil {
			return err
		}
		if len(c.Differences) > before {
			break
		}
	}
	return nil
}

// state compares the states of two checkpoints.
func (c *Comparison) state(base, head string) error {
	var states [2]map[string]any
	for i, dir := range []string{base, head} {
		name := filepath.Join(dir, "state.json")
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		if states[i], err = object(text); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	if d := unequal("", states[0], states[1]); d != "" {
		c.differs("%s: state: %s", filepath.Base(base), d)
	}
	return nil
}

// tokens compares what was generated.
func (c *Comparison) tokens(file, base, head string) error {
	var texts [2][][]int
	for i, dir := range []string{base, head} {
		name := filepath.Join(dir, file)
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		var out struct{ Results []struct{ IDs []int } }
		if err := json.Unmarshal(text, &out); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		n := 0
		for _, r := range out.Results {
			texts[i] = append(texts[i], r.IDs)
			n += len(r.IDs)
		}
		if n == 0 {
			return fmt.Errorf("%s has no tokens", name)
		}
	}
	if len(texts[0]) != len(texts[1]) {
		c.differs("%s: %d texts, were %d", file, len(texts[1]), len(texts[0]))
		return nil
	}
	first := ""
	for i, want := range texts[0] {
		got := texts[1][i]
		n := min(len(want), len(got))
		c.Tokens += n
		if first != "" || slices.Equal(want, got) {
			continue
		}
		j := 0
		for j < n && want[j] == got[j] {
			j++
		}
		first = fmt.Sprintf("%s: text %d has %d tokens, had %d", file, i, len(got), len(want))
		if j < n {
			first = fmt.Sprintf("%s: token %d of text %d is %d, was %d", file, j, i, got[j], want[j])
		}
		c.differs("%s", first)
	}
	return nil
}
