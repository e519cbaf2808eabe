package main

import (
	"bytes"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/cmd/sffn/tool"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// beSffn is the environment variable that makes the tests' program sffn.
const beSffn = "SAME_TEST_SFFN"

func TestMain(m *testing.M) {
	if os.Getenv(beSffn) != "" {
		tool.Main()
		return
	}
	os.Exit(m.Run())
}

// TestDifferences: two runs are the same, and whatever is changed in one is named.
func TestDifferences(t *testing.T) {
	t.Setenv(beSffn, "1")
	dir := t.TempDir()
	files, err := writeConfigs(filepath.Join(dir, "configs"))
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text := filepath.Join(dir, "text.txt")
	if err := writeText(text); err != nil {
		t.Fatal(err)
	}
	sffn := program{self, filepath.Join(dir, "data")}
	if err := sffn.prepare(t.Context(), text); err != nil {
		t.Fatal(err)
	}
	var file string
	for _, f := range files {
		if filepath.Base(f) == "lowrank-guided.yaml" {
			file = f
		}
	}
	isas, err := sffn.isas(t.Context(), file)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(isas, kernel.Available()) {
		t.Errorf("instruction sets %v, want %v", isas, kernel.Available())
	}
	base, head := filepath.Join(dir, "base"), filepath.Join(dir, "head")
	for _, result := range []string{base, head} {
		if err := sffn.results(t.Context(), job{config: file, steps: 2, isa: isas[0]}, result); err != nil {
			t.Fatal(err)
		}
	}
	c, err := compare(base, head)
	if err != nil {
		t.Fatal(err)
	}
	conf, err := config.Load(file)
	if err != nil {
		t.Fatal(err)
	}
	params, guides := conf.Model.Params(), conf.Model.Guides()
	// Parameters, guides, two moments of each, after two steps, the last without
	// guides, and the logits of two passes.
	tensors, entries := 6*len(params)+3*len(guides)+2, 2*99*conf.Model.Vocab
	for _, p := range params {
		entries += 6 * p.Size()
	}
	for _, p := range guides {
		entries += 3 * p.Size()
	}
	if len(guides) == 0 || c.Tensors != tensors || c.Bytes != 4*int64(entries) || c.Steps != 2 || c.Tokens == 0 || len(c.Differences) > 0 {
		t.Fatalf("two equal runs: %+v; want %d tensors of %d bytes, 2 steps, some tokens and no difference", c, tensors, 4*entries)
	}

	checkpoint := func(step int, file string) string {
		return filepath.Join(head, runFolder, fmt.Sprintf("step-%08d", step), file)
	}
	for _, change := range []struct {
		what, file string
		edit       func(t *testing.T, name string)
		want       []string // in the difference
	}{
		{"a bit of a parameter", checkpoint(2, "model.safetensors"), flip("model.layers.1.mlp.fc1.lr2", 1*20+3),
			[]string{"step-00000002: model.layers.1.mlp.fc1.lr2[1 3] is ", "; 1 of its 3520 entries differ"}},
		{"a bit of a moment", checkpoint(2, "optimizer.safetensors"), flip("v.model.ln_f.bias", 63),
			[]string{"v.model.ln_f.bias[63] is "}},
		{"a bit of a guide", checkpoint(1, "guides.safetensors"), flip("model.layers.1.mlp.fc2.guide_linear", 0),
			[]string{"model.layers.1.mlp.fc2.guide_linear[0 0] is "}},
		{"a loss", filepath.Join(head, runFolder, "metrics.jsonl"), replace(`{"step":2,"loss":`, `{"step":2,"loss":1`),
			[]string{"metrics: step 2: loss is 1"}},
		{"metrics that are no JSON", filepath.Join(head, runFolder, "metrics.jsonl"), replace(`{"step":2,`, ``),
			nil},
		{"how often a guide ran", checkpoint(1, "state.json"), replace(`"count": 1`, `"count": 3`),
			[]string{"step-00000001: state: guide.count is 3, was 1"}},
		{"a token", filepath.Join(head, "merged-sampled.json"), replace("\"ids\": [\n        ", "\"ids\": [\n        9"),
			[]string{"merged-sampled.json: token 0 of text 0 is 9"}},
		{"a logit", filepath.Join(head, "cached.safetensors"), flip("logits", 98*257+5),
			[]string{"cached.safetensors: logits[98 5] is "}},
		{"no moments", checkpoint(2, "optimizer.safetensors"), func(t *testing.T, name string) {
			if err := os.Remove(name); err != nil {
				t.Fatal(err)
			}
		}, []string{fmt.Sprintf("m.model.wte.weight is missing; and %d other tensors", 2*len(params)-1)}},
		{"wall-clock time", checkpoint(2, "state.json"), replace(`"tokens_per_second": `, `"tokens_per_second": 1`),
			[]string{}},
		{"a field that the other lacks", checkpoint(2, "state.json"), replace(`"step": 2`, `"step": 2, "more": 1`),
			[]string{}},
	} {
		t.Run(change.what, func(t *testing.T) {
			whole, err := os.ReadFile(change.file)
			if err != nil {
				t.Fatal(err)
			}
			defer os.WriteFile(change.file, whole, 0o666)
			change.edit(t, change.file)
			c, err := compare(base, head)
			switch {
			case change.want == nil:
				if err == nil {
					t.Errorf("%+v, want an error", c)
				}
				return
			case err != nil:
				t.Fatal(err)
			case len(change.want) == 0:
				if len(c.Differences) > 0 {
					t.Errorf("%q, want no difference", c.Differences)
				}
				return
			case len(c.Differences) != 1:
				t.Fatalf("%q, want one difference", c.Differences)
			}
			for _, part := range change.want {
				if !strings.Contains(c.Differences[0], part) {
					t.Errorf("%q does not say %q", c.Differences[0], part)
				}
			}
		})
	}
}

// flip changes the lowest bit of an entry of a tensor.
func flip(tensor string, entry int) func(*testing.T, string) {
	return func(t *testing.T, name string) {
		f, err := safetensors.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var values []safetensors.Value
		for _, s := range f.Tensors() {
			x, err := f.Float32s(s.Name)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, safetensors.Value{Name: s.Name, Shape: s.Shape, Data: x})
		}
		var before, after bytes.Buffer
		if err := safetensors.Write(&before, values, f.Metadata()); err != nil {
			t.Fatal(err)
		}
		for _, v := range values {
			if v.Name == tensor {
				v.Data[entry] = math.Float32frombits(math.Float32bits(v.Data[entry]) ^ 1)
			}
		}
		if err := safetensors.Write(&after, values, f.Metadata()); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(before.Bytes(), after.Bytes()) {
			t.Fatalf("%s has no tensor %s", name, tensor)
		}
		if err := os.WriteFile(name, after.Bytes(), 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// replace changes a text.
func replace(old, by string) func(*testing.T, string) {
	return func(t *testing.T, name string) {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		changed := bytes.Replace(text, []byte(old), []byte(by), 1)
		if bytes.Equal(text, changed) {
			t.Fatalf("%s has no %s:\n%s", name, old, text)
		}
		if err := os.WriteFile(name, changed, 0o666); err != nil {
			t.Fatal(err)
		}
	}
}

// TestConfigs: together the configurations reach what they are there for.
func TestConfigs(t *testing.T) {
	files, err := writeConfigs(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	reached := map[string]bool{}
	for _, file := range files {
		c, err := config.Load(file)
		if err != nil {
			t.Fatal(err)
		}
		m := c.Model
		for what, is := range map[string]bool{
			"kind " + string(m.Kind): true, "guided " + string(m.Kind): m.Guided,
			"swiglu": m.Act == spec.SwiGLU, "gelu": m.Act == spec.GELU, "rmsnorm": m.Norm == spec.RMSNorm, "layernorm": m.Norm == spec.LayerNorm,
			"grouped queries": m.KVHeads < m.QHeads, "RoPE": m.Position == spec.RoPE, "absolute positions": m.Position == spec.Absolute,
			"recompute": c.Train.Recompute, "accumulation": c.Train.Accumulate > 1, "untied head": !m.TieEmbeddings, "no biases": !m.QKVBias && !m.OutputBias && !m.FFNBias,
			"a width of no whole vectors": m.Hidden%16 != 0 && m.Hidden%8 != 0, "an odd rank": m.Rank%2 == 1, "the paper's width": m.Hidden == 768,
		} {
			reached[what] = reached[what] || is
		}
	}
	for _, kind := range []spec.Kind{spec.Dense, spec.LowRank, spec.BlockDense, spec.BlockShuffle} {
		reached["kind "+string(kind)] = reached["kind "+string(kind)]
		if kind != spec.Dense {
			reached["guided "+string(kind)] = reached["guided "+string(kind)]
		}
	}
	delete(reached, "guided dense")
	for what, is := range reached {
		if !is {
			t.Errorf("no configuration has %s", what)
		}
	}
}

// TestVerdict: what is slower in all rounds is found, and what noise may be is not.
func TestVerdict(t *testing.T) {
	for _, test := range []struct {
		base, head []float64
		want       string
	}{
		{[]float64{1, 1, 1, 1, 1}, []float64{1, 1, 1, 1, 1}, ""},
		{[]float64{1, 1, 1, 1, 1}, []float64{1.01, 1.01, 1.01, 1.01, 1.01}, ""},
		{[]float64{1, 1, 1, 1, 1}, []float64{1.03, 1.04, 1.03, 1.03, 1.03}, "SLOWER"},
		{[]float64{1.02, 1, 1.01, 1.035, 1}, []float64{1.06, 1.05, 1.06, 1.08, 1.07}, "SLOWER"},
		{[]float64{1.02, 1, 1.01, 1.2, 1}, []float64{1.06, 1.05, 1.06, 1.08, 1.07}, ""},
		{[]float64{1, 1, 1, 1, 1}, []float64{1.2, 1.3, 1.4, 1, 1.3}, ""},
		{[]float64{2, 1, 3, 1, 1}, []float64{3, 2, 5, 2, 1}, ""},
		{[]float64{1, 1, 1, 1, 1}, []float64{0.9, 0.9, 0.8, 0.9, 0.9}, "faster"},
	} {
		var rows []*benchmark
		for which, times := range [][]float64{test.base, test.head} {
			for _, s := range times {
				var err error
				rows, err = add(rows, "ffn", which, fmt.Appendf(nil, `{"results": [{"layer": "l", "op": "forward", "rows": 8, "seconds": %g, "gflops": 3}]}`, s))
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		if len(rows) != 1 || rows[0].name != "ffn l forward rows 8" {
			t.Fatalf("rows %+v, want ffn l forward rows 8", rows[0])
		}
		if _, _, _, word := rows[0].verdict(); word != test.want {
			t.Errorf("times %v after %v: %q, want %q", test.head, test.base, word, test.want)
		}
	}
	if _, err := add(nil, "ffn", 0, []byte(`{"results": [{"layer": "l"}]}`)); err == nil {
		t.Error("no error for a result without a time")
	}
}
