package hub

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/model/gguf"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/model/token"
)

// reading is a GGUF file as llama.cpp takes it, computed in float64: what its
// architectures do, from the metadata and the tensors alone. It shares nothing with
// what writes the file.
type reading struct {
	t    *testing.T
	f    *gguf.File
	arch string
}

func openGGUF(t *testing.T, name string) *reading {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	g, err := gguf.Read(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return &reading{t, g, g.Value("general.architecture").(string)}
}

func (r *reading) count(key string) int { return int(r.f.Value(r.arch + "." + key).(uint32)) }

// number is a float of the metadata, or otherwise.
func (r *reading) number(key string, otherwise float64) float64 {
	if v, ok := r.f.Value(r.arch + "." + key).(float32); ok {
		return float64(v)
	}
	return otherwise
}

// tensor reads one; it is nil where there is none.
func (r *reading) tensor(name string, shape ...int) []float64 {
	r.t.Helper()
	u, ok := r.f.Lookup(name)
	if !ok {
		return nil
	}
	if len(shape) > 0 && !slices.Equal(u.Shape, shape) {
		r.t.Fatalf("%s has shape %v, want %v", name, u.Shape, shape)
	}
	x, err := r.f.Float32s(name)
	if err != nil {
		r.t.Fatal(err)
	}
	wide := make([]float64, len(x))
	for i, v := range x {
		wide[i] = float64(v)
	}
	return wide
}

// linear applies name.weight [out, in] and, where it is there, name.bias.
func (r *reading) linear(name string, out int, x []float64) []float64 {
	r.t.Helper()
	w, b := r.tensor(name+".weight", out, len(x)), r.tensor(name+".bias", out)
	if w == nil {
		r.t.Fatalf("no tensor %s.weight", name)
	}
	// llama.cpp does not open a file of these architectures without them.
	if b == nil && (r.arch == "gpt2" && name != "output" && name != "token_embd" || r.arch == "starcoder2" && (strings.Contains(name, "attn_output") || strings.Contains(name, "ffn"))) {
		r.t.Fatalf("no tensor %s.bias", name)
	}
	y := make([]float64, out)
	for i := range y {
		for j, v := range x {
			y[i] += w[i*len(x)+j] * v
		}
		if b != nil {
			y[i] += b[i]
		}
	}
	return y
}

// norm is a layer norm or an RMS norm, by which epsilon there is.
func (r *reading) norm(name string, x []float64) []float64 {
	w, b := r.tensor(name+".weight", len(x)), r.tensor(name+".bias", len(x))
	eps, centred := r.f.Value(r.arch + ".attention.layer_norm_epsilon").(float32)
	if !centred {
		eps = r.f.Value(r.arch + ".attention.layer_norm_rms_epsilon").(float32)
	}
	mean, square := 0.0, 0.0
	for _, v := range x {
		mean += v / float64(len(x))
	}
	if !centred {
		mean = 0
	}
	for _, v := range x {
		square += (v - mean) * (v - mean) / float64(len(x))
	}
	y := make([]float64, len(x))
	for i, v := range x {
		if y[i] = (v - mean) / math.Sqrt(square+float64(eps)) * w[i]; b != nil {
			y[i] += b[i]
		}
	}
	return y
}

// turn rotates the heads of x at a position: pairs side by side where the architecture
// is llama, and half a head apart elsewhere.
func (r *reading) turn(x []float64, size, position int) {
	divisors := r.tensor("rope_freqs.weight", size/2)
	factor := 1.0
	if kind := r.f.Value(r.arch + ".rope.scaling.type"); kind == "linear" {
		factor = r.number("rope.scaling.factor", 1)
	} else if kind != "none" {
		r.t.Fatalf("rope.scaling.type is %v", kind)
	}
	for at := 0; at < len(x); at += size {
		for j := range size / 2 {
			angle := float64(position) * math.Pow(r.number("rope.freq_base", 10000), -2*float64(j)/float64(size)) / factor
			if divisors != nil {
				angle /= divisors[j]
			}
			a, b := at+j, at+j+size/2
			if r.arch == "llama" {
				a, b = at+2*j, at+2*j+1
			}
			sin, cos := math.Sincos(angle)
			x[a], x[b] = x[a]*cos-x[b]*sin, x[a]*sin+x[b]*cos
		}
	}
}

func gelu(x float64) float64 {
	return x / 2 * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(x+0.044715*x*x*x)))
}

