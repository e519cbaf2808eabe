package hub

import (
	"archive/zip"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/frugal"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/model/safetensors"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// archives are the models that transformers wrote, by its major version; see
// testdata/make.py.
var archives = map[string][]string{
	"testdata/models-4.zip": {"gpt2-old", "llama2", "llama-linear", "llama31", "mistral-whole", "qwen2-window", "qwen2-layers", "qwen2-yarn", "qwen3-tied"},
	"testdata/models-5.zip": {"gpt2", "gpt2-untied", "gpt2-erf", "llama3", "llama-bias", "mistral", "qwen2", "qwen3", "llama-yarn", "qwen3-layers"},
}

// unpack writes the models of an archive below a folder, each into its own.
func unpack(t *testing.T, archive string) string {
	t.Helper()
	r, err := zip.OpenReader(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	dir := t.TempDir()
	if err := os.CopyFS(dir, r); err != nil {
		t.Fatal(err)
	}
	return dir
}

// each runs a test for every model.
func each(t *testing.T, test func(t *testing.T, dir string)) {
	for archive, names := range archives {
		all := unpack(t, archive)
		for _, name := range names {
			t.Run(name, func(t *testing.T) { test(t, filepath.Join(all, name)) })
		}
	}
}

// imported opens a folder and saves it as a run.
func imported(t *testing.T, dir string) *decode.Checkpoint {
	t.Helper()
	m, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	saved, err := m.Save(filepath.Join(t.TempDir(), "run"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := decode.Open(saved)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// golden are the logits that a model has to have, and how far those of transformers
// are off that are computed in float32.
type golden struct {
	ids      []int32
	logits   []float64
	rounding float64
}

func readGolden(t *testing.T, dir string) (g golden) {
	t.Helper()
	f, err := safetensors.Open(filepath.Join(dir, "golden.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	ids, err1 := f.Int64s("ids")
	high, err2 := f.Float32s("high")
	low, err3 := f.Float32s("low")
	rounding, err4 := f.Float32s("rounding")
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		g.ids = append(g.ids, int32(id))
	}
	for i := range high {
		g.logits = append(g.logits, float64(high[i])+float64(low[i]))
	}
	g.rounding = float64(rounding[0])
	return g
}

// logits computes all logits of a checkpoint.
func logits(t *testing.T, c *decode.Checkpoint, ids []int32, cached bool) (all []float32) {
	t.Helper()
	pool := rt.NewPool(1)
	defer pool.Close()
	m, err := c.Load(rt.Options{Pool: pool})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Logits(ids, cached, func(x []float32) error { all = append(all, x...); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

// What transformers wrote gives the logits that transformers computes in float64:
// no farther off than twice what its own float32 is, in one pass and with a cache.
func TestLogits(t *testing.T) {
	each(t, func(t *testing.T, dir string) {
		c, g := imported(t, dir), readGolden(t, dir)
		full := logits(t, c, g.ids, false)
		most := 2 * g.rounding
		if isa, err := kernel.Default(); err != nil {
			t.Fatal(err)
		} else if isa == kernel.Portable {
			most *= 2 // without fused multiply-adds each term of a sum is rounded twice
		}
		worst := 0.0
		for i, want := range g.logits {
			worst = max(worst, math.Abs(float64(full[i])-want))
		}
		if len(full) != len(g.logits) || !(worst <= most) {
			t.Errorf("%d logits are off by %.3g, want %d, at most %.3g off", len(full), worst, len(g.logits), most)
		}
		if !slices.Equal(full, logits(t, c, g.ids, true)) {
			t.Error("decoding with a cache gives other logits")
		}
	})
}

// edit changes a file of text.
func edit(t *testing.T, name string, change func(text string) string) {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(change(string(text))), 0o666); err != nil {
		t.Fatal(err)
	}
}

// rewrite changes the tensors of a folder's file.
func rewrite(t *testing.T, dir string, change func(v []safetensors.Value) []safetensors.Value) {
	t.Helper()
	name := filepath.Join(dir, safetensors.WholeFile)
	f, err := safetensors.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	var all []safetensors.Value
	for _, u := range f.Tensors() {
		x, err := f.Float32s(u.Name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, safetensors.Value{Name: u.Name, Shape: u.Shape, Data: x})
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	out, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(safetensors.Write(out, change(all), nil), out.Close()); err != nil {
		t.Fatal(err)
	}
}

func find(t *testing.T, all []safetensors.Value, name string) *safetensors.Value {
	t.Helper()
	for i := range all {
		if all[i].Name == name {
			return &all[i]
		}
	}
	t.Fatalf("no tensor %s", name)
	return nil
}

// Files of GPT-2 hold masks, too, and heads that are the embedding; and the body alone
// has no prefix. The model is the same.
func TestGPT2Forms(t *testing.T) {
	dir := filepath.Join(unpack(t, "testdata/models-5.zip"), "gpt2")
	g := readGolden(t, dir)
	want := logits(t, imported(t, dir), g.ids, false)
	for _, form := range []struct {
		name   string
		change func(v []safetensors.Value) []safetensors.Value
		notes  int
	}{
		{"masks and head", func(v []safetensors.Value) []safetensors.Value {
			v = append(v, safetensors.Value{Name: "lm_head.weight", Shape: find(t, v, "transformer.wte.weight").Shape, Data: find(t, v, "transformer.wte.weight").Data})
			for _, layer := range []string{"transformer.h.0.", "transformer.h.1."} {
				v = append(v, safetensors.Value{Name: layer + "attn.bias", Shape: []int{1, 1, 2, 2}, Data: []float32{1, 0, 1, 1}},
					safetensors.Value{Name: layer + "attn.masked_bias", Data: []float32{-1e4}})
			}
			return v
		}, 4},
		{"body alone", func(v []safetensors.Value) []safetensors.Value {
			v = slices.DeleteFunc(v, func(v safetensors.Value) bool { return v.Name == "lm_head.weight" })
			for i := range v {
				v[i].Name = strings.TrimPrefix(v[i].Name, "transformer.")
			}
			return v
		}, 4},
	} {
		rewrite(t, dir, form.change) // the second changes what the first wrote
		if got := logits(t, imported(t, dir), g.ids, false); !slices.Equal(got, want) {
			t.Errorf("%s: other logits", form.name)
		}
		m, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if len(m.Notes) != form.notes || m.Format != "GPT-2" {
			t.Errorf("%s: %s, %q", form.name, m.Format, m.Notes)
		}
		m.Close()
	}
}

// What is wrong with the tensors of a folder, or cannot be expressed, is an error that
// names it; nothing is written then.
func TestBadTensors(t *testing.T) {
	add := func(name string, shape []int, x ...float32) func(v []safetensors.Value) []safetensors.Value {
		return func(v []safetensors.Value) []safetensors.Value {
			return append(v, safetensors.Value{Name: name, Shape: shape, Data: x})
		}
	}
	for want, change := range map[string]func(v []safetensors.Value) []safetensors.Value{
		"the tensor transformer.h.0.attn.rel.weight has no place in a model of this configuration": add("transformer.h.0.attn.rel.weight", []int{1}, 1),
		"the tensor transformer.h.1.mlp.c_fc.weight [16 64] is missing": func(v []safetensors.Value) []safetensors.Value {
			return slices.DeleteFunc(v, func(v safetensors.Value) bool { return v.Name == "transformer.h.1.mlp.c_fc.weight" })
		},
		"the tensor transformer.h.1.mlp.c_fc.weight has shape [64 16], the configuration says [16 64]": func(v []safetensors.Value) []safetensors.Value {
			find(t, v, "transformer.h.1.mlp.c_fc.weight").Shape = []int{64, 16}
			return v
		},
		"and 23 more": func(v []safetensors.Value) []safetensors.Value { return nil },
		"the tensors lm_head.weight and transformer.wte.weight differ": func(v []safetensors.Value) []safetensors.Value {
			head := *find(t, v, "transformer.wte.weight")
			head.Name, head.Data = "lm_head.weight", slices.Clone(head.Data)
			head.Data[7]++
			return append(v, head)
		},
		"the tensor transformer.h.0.ln_2.weight is not finite: NaN, 3 entries from its beginning": func(v []safetensors.Value) []safetensors.Value {
			find(t, v, "transformer.h.0.ln_2.weight").Data[3] = float32(math.NaN())
			return v
		},
	} {
		dir := filepath.Join(unpack(t, "testdata/models-5.zip"), "gpt2")
		rewrite(t, dir, change)
		run := filepath.Join(t.TempDir(), "run")
		m, err := Open(dir)
		if err == nil {
			_, err = m.Save(run, nil, nil)
			m.Close()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to contain %q", err, want)
		}
		if entries, err := os.ReadDir(run); err == nil && len(entries) > 0 {
			t.Errorf("%s: %v was written", want, entries)
		} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
}

// whole stands for all of a text.
const whole = "whole"

// badConfigs changes the config.json of a model and wants errors, by what they have to
// contain.
func badConfigs(t *testing.T, model string, changes map[string][]string) {
	t.Helper()
	dir := filepath.Join(unpack(t, "testdata/models-5.zip"), model)
	name := filepath.Join(dir, hubConfig)
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for want, change := range changes {
		text := strings.NewReplacer(change...).Replace(string(good))
		if change[0] == whole {
			text = change[1]
		}
		if text == string(good) {
			t.Errorf("%s: %q is not there to be changed", model, change[0])
		}
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		m, err := Open(dir)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), dir) {
			t.Errorf("%s: got %v, want it to contain %q", model, err, want)
		}
		if err == nil {
			m.Close()
		}
	}
}

// What a config.json says that the model cannot express, and what it says wrongly, is
// an error with the field's name.
func TestBadGPT2Config(t *testing.T) {
	dir := filepath.Join(unpack(t, "testdata/models-5.zip"), "gpt2")
	name := filepath.Join(dir, hubConfig)
	badConfigs(t, "gpt2", map[string][]string{
		`model_type: unknown model "gpt5"; known are gpt2, llama, mistral, qwen2, qwen3`:                          {`"gpt2"`, `"gpt5"`},
		"model_type: is missing, want a text":                                                                     {`"model_type": "gpt2"`, `"model_type": null`},
		`activation_function: "relu" cannot be expressed, want "gelu_new", the tanh form, or "gelu", that of erf`: {`"gelu_new"`, `"relu"`},
		"layer_norm_epsilon: 2 is out of range, want 1e-12 to 1":                                                  {`1e-05`, `2`},
		"n_embd: is missing, want a whole number":                                                                 {`"n_embd": 16`, `"n_embd": null`},
		`n_embd: "16" is no whole number`:                                                                         {`"n_embd": 16`, `"n_embd": "16"`},
		"n_layer: 2.5 is no whole number":                                                                         {`"n_layer": 2`, `"n_layer": 2.5`},
		"n_head: 3 does not divide attn_dim 16":                                                                   {`"n_head": 2`, `"n_head": 3`},
		"n_positions: -40 is out of range, want 1 to":                                                             {`"n_positions": 40`, `"n_positions": -40`},
		"n_inner: 1048577 is out of range":                                                                        {`"n_inner": null`, `"n_inner": 1048577`},
		"scale_attn_weights: false cannot be expressed, want true":                                                {`"scale_attn_weights": true`, `"scale_attn_weights": false`},
		"add_cross_attention: true cannot be expressed, want false":                                               {`"add_cross_attention": false`, `"add_cross_attention": true`},
		"quantization_config: a model that has one cannot be expressed":                                           {`"use_cache"`, `"quantization_config": {}, "use_cache"`},
		"tie_word_embeddings: 1 is no true or false":                                                              {`"tie_word_embeddings": true`, `"tie_word_embeddings": 1`},
		"unexpected end of JSON input":                                                                            {"}", ""},
		"want a JSON object, there is a JSON array":                                                               {whole, "[]"},
		"want a JSON object, there is null":                                                                       {whole, "null"},
		"too long for a configuration, want at most 1048576 bytes":                                                {"{", "{" + strings.Repeat(" ", maxConfig)},
		"n_ctx: 41 cannot be expressed, want n_positions":                                                         {`"n_head": 2`, `"n_head": 2, "n_ctx": 41`},
		"the tensor transformer.h.2.attn.c_attn.weight [16 48] is missing":                                        {`"n_layer": 2`, `"n_layer": 3`},
		"the tensor transformer.wpe.weight has shape [40 16], the configuration says [1024 16]":                   {`"n_positions": 40`, `"n_positions": 1024`},
		"n_layer: 4097 is out of range, want 1 to 4096":                                                           {`"n_layer": 2`, `"n_layer": 4097`},
	})
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	// What is not known of is no error, since what computes the model does not know it.
	text := strings.Replace(string(good), "{", `{"made_by": "me", "torch_dtype": "float16",`, 1)
	if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	m, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if len(m.Notes) != 1 || !strings.HasPrefix(m.Notes[0], "made_by is not read") {
		t.Errorf("%q", m.Notes)
	}
}

// So it is for the Llama family.
func TestBadLlamaConfig(t *testing.T) {
	badConfigs(t, "llama3", map[string][]string{
		`hidden_act: "gelu" cannot be expressed, want "silu"`: {`"silu"`, `"gelu"`},
		"rms_norm_eps: 0 is out of range":                     {`1e-05`, `0`},
		`rope_parameters.rope_type: "longrope" cannot be expressed, want "default", "linear", "llama3" or "yarn"`: {`"llama3"`, `"longrope"`},
		"rope_parameters.factor: is missing, want a number":                                                       {`"factor": 8.0,`, ``},
		"rope_parameters.factor: 0.5 is out of range":                                                             {`"factor": 8.0,`, `"factor": 0.5,`},
		"rope_parameters.high_freq_factor: 0.5 is out of range":                                                   {`"high_freq_factor": 4.0,`, `"high_freq_factor": 0.5,`},
		"rope_parameters.rope_theta: -100 is out of range, want a positive number":                                {`"rope_theta": 100.0`, `"rope_theta": -100`},
		"rope_parameters.attention_factor: is unknown for an embedding of this type":                              {`"factor": 8.0,`, `"factor": 8.0, "attention_factor": 1.5,`},
		"rope_parameters.partial_rotary_factor: 0.5 cannot be expressed, want 1":                                  {`"factor": 8.0,`, `"factor": 8.0, "partial_rotary_factor": 0.5,`},
		"rope_parameters: want a JSON object, there is a JSON array":                                              {`"rope_parameters": {`, `"rope_parameters": [], "other": {`},
		"rope_scaling: and rope_parameters are both there":                                                        {`"silu"`, `"silu", "rope_scaling": {"type": "linear"}`},
		"original_max_position_embeddings: 16 cannot be expressed, want that of rope_parameters":                  {`"silu"`, `"silu", "original_max_position_embeddings": 16`},
		"num_attention_heads: 3 does not divide hidden_size 16, and there is no head_dim":                         {`"head_dim": 8,`, ``, `"num_attention_heads": 4`, `"num_attention_heads": 3`},
		"head_dim: 0 is out of range":                                                                             {`"head_dim": 8,`, `"head_dim": 0,`},
		"head_dim: -9223372036854775808 is out of range":                                                          {`"head_dim": 8,`, `"head_dim": -9223372036854775808,`},
		"num_key_value_heads: 3 does not divide q_heads 4":                                                        {`"num_key_value_heads": 2`, `"num_key_value_heads": 3`},
		"the tensor model.layers.0.self_attn.q_proj.bias [32] is missing":                                         {`"attention_bias": false`, `"attention_bias": true`},
		"the tensor model.layers.0.self_attn.k_proj.weight has shape [16 16], the configuration says [8":          {`"num_key_value_heads": 2`, `"num_key_value_heads": 1`},
	})
	badConfigs(t, "llama-yarn", map[string][]string{
		"rope_parameters.beta_fast: 1 is out of range, want more than beta_slow, 1":        {`"beta_fast": 4.0`, `"beta_fast": 1`},
		"rope_parameters.attention_factor: -1 is out of range, want a positive number":     {`"beta_fast": 4.0`, `"attention_factor": -1`},
		"rope_parameters.factor: 0.5 is out of range":                                      {`"factor": 4.0`, `"factor": 0.5`},
		"rope_parameters.original_max_position_embeddings: 0 is out of range":              {`"original_max_position_embeddings": 16`, `"original_max_position_embeddings": 0`},
		"rope_parameters.truncate: 1 is no true or false":                                  {`"beta_fast": 4.0`, `"truncate": 1`},
		"rope_parameters.rope_theta: 1 is out of range, want more than 1 with the scaling": {`"rope_theta": 100.0`, `"rope_theta": 1`},
		"rope_parameters.low_freq_factor: is unknown for an embedding of this type":        {`"beta_fast": 4.0`, `"low_freq_factor": 4`},
	})
	badConfigs(t, "qwen3-layers", map[string][]string{
		"layer_types: layer 0 has a window, and use_sliding_window is false": {`"use_sliding_window": true`, `"use_sliding_window": false`},
		"layer_types: layer 0 has a window, and sliding_window is null":      {`"sliding_window": 6`, `"sliding_window": null`},
		"sliding_window: -6 is out of range":                                 {`"sliding_window": 6`, `"sliding_window": -6`},
	})
	badConfigs(t, "qwen3", map[string][]string{
		`layer_types: "linear_attention" cannot be expressed, want full_attention or sliding_attention`: {`"full_attention"`, `"linear_attention"`},
		"layer_types: layer 0 has a window, and use_sliding_window is false":                            {`"full_attention"`, `"sliding_attention"`},
		"layer_types: has 1 entries, there are 2 layers":                                                {`"full_attention",`, ``},
		"layer_types: 7 is no list of texts":                                                            {`"layer_types": [`, `"layer_types": 7, "other": [`},
		"the tensor model.layers.0.self_attn.q_proj.bias [32] is missing":                               {`"attention_bias": false`, `"attention_bias": true`},
		"the tensor model.layers.0.self_attn.q_norm.weight has shape [8], the configuration says [12]":  {`"head_dim": 8`, `"head_dim": 12`},
	})
	badConfigs(t, "mistral", map[string][]string{
		"sliding_window: -8 is out of range":     {`"sliding_window": 8`, `"sliding_window": -8`},
		`sliding_window: "8" is no whole number`: {`"sliding_window": 8`, `"sliding_window": "8"`},
	})
}

// A configuration is a model or an error, whatever its text.
func FuzzConfig(f *testing.F) {
	for archive, names := range archives {
		r, err := zip.OpenReader(archive)
		if err != nil {
			f.Fatal(err)
		}
		for _, name := range names {
			text, err := fs.ReadFile(r, name+"/"+hubConfig)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
		r.Close()
	}
	f.Add([]byte(`{"model_type": ` + strings.Repeat(`{"a":`, 1000)))
	f.Add([]byte(`{"model_type": "llama", "vocab_size": 1e400, "num_attention_heads": -1, "hidden_size": -9223372036854775808}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		fam, s, _, err := parseConfig(text)
		if err != nil {
			return
		}
		c, err := config.Of("x", s)
		if err != nil {
			return
		}
		if err := c.Model.Validate(); err != nil {
			t.Fatal(err)
		}
		again, err := config.ParseSaved("x.yaml", c.Source, config.Edition)
		if err != nil || again.Model != c.Model {
			t.Fatalf("the configuration is read as\n%+v, was\n%+v: %v", again, c.Model, err)
		}
		if c.Model.Layers > 10 {
			return
		}
		layout := fam.layout(c.Model)
		for _, q := range c.Model.Params() {
			n := 0
			for _, p := range layout[q.Name] {
				n += safetensors.Tensor{Shape: p.shape}.Size()
			}
			if n != q.Size() {
				t.Fatalf("%s has %d entries, its tensors %d", q.Name, q.Size(), n)
			}
		}
	})
}

// Folders that ask for much are refused at little cost.
func TestHostile(t *testing.T) {
	dir := filepath.Join(unpack(t, "testdata/models-5.zip"), "gpt2")
	name := filepath.Join(dir, hubConfig)
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	for want, text := range map[string]string{
		"the tensor transformer.wte.weight has shape [37 16], the configuration says [1048576 16]": strings.Replace(string(good), `"vocab_size": 37`, `"vocab_size": 1048576`, 1),
		"and 49123 more":         strings.Replace(string(good), `"n_layer": 2`, `"n_layer": 4096`, 1),
		"n_embd: 10000000000 is": strings.Replace(string(good), `"n_embd": 16`, `"n_embd": 10000000000`, 1),
		"exceeded max depth":     `{"model_type": "gpt2", "a": ` + strings.Repeat("[", 1<<19),
		"too long":               strings.Repeat(" ", 1<<21),
		"model_type: is missing": "{" + strings.Repeat(`"a": 1,`, 1<<16) + `"b": 1}`,
		"rope_parameters: want a JSON object, there is a JSON string": `{"model_type": "llama", "rope_parameters": "` + strings.Repeat("x", 1<<19) + `"}`,
	} {
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		frugal.Run(t, 160<<20, func() {
			if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 2000 {
				t.Errorf("got %.500v, want it to contain %q", err, want)
			}
		})
	}
}
