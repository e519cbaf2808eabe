package hub

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/model/token"
)

// contents are the tensors of a folder.
func contents(t *testing.T, dir string) map[string]safetensors.Value {
	t.Helper()
	d, err := safetensors.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	all := map[string]safetensors.Value{}
	for _, name := range d.Names() {
		f, u, _ := d.Lookup(name)
		x, err := f.Float32s(name)
		if err != nil {
			t.Fatal(err)
		}
		all[name] = safetensors.Value{Name: name, Shape: u.Shape, Data: x}
	}
	return all
}

func export(t *testing.T, c *decode.Checkpoint, format string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "new", "out")
	if _, err := Export(c.Dir, c.Config, c.Tokenizer, out, Options{Format: format}); err != nil {
		t.Fatal(err)
	}
	return out
}

// What came from transformers goes back with the same tensors, and comes again as the
// same model; and so does what has the project's names.
func TestExport(t *testing.T) {
	each(t, func(t *testing.T, dir string) {
		c, g := imported(t, dir), readGolden(t, dir)
		want := logits(t, c, g.ids, false)
		out := export(t, c, "hf")
		was, is := contents(t, dir), contents(t, out)
		for name, v := range was {
			if u := is[name]; !slices.Equal(u.Shape, v.Shape) || !slices.Equal(u.Data, v.Data) {
				t.Errorf("%s is not what it was: shape %v, was %v", name, u.Shape, v.Shape)
			}
		}
		if len(was) != len(is) {
			t.Errorf("%d tensors, there were %d", len(is), len(was))
		}
		again := imported(t, out)
		if a, b := again.Config.Model, c.Config.Model; !a.SameLayers(renamed(b, a.Name)) {
			t.Errorf("the model is\n%+v, was\n%+v", a, b)
		}
		if !slices.Equal(logits(t, again, g.ids, false), want) {
			t.Error("what was exported has other logits")
		}
		own := imported(t, export(t, c, "reference"))
		if !slices.Equal(logits(t, own, g.ids, false), want) {
			t.Error("what was exported by the project's names has other logits")
		}
	})
}

// An export that fails leaves nothing, and one that would hide what is there is refused.
func TestExportErrors(t *testing.T) {
	c := imported(t, filepath.Join(unpack(t, "testdata/models-5.zip"), "gpt2"))
	parent := t.TempDir()
	out := filepath.Join(parent, "out")
	if _, err := Export(c.Dir, c.Config, nil, out, Options{Format: "onnx"}); err == nil || !strings.Contains(err.Error(), `unknown format "onnx"; valid are hf, gguf, reference`) {
		t.Error(err)
	}
	if err := os.Mkdir(out, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Export(c.Dir, c.Config, nil, out, Options{Format: "hf"}); err != nil {
		t.Errorf("an empty folder: %v", err)
	}
	before := contents(t, out)
	if _, err := Export(c.Dir, c.Config, nil, out, Options{Format: "hf"}); err == nil || !strings.Contains(err.Error(), "is there already, and not empty") {
		t.Error(err)
	}
	if after := contents(t, out); len(after) != len(before) {
		t.Error("what was there has changed")
	}
	failing := create(filepath.Join(parent, "failing"), []file{text("a", []byte("a")), {"b", func(io.Writer) error { return errors.New("no room") }}})
	if failing == nil || !strings.Contains(failing.Error(), "no room") {
		t.Error(failing)
	}
	if entries, err := os.ReadDir(parent); err != nil || len(entries) != 1 {
		t.Errorf("an export that failed left %v, %v", entries, err)
	}
	// A damaged checkpoint is not exported.
	edit(t, filepath.Join(c.Dir, safetensors.WholeFile), func(text string) string {
		b := []byte(text)
		b[len(b)-1] ^= 1
		return string(bytes.Clone(b))
	})
	if _, err := Export(c.Dir, c.Config, nil, filepath.Join(parent, "damaged"), Options{Format: "hf"}); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Error(err)
	}
}

func renamed(s spec.Model, name string) spec.Model {
	s.Name = name
	return s
}