// logits are those behind each id.
func (r *reading) logits(ids []int32) (all []float64) {
	hidden, heads, kv, size := r.count("embedding_length"), r.count("attention.head_count"), r.count("attention.head_count_kv"), r.count("attention.key_length")
	embedding := r.tensor("token_embd.weight", r.count("vocab_size"), hidden)
	positions := r.tensor("position_embd.weight", r.count("context_length"), hidden)
	x := make([][]float64, len(ids))
	for i, id := range ids {
		x[i] = slices.Clone(embedding[int(id)*hidden:][:hidden])
		for j := range x[i] {
			if r.arch == "gpt2" {
				x[i][j] += positions[i*hidden+j]
			}
		}
	}
	for layer := range r.count("block_count") {
		name := func(s string) string { return fmt.Sprintf("blk.%d.%s", layer, s) }
		var keys, values [][]float64
		for i := range x {
			y := r.norm(name("attn_norm"), x[i])
			var q, k, v []float64
			if r.arch == "gpt2" {
				qkv := r.linear(name("attn_qkv"), (heads+2*kv)*size, y)
				q, k, v = qkv[:heads*size], qkv[heads*size:(heads+kv)*size], qkv[(heads+kv)*size:]
			} else {
				q, k, v = r.linear(name("attn_q"), heads*size, y), r.linear(name("attn_k"), kv*size, y), r.linear(name("attn_v"), kv*size, y)
			}
			for _, n := range []struct {
				norm string
				x    []float64
			}{{"attn_q_norm", q}, {"attn_k_norm", k}} {
				if r.tensor(name(n.norm)+".weight") == nil {
					continue
				}
				for at := 0; at < len(n.x); at += size {
					copy(n.x[at:], r.norm(name(n.norm), n.x[at:at+size]))
				}
			}
			if r.arch != "gpt2" {
				r.turn(q, size, i)
				r.turn(k, size, i)
			}
			keys, values = append(keys, k), append(values, v)
			out := make([]float64, heads*size)
			for h := range heads {
				at := h / (heads / kv) * size
				weights, sum := make([]float64, i+1), 0.0
				for j := range weights {
					for d := range size {
						weights[j] += q[h*size+d] * keys[j][at+d]
					}
				}
				most := slices.Max(weights)
				for j, w := range weights {
					weights[j] = math.Exp((w - most) / math.Sqrt(float64(size)))
					sum += weights[j]
				}
				for j, w := range weights {
					for d := range size {
						out[h*size+d] += w / sum * values[j][at+d]
					}
				}
			}
			for j, v := range r.linear(name("attn_output"), hidden, out) {
				x[i][j] += v
			}
			y = r.norm(name("ffn_norm"), x[i])
			up := r.linear(name("ffn_up"), r.count("feed_forward_length"), y)
			if r.arch == "gpt2" || r.arch == "starcoder2" {
				for j, v := range up {
					up[j] = gelu(v)
				}
			} else {
				for j, v := range r.linear(name("ffn_gate"), len(up), y) {
					up[j] *= v / (1 + math.Exp(-v))
				}
			}
			for j, v := range r.linear(name("ffn_down"), hidden, up) {
				x[i][j] += v
			}
		}
	}
	head := "token_embd"
	if r.tensor("output.weight") != nil {
		head = "output"
	}
	for i := range x {
		all = append(all, r.linear(head, r.count("vocab_size"), r.norm("output_norm", x[i]))...)
	}
	return all
}

// farthest is how far two vectors are apart.
func farthest(t *testing.T, a, b []float64) (most float64) {
	t.Helper()
	if len(a) != len(b) {
		t.Fatalf("%d logits, want %d", len(a), len(b))
	}
	for i := range a {
		most = max(most, math.Abs(a[i]-b[i]))
	}
	return most
}

func exportTo(t *testing.T, c *decode.Checkpoint, out string, o Options) (notes []string) {
	t.Helper()
	notes, err := Export(c.Dir, c.Config, c.Tokenizer, out, o)
	if err != nil {
		t.Fatal(err)
	}
	return notes
}

// single is how far logits are off, in parts of the largest, for that the numbers of
// the file's metadata are float32.
const single = 1e-5

// refusedGGUF are models that llama.cpp's architectures have not, and what these lack.
var refusedGGUF = map[string]string{
	"qwen3-tied": "the nearest is qwen3: output_bias true, want false", // of which attention_bias is true
	"gpt2-erf":   "the nearest is gpt2: act gelu_erf, want gelu",
	"llama-yarn": "the nearest is llama: rotary_scaling yarn, want none, linear or llama3",
	"qwen2-yarn": "the nearest is qwen2: rotary_scaling yarn, want none, linear or llama3",
}

// What transformers wrote and computes in float64, llama.cpp's architectures compute
// from the file, in each type of weights as far as these are rounded.
func TestGGUF(t *testing.T) {
	each(t, func(t *testing.T, dir string) {
		c, g := imported(t, dir), readGolden(t, dir)
		name := filepath.Join(t.TempDir(), "new", "x.gguf")
		if want, refused := refusedGGUF[filepath.Base(dir)]; refused {
			_, err := Export(c.Dir, c.Config, nil, name, Options{Format: "gguf"})
			if err == nil || !strings.Contains(err.Error(), want+". --as hf takes any model") {
				t.Error(err)
			}
			return
		}
		if err := os.Mkdir(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
		for _, typ := range Types {
			notes := exportTo(t, c, name, Options{Format: "gguf", Type: typ})
			r := openGGUF(t, name)
			ids, want := g.ids, g.logits
			if w := c.Config.Model.Window; w > 0 && w < c.Config.Model.MaxPositions {
				if len(notes) != 1 || !strings.Contains(notes[0], fmt.Sprintf("a context of %d positions, in which the window hides nothing", w)) || r.count("context_length") != w {
					t.Errorf("of a window of %d the file says nothing: %q", w, notes)
				}
				ids, want = ids[:w], want[:w*c.Config.Model.Vocab]
			} else if len(notes) > 0 || r.count("context_length") != c.Config.Model.MaxPositions {
				t.Errorf("notes %q, context %d", notes, r.count("context_length"))
			}
			largest := 0.0
			for _, v := range want {
				largest = max(largest, math.Abs(v))
			}
			off := farthest(t, r.logits(ids), want)
			most := map[string]float64{"f32": single, "f16": 2e-3, "bf16": 1.5e-2}[typ] * largest
			// Weights that were saved in a type keep all of it.
			if typeOf(t, dir) == typ {
				most = single * largest
			}
			if !(off <= most) {
				t.Errorf("%s: off by %.3g, want at most %.3g", typ, off, most)
			}
			for _, u := range r.f.Tensors() {
				if matrix := len(u.Shape) == 2 && u.Name != "position_embd.weight"; (strings.ToLower(string(u.Type)) == typ) != (matrix || typ == "f32") {
					t.Errorf("%s: %s is %s", typ, u.Name, u.Type)
				}
			}
		}
	})
}

// typeOf is the type of a folder's tensors.
func typeOf(t *testing.T, dir string) string {
	t.Helper()
	d, err := safetensors.OpenFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	_, u, _ := d.Lookup(d.Names()[0])
	return strings.ToLower(u.DType)
}

// drawn is a checkpoint of a model with random weights, far from any symmetry: model is
// the section of that name, by keys in one line.
func drawn(t *testing.T, name, model string, tok token.Tokenizer, change ...func(v []safetensors.Value)) *decode.Checkpoint {
	t.Helper()
	dir := filepath.Join(t.TempDir(), name)
	source := []byte("model: {" + model + "}\n")
	c, err := config.Parse("x.yaml", source)
	if err != nil {
		t.Fatal(err)
	}
	c.Model.Guided = false
	r := rand.New(rand.NewPCG(1, 2))
	var values []safetensors.Value
	for _, q := range c.Model.Params() {
		v := safetensors.Value{Name: q.Name, Shape: q.Shape, Data: make([]float32, q.Size())}
		for i := range v.Data {
			switch {
			case len(q.Shape) == 1 && strings.HasSuffix(q.Name, "weight"): // of a norm
				v.Data[i] = 1 + float32(0.2*r.NormFloat64())
			case len(q.Shape) == 1 || strings.Contains(q.Name, "wte") || strings.Contains(q.Name, "wpe"):
				v.Data[i] = float32(0.5 * r.NormFloat64())
			default:
				v.Data[i] = float32(r.NormFloat64() / math.Sqrt(float64(q.Shape[len(q.Shape)-1])))
			}
		}
		values = append(values, v)
	}
	for _, f := range change {
		f(values)
	}
	if err := create(dir, []file{text(ownConfig, source), {safetensors.WholeFile, func(w io.Writer) error { return safetensors.Write(w, values, nil) }}}); err != nil {
		t.Fatal(err)
	}
	m, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	saved, err := m.Save(filepath.Join(t.TempDir(), "run"), tok, nil)
	if err != nil {
		t.Fatal(err)
	}
	cp, err := decode.Open(saved)
	if err != nil {
		t.Fatal(err)
	}
	return cp
}

// own are models of one's own, with the architecture that llama.cpp has for them.
var own = []struct{ name, model, arch string }{
	{"dense", "norm: rmsnorm, act: swiglu, bias: false, tie_embeddings: false", "llama"},
	{"demo", "norm: rmsnorm, act: swiglu, mlp: {kind: lowrank, rank: 8}", "llama"},
	{"groups", "norm: rmsnorm, act: swiglu, bias: false, kv_heads: 1, mlp: {kind: blockdense, rank: 16, blocks: 4, first_layer_dense: false}", "llama"},
	{"narrow", "norm: rmsnorm, act: swiglu, bias: false, qkv_bias: true, attn_dim: 16, mlp: {kind: btt, rank: 1, first_layer_dense: false}", "llama"},
	{"queries", "norm: rmsnorm, act: swiglu, bias: false, qkv_bias: true, scale_attn_by_layer: true, mlp: {kind: blast, rank: 5, blocks: 4, first_layer_dense: false}", "qwen2"},
	{"norms", "norm: rmsnorm, act: swiglu, bias: false, qk_norm: true, scale_attn_by_layer: true, attn_dim: 16, mlp: {kind: blockshuffle, blocks: 4, first_layer_dense: false}", "qwen3"},
	{"paper", "mlp: {kind: lowrank, rank: 8}", "starcoder2"},
	{"paper-plain", "bias: false, mlp: {kind: blockshuffle, blocks: 2, first_layer_dense: false}", "starcoder2"},
	{"absolute", "position: absolute, mlp: {kind: blockdense, rank: 16, blocks: 2}", "gpt2"},
	{"absolute-plain", "position: absolute, bias: false, kv_heads: 2, scale_attn_by_layer: true", "gpt2"},
	{"linear", "norm: rmsnorm, act: swiglu, qk_norm: true, bias: false, rotary_scaling: {type: linear, factor: 3}", "qwen3"},
	{"llama3", "norm: rmsnorm, act: swiglu, bias: false, qkv_bias: true, rotary_base: 100, rotary_scaling: {type: llama3, factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_positions: 32}", "llama"},
}

const ownShape = "vocab: 40, hidden: 32, ffn: 64, layers: 3, q_heads: 4, max_positions: 48, norm_eps: 1e-6, "

// Models of one's own, of each kind of networks, with and without biases, compute in
// llama.cpp's architectures what they do here.
func TestGGUFOwn(t *testing.T) {
	ids := make([]int32, 40)
	for i := range ids {
		ids[i] = int32((i*7 + i*i) % 40)
	}
	for _, m := range own {
		t.Run(m.name, func(t *testing.T) {
			c := drawn(t, m.name, ownShape+m.model, nil)
			dir := filepath.Join(t.TempDir(), "new")
			exportTo(t, c, dir, Options{Format: "gguf"})
			r := openGGUF(t, filepath.Join(dir, GGUFFile))
			if r.arch != m.arch {
				t.Errorf("the architecture is %s, want %s", r.arch, m.arch)
			}
			var want []float64
			largest := 0.0
			for _, v := range logits(t, c, ids, false) {
				want = append(want, float64(v))
				largest = max(largest, math.Abs(float64(v)))
			}
			if off := farthest(t, r.logits(ids), want); !(off <= 2*single*largest) {
				t.Errorf("off by %.3g, the largest is %.3g", off, largest)
			}
		})
	}
}

// Parameters that a program holds become the same file as those of a checkpoint.
func TestWriteGGUF(t *testing.T) {
	for _, m := range own {
		c := drawn(t, m.name, ownShape+m.model, nil)
		p := model.NewParams(c.Config.Model)
		defer p.Close()
		if err := checkpoint.Load(c.Dir, p); err != nil {
			t.Fatal(err)
		}
		for _, typ := range []string{"f32", "bf16"} {
			dir := t.TempDir()
			exportTo(t, c, filepath.Join(dir, "want.gguf"), Options{Format: "gguf", Type: typ})
			if _, err := WriteGGUF(p, filepath.Join(dir, "got.gguf"), typ); err != nil {
				t.Fatal(err)
			}
			var files [2][]byte
			for i, name := range []string{"got.gguf", "want.gguf"} {
				var err error
				if files[i], err = os.ReadFile(filepath.Join(dir, name)); err != nil {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(files[0], files[1]) {
				t.Errorf("%s, %s: another file than that of the checkpoint", m.name, typ)
			}
		}
	}
	if _, err := WriteGGUF(nil, filepath.Join(t.TempDir(), "x.gguf"), "q4_0"); err == nil || err.Error() != `unknown type "q4_0"; valid are f32, f16, bf16` {
		t.Error(err)
	}
}

// What llama.cpp has no architecture for is an error that names it, before anything is
// written.
func TestGGUFErrors(t *testing.T) {
	for want, model := range map[string]string{
		"the nearest is llama: norm layernorm, want rmsnorm. --as hf takes any model": "act: swiglu, bias: false",
		"the nearest is gpt2: window 8, want none":                                    "position: absolute, window: 8",
		"the nearest is starcoder2: attn_dim 16, want hidden, 32":                     "attn_dim: 16",
		"the nearest is llama: qk_norm true, want false. --as":                        "norm: rmsnorm, act: swiglu, bias: false, qk_norm: true, rotary_scaling: {type: llama3, factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_positions: 32}",
		"the nearest is llama: position absolute, want rope":                          "norm: rmsnorm, act: swiglu, bias: false, position: absolute",
		"the nearest is qwen3: output_bias true, want false. --as":                    "norm: rmsnorm, act: swiglu, qk_norm: true, ffn_bias: false",
		"the nearest is gpt2: qk_norm true, want false":                               "position: absolute, qk_norm: true",
		"the nearest is llama: rotary_scaling yarn, want none, linear or llama3":      "norm: rmsnorm, act: swiglu, rotary_scaling: {type: yarn, factor: 4, original_max_positions: 32}",
		"the nearest is gpt2: act gelu_erf, want gelu":                                "position: absolute, act: gelu_erf",
	} {
		c := drawn(t, "x", ownShape+model, nil)
		out := filepath.Join(t.TempDir(), "out")
		if _, err := Export(c.Dir, c.Config, nil, out, Options{Format: "gguf"}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to contain %q", err, want)
		}
		if _, err := os.Stat(out); err == nil {
			t.Errorf("%s was made", out)
		}
	}
	c := drawn(t, "x", ownShape+"norm: rmsnorm, act: swiglu", nil)
	parent := t.TempDir()
	out := filepath.Join(parent, "x.gguf")
	if _, err := Export(c.Dir, c.Config, nil, out, Options{Format: "gguf", Type: "q4_0"}); err == nil || err.Error() != `unknown type "q4_0"; valid are f32, f16, bf16` {
		t.Error(err)
	}
	// Too large a weight leaves the file that was there.
	if err := os.WriteFile(out, []byte("before"), 0o666); err != nil {
		t.Fatal(err)
	}
	c = drawn(t, "x", ownShape+"norm: rmsnorm, act: swiglu", nil, func(v []safetensors.Value) { find(t, v, "model.layers.2.mlp.fc2.weight").Data[7] = 1e5 })
	if _, err := Export(c.Dir, c.Config, nil, out, Options{Format: "gguf", Type: "f16"}); err == nil || !strings.Contains(err.Error(), "x.gguf: blk.2.ffn_down.weight: 100000 is too large for F16") {
		t.Error(err)
	}
	if left, err := os.ReadFile(out); err != nil || string(left) != "before" {
		t.Errorf("the file that was there is %q, %v", left, err)
	}
	if entries, err := os.ReadDir(parent); err != nil || len(entries) != 1 {
		t.Errorf("an export that failed left %v, %v", entries, err)
	}
}