// What a process left that was killed is in nobody's way.
func TestLeftOver(t *testing.T) {
	dir, parent := filepath.Join(unpack(t, "testdata/models-5.zip"), "gpt2"), t.TempDir()
	for _, left := range []string{"run/.unfinished-step-00000000", ".unfinished-out"} {
		if err := os.MkdirAll(filepath.Join(parent, left), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(parent, left, safetensors.WholeFile), []byte("half"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	m, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	saved, err := m.Save(filepath.Join(parent, "run"), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Export(saved, m.Config, nil, filepath.Join(parent, "out"), Options{Format: "hf"}); err != nil {
		t.Fatal(err)
	}
	for folder, want := range map[string]string{"run": "step-00000000", ".": "out run"} {
		entries, err := os.ReadDir(filepath.Join(parent, folder))
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if got := strings.Join(names, " "); err != nil || got != want {
			t.Errorf("%s has %s, %v, want %s", folder, got, err, want)
		}
	}
}

// files are those of a folder by name.
func filesOf(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		text, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all[e.Name()] = string(text)
	}
	return all
}

// What lies beside a tokenizer comes here with it and goes back; a tokenizer that came
// without says for itself which class reads it, and the byte tokenizer gets a file.
func TestExportTokenizer(t *testing.T) {
	const shape = "hidden: 8, ffn: 8, layers: 1, q_heads: 1, max_positions: 8"
	dir := t.TempDir()
	beside := map[string]string{"tokenizer_config.json": `{"chat_template": "{{ messages }}"}`, "special_tokens_map.json": "{}", "chat_template.jinja": "{{ own }}", "generation_config.json": `{"temperature": 0.7}`}
	for name, text := range beside {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "tokenizer.json"), learned(t, ""), 0o666); err != nil {
		t.Fatal(err)
	}
	tok, err := token.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	c := drawn(t, "x", "vocab: 600, "+shape, tok)
	for _, format := range []string{"hf", "reference"} {
		is := filesOf(t, export(t, c, format))
		for name, want := range beside {
			if is[name] != want {
				t.Errorf("%s: %s is %q, want %q", format, name, is[name], want)
			}
		}
	}
	if again := imported(t, export(t, c, "hf")); again.Tokenizer != nil {
		t.Error("a tokenizer came that nobody gave")
	}
	for name, tok := range map[string]token.Tokenizer{"own": token.Plain(tok), "bytes": token.Bytes{}} {
		c := drawn(t, "x", "vocab: 600, "+shape, tok)
		out := export(t, c, "hf")
		if got, want := filesOf(t, out)["tokenizer_config.json"], "\"tokenizer_class\": \"PreTrainedTokenizerFast\""; !strings.Contains(got, want) || !strings.Contains(got, `"eos_token": "\u003c|endoftext|\u003e"`) {
			t.Errorf("%s: tokenizer_config.json is %s", name, got)
		}
		again, err := token.Open(out)
		if err != nil || again.Hash() != tok.Hash() {
			t.Errorf("%s: another tokenizer came back: %v", name, err)
		}
		if got := len(filesOf(t, export(t, c, "reference"))); got != map[string]int{"own": 3, "bytes": 2}[name] {
			t.Errorf("%s: by the project's names there are %d files", name, got)
		}
	}
}

// Large models are several files, which come back as the same model; weights in a
// smaller type are rounded, and the configuration says so.
func TestExportShards(t *testing.T) {
	c := imported(t, filepath.Join(unpack(t, "testdata/models-5.zip"), "qwen3"))
	whole := contents(t, export(t, c, "hf"))
	for _, typ := range Types {
		dir := filepath.Join(t.TempDir(), "out")
		if _, err := Export(c.Dir, c.Config, nil, dir, Options{Format: "hf", Type: typ, Shard: 3000}); err != nil {
			t.Fatal(err)
		}
		n, files := 0, filesOf(t, dir)
		for name, text := range files {
			if !strings.HasSuffix(name, ".safetensors") {
				continue
			}
			n++
			f, err := safetensors.Open(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			if tensors := f.Tensors(); len(tensors) > 1 && len(text) > 3000+200*len(tensors) {
				t.Errorf("%s has %d bytes", name, len(text))
			}
			for _, u := range f.Tensors() {
				if u.DType != strings.ToUpper(typ) {
					t.Errorf("%s is %s, want %s", u.Name, u.DType, typ)
				}
			}
			f.Close()
		}
		if want := map[string]string{"f32": "float32", "f16": "float16", "bf16": "bfloat16"}[typ]; n < 3 || !strings.Contains(files[hubConfig], `"torch_dtype": "`+want+`"`) || files[safetensors.IndexFile] == "" {
			t.Errorf("%s: %d files, %s", typ, n, files[hubConfig])
		}
		is := contents(t, dir)
		for name, v := range whole {
			u := is[name]
			if len(u.Data) != len(v.Data) {
				t.Fatalf("%s: %s has shape %v, was %v", typ, name, u.Shape, v.Shape)
			}
			for i, x := range v.Data {
				// It came in bf16; binary16 has room for none below 6e-8.
				if y := u.Data[i]; y != x && !(typ == "f16" && y-x < 3e-8 && x-y < 3e-8) {
					t.Fatalf("%s: %s[%d] is %v, was %v", typ, name, i, y, x)
				}
			}
		}
		imported(t, dir)
	}
	if _, err := Export(c.Dir, c.Config, nil, filepath.Join(t.TempDir(), "out"), Options{Format: "hf", Type: "f64"}); err == nil || err.Error() != `unknown type "f64"; valid are f32, f16, bf16` {
		t.Error(err)
	}
}

// The code that goes with structured models reads fields that their config.json has,
// and has the classes that it names.
func TestModelingText(t *testing.T) {
	s := spec.Model{Vocab: 8, Hidden: 8, FFN: 8, Layers: 2, AttnDim: 8, QHeads: 1, KVHeads: 1, MaxPositions: 8, Kind: spec.LowRank, Rank: 4,
		Act: spec.GELU, Norm: spec.LayerNorm, NormEps: 1e-5, Position: spec.RoPE, RotaryBase: 10000, InitStd: 1}
	c := structured.config(s, nil, "F32")
	code := string(modeling)
	read := regexp.MustCompile(`\bconfig\.([a-z_]+)`).FindAllStringSubmatch(code, -1)
	if len(read) < 20 {
		t.Fatalf("it reads %d fields", len(read))
	}
	for _, m := range read {
		if _, ok := c[m[1]]; !ok && m[1] != "json" { // which is the file's name
			t.Errorf("it reads config.%s, which config.json lacks", m[1])
		}
	}
	for _, class := range c["auto_map"].(object) {
		module, name, _ := strings.Cut(class.(string), ".")
		if module+".py" != modelingFile || !strings.Contains(code, "\nclass "+name+"(") {
			t.Errorf("%s is not there", class)
		}
	}
	for _, field := range []string{"param", "shape", "blocks", "in", "out", "shuffle"} {
		if _, ok := chain(s.LayerFFN(0).FC1())[0][field]; !ok || !strings.Contains(code, `["`+field+`"]`) {
			t.Errorf("a factor's field %s is not read, or not there", field)
		}
	}
	if strings.Contains(code, "\t") || strings.Contains(code, "\r") {
		t.Error("it has tabs or carriage returns")
	}
}
