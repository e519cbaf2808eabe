package hub

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/internal/narrow"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/gguf"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/model/token"
	rt "github.com/structuredffn/sffn/runtime"
)

// architecture is a row of the table of llama.cpp's architectures that express dense
// models here. Each is a fixed program: what it does not do has no place in a file.
type architecture struct {
	name     string
	norm     spec.Norm
	position spec.Position
	act      spec.Act
	qkNorm   bool
	// llama3 says that it reads frequencies which are lowered one by one.
	llama3 bool
	// interleaved says that the pairs of entries that turn together lie side by side
	// in a head, and not half a head apart.
	interleaved bool
	// square says that attention is as wide as the model.
	square bool
	// Of the biases of queries, keys and values, of attention's output and of the
	// feed-forward network: what it makes of them.
	qkvBias, outputBias, ffnBias biases
	// fused says that queries, keys and values are one tensor.
	fused bool
}

// biases say whether an architecture has no biases in a place, takes them if they are
// there, or wants them, which may be zeros.
type biases int

const (
	none biases = iota
	some
	all
)

// architectures is the table. The first that expresses a model is taken.
var architectures = []architecture{
	{name: "llama", norm: spec.RMSNorm, position: spec.RoPE, act: spec.SwiGLU, llama3: true, interleaved: true, qkvBias: none, outputBias: none, ffnBias: none},
	{name: "qwen2", norm: spec.RMSNorm, position: spec.RoPE, act: spec.SwiGLU, square: true, qkvBias: some},
	{name: "qwen3", norm: spec.RMSNorm, position: spec.RoPE, act: spec.SwiGLU, qkNorm: true, qkvBias: some},
	{name: "llama", norm: spec.RMSNorm, position: spec.RoPE, act: spec.SwiGLU, llama3: true, interleaved: true, qkvBias: some, outputBias: some, ffnBias: some},
	{name: "gpt2", norm: spec.LayerNorm, position: spec.Absolute, act: spec.GELU, square: true, fused: true, qkvBias: all, outputBias: all, ffnBias: all},
	{name: "starcoder2", norm: spec.LayerNorm, position: spec.RoPE, act: spec.GELU, square: true, qkvBias: some, outputBias: all, ffnBias: all},
}

// lacks lists what a model has that the architecture has not.
func (a architecture) lacks(s spec.Model) (lacks []string) {
	lack := func(is bool, format string, args ...any) {
		if is {
			lacks = append(lacks, fmt.Sprintf(format, args...))
		}
	}
	lack(s.Norm != a.norm, "norm %s, want %s", s.Norm, a.norm)
	lack(s.Position != a.position, "position %s, want %s", s.Position, a.position)
	lack(s.Act != a.act, "act %s, want %s", s.Act, a.act)
	lack(s.QKNorm && !a.qkNorm, "qk_norm true, want false")
	lack(!s.QKNorm && a.qkNorm, "qk_norm false, want true")
	lack(a.square && s.AttnDim != s.Hidden, "attn_dim %d, want hidden, %d", s.AttnDim, s.Hidden)
	lack(s.RotaryScaling.Type == spec.YarnScaling, "rotary_scaling %s, want none, %s or %s", s.RotaryScaling.Type, spec.LinearScaling, spec.Llama3Scaling)
	lack(s.RotaryScaling.Type == spec.Llama3Scaling && !a.llama3, "rotary_scaling %s, want none or %s", s.RotaryScaling.Type, spec.LinearScaling)
	lack(s.QKVBias && a.qkvBias == none, "qkv_bias true, want false")
	lack(s.OutputBias && a.outputBias == none, "output_bias true, want false")
	lack(s.FFNBias && a.ffnBias == none, "ffn_bias true, want false")
	// Of a shorter context, in which a window hides nothing, the file can say so; but
	// not where it has an embedding for each position.
	lack(a.position == spec.Absolute && windowed(s), "window %d, want none", s.Window)
	return lacks
}

// windowed says that a window hides some positions from others.
func windowed(s spec.Model) bool { return s.Window > 0 && s.Window < s.MaxPositions }

// architectureOf is the first architecture that expresses a model. Where there is
// none, the error says what the nearest one lacks.
func architectureOf(s spec.Model) (a architecture, err error) {
	var nearest []string
	for _, row := range architectures {
		lacks := row.lacks(s)
		if len(lacks) == 0 {
			return row, nil
		}
		if nearest == nil || len(lacks) < len(nearest) {
			a, nearest = row, lacks
		}
	}
	return a, fmt.Errorf("llama.cpp has no architecture for this model; the nearest is %s: %s", a.name, strings.Join(nearest, "; "))
}

// tensorNames are those of llama.cpp's tensors, by the parameters that they are
// stretches of.
var tensorNames = map[string][]string{"model.wte": {"token_embd"}, "model.wpe": {"position_embd"}, "model.ln_f": {"output_norm"}, "lm_head": {"output"},
	"ln1": {"attn_norm"}, "qkv_linear": {"attn_q", "attn_k", "attn_v"}, "q_norm": {"attn_q_norm"}, "k_norm": {"attn_k_norm"}, "o_linear": {"attn_output"},
	"ln2": {"ffn_norm"}, "mlp.fc2": {"ffn_down"}}

// family is the table of names as that of a family, whose layout has the tensors.
func (a architecture) family() *family {
	fam := &family{layer: "blk.%d.", names: map[string][]string{}}
	for base, names := range tensorNames {
		fam.names[base] = names
	}
	if a.fused {
		fam.names["qkv_linear"] = []string{"attn_qkv"}
	}
	fam.names["mlp.fc1"] = []string{"ffn_up"}
	if a.act == spec.SwiGLU {
		fam.names["mlp.fc1"] = []string{"ffn_gate", "ffn_up"}
	}
	return fam
}

// dense is the model that a model amounts to with its networks merged.
func dense(s spec.Model) spec.Model {
	s.SetOwn(spec.Structure{Kind: spec.Dense})
	s.Except, s.Guided = "", false
	return s
}

// GGUFName is the file for llama.cpp that an export to out writes: out itself where its
// name ends in .gguf, or else one in the folder out.
func GGUFName(out string) string {
	if filepath.Ext(out) == filepath.Ext(GGUFFile) {
		return out
	}
	return filepath.Join(out, GGUFFile)
}

// WriteGGUF writes parameters that a program holds as a file for llama.cpp, as [Export]
// does those of a checkpoint, without a tokenizer. Its matrices have a type of Types.
func WriteGGUF(p *model.Params, out, matrices string) (notes []string, err error) {
	t := narrow.Type(strings.ToUpper(matrices))
	if t.Size() == 0 {
		return nil, fmt.Errorf("unknown type %q; valid are %s", matrices, strings.Join(Types, ", "))
	}
	s := p.Spec()
	s.Guided = false
	part := func(name string, from int, shape []int, write func([]float32) error) error {
		return inPieces(p.Get(name)[from:][:safetensors.Tensor{Shape: shape}.Size()], write)
	}
	return writeGGUF(&merger{model: s, read: p.Read, part: part}, nil, out, t, func(int) {})
}

// writeGGUF writes a file for llama.cpp, with matrices of a type.
func writeGGUF(values *merger, tok token.Tokenizer, out string, matrices narrow.Type, progress func(done int)) (notes []string, err error) {
	s := values.model
	arch, err := architectureOf(s)
	if err != nil {
		return nil, err
	}
	metadata := arch.metadata(s, matrices)
	if notes, err = addTokenizer(&metadata, tok, s.Vocab); err != nil {
		return nil, err
	}
	if windowed(s) {
		notes = append(notes, fmt.Sprintf("llama.cpp has no window for %s: the file says a context of %d positions, in which the window hides nothing", arch.name, s.Window))
	}
	out = GGUFName(out)
	if err := os.MkdirAll(filepath.Dir(out), 0o777); err != nil {
		return nil, err
	}
	f, err := disk.New(out)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := gguf.Write(f, metadata, arch.tensors(s, values, matrices, progress)); err != nil {
		return nil, fmt.Errorf("%s: %w", out, err)
	}
	return notes, f.Commit()
}

// fileTypes are the file's numbers of the types that most tensors have.
var fileTypes = map[narrow.Type]uint32{narrow.F32: 0, narrow.F16: 1, narrow.BF16: 32}

// metadata is what the file says of the model.
func (a architecture) metadata(s spec.Model, matrices narrow.Type) (m gguf.Metadata) {
	m.Add("general.architecture", a.name)
	m.Add("general.type", "model")
	m.Add("general.name", s.Name)
	m.Add("general.file_type", fileTypes[matrices])
	add := func(key string, v any) { m.Add(a.name+"."+key, v) }
	count := func(key string, n int) { add(key, uint32(n)) }
	count("vocab_size", s.Vocab)
	if windowed(s) {
		count("context_length", s.Window)
	} else {
		count("context_length", s.MaxPositions)
	}
	count("embedding_length", s.Hidden)
	count("block_count", s.Layers)
	count("feed_forward_length", s.FFN)
	count("attention.head_count", s.QHeads)
	count("attention.head_count_kv", s.KVHeads)
	count("attention.key_length", s.HeadDim())
	count("attention.value_length", s.HeadDim())
	if a.norm == spec.RMSNorm {
		add("attention.layer_norm_rms_epsilon", float32(s.NormEps))
	} else {
		add("attention.layer_norm_epsilon", float32(s.NormEps))
	}
	if a.position == spec.RoPE {
		count("rope.dimension_count", s.HeadDim())
		add("rope.freq_base", float32(s.RotaryBase))
		if s.RotaryScaling.Type == spec.LinearScaling {
			add("rope.scaling.type", "linear")
			add("rope.scaling.factor", float32(s.RotaryScaling.Factor))
		} else {
			add("rope.scaling.type", "none")
		}
	}
	return m
}

// tensors are those of the file.
func (a architecture) tensors(s spec.Model, values *merger, matrices narrow.Type, progress func(done int)) (tensors []gguf.Tensor) {
	plain := dense(s)
	layout := a.family().layout(plain)
	add := func(name string, shape []int, stream func(write func([]float32) error) error) {
		t := narrow.F32 // sums take what is no matrix as float32
		if len(shape) == 2 && !strings.HasPrefix(name, "position_embd") {
			t = matrices
		}
		tensors = append(tensors, gguf.Tensor{Name: name, Shape: shape, Type: t, Stream: stream})
	}
	if s.RotaryScaling.Type == spec.Llama3Scaling {
		divisors := divisors(s)
		add("rope_freqs.weight", []int{len(divisors)}, func(write func([]float32) error) error { return write(divisors) })
	}
	for i, q := range plain.Params() {
		for _, p := range layout[q.Name] {
			add(p.name, p.shape, func(write func([]float32) error) error {
				defer progress(i + 1)
				if a.interleaved && (strings.Contains(p.name, ".attn_q.") || strings.Contains(p.name, ".attn_k.")) {
					write = interleave(s.HeadDim(), p, write)
				}
				return values.stream(q, p, byLayer(s, q, p, write))
			})
			// A bias that the architecture wants and the model lacks is zeros.
			if base, ok := strings.CutSuffix(p.name, ".weight"); ok && a.wants(s, base) {
				zeros := make([]float32, p.shape[0])
				add(base+".bias", []int{len(zeros)}, func(write func([]float32) error) error { return write(zeros) })
			}
		}
	}
	return tensors
}

// wants says that the architecture wants a bias behind a weight, and the model has none.
func (a architecture) wants(s spec.Model, weight string) bool {
	for _, b := range []struct {
		has   bool
		takes biases
		ends  []string
	}{{s.QKVBias, a.qkvBias, []string{".attn_qkv"}}, {s.OutputBias, a.outputBias, []string{".attn_output"}}, {s.FFNBias, a.ffnBias, []string{".ffn_up", ".ffn_down"}}} {
		if !b.has && b.takes == all && slices.ContainsFunc(b.ends, func(end string) bool { return strings.HasSuffix(weight, end) }) {
			return true
		}
	}
	return false
}

// divisors are those of the rotary frequencies.
func divisors(s spec.Model) []float32 {
	scaled := s.Frequencies()
	s.RotaryScaling = spec.RotaryScaling{}
	d := make([]float32, len(scaled))
	for i, f := range s.Frequencies() {
		d[i] = float32(f / scaled[i])
	}
	return d
}

// interleave passes on the rows of heads, those of the first half of a head in turn
// with those of the second.
func interleave(size int, p part, write func([]float32) error) func([]float32) error {
	columns := 1
	if len(p.shape) == 2 {
		columns = p.shape[1]
	}
	head, out := make([]float32, 0, size*columns), make([]float32, size*columns)
	return func(x []float32) error {
		for len(x) > 0 {
			n := min(len(x), cap(head)-len(head))
			head, x = append(head, x[:n]...), x[n:]
			if len(head) < cap(head) {
				break
			}
			for i := range size {
				from := i/2 + i%2*size/2
				copy(out[i*columns:(i+1)*columns], head[from*columns:])
			}
			head = head[:0]
			if err := write(out); err != nil {
				return err
			}
		}
		return nil
	}
}

// byLayer divides the queries by the layer's number where the model divides its scores
// so: their rows, or the weights of their norm.
func byLayer(s spec.Model, q spec.Param, p part, write func([]float32) error) func([]float32) error {
	rest, ok := strings.CutPrefix(q.Name, "model.layers.")
	number, base, _ := strings.Cut(rest, ".")
	layer, err := strconv.Atoi(number)
	if !ok || err != nil || !s.ScaleAttnByLayer || s.QKNorm && !strings.HasPrefix(base, "q_norm.") || !s.QKNorm && !strings.HasPrefix(base, "qkv_linear.") {
		return write
	}
	row := q.Size() / q.Shape[0]
	at, end := p.lo*row, s.AttnDim*row
	var buffer []float32
	return func(x []float32) error {
		buffer = append(buffer[:0], x...)
		for i := range buffer[:max(0, min(len(buffer), end-at))] {
			buffer[i] /= float32(layer + 1)
		}
		at += len(x)
		return write(buffer)
	}
}

// merger gives the parameters of the dense model that a model's amount to.
type merger struct {
	model spec.Model
	// read reads a parameter, part as many entries of one as a shape has, from one on.
	read func(dst []float32, q spec.Param) error
	part func(name string, from int, shape []int, write func([]float32) error) error
	// merged is the matrix that was last asked for, of which tensors are stretches.
	name   string
	merged []float32
}

// stream passes on a stretch of a parameter's rows.
func (m *merger) stream(q spec.Param, p part, write func([]float32) error) error {
	rest, _ := strings.CutPrefix(q.Name, "model.layers.")
	number, base, _ := strings.Cut(rest, ".")
	layer, err := strconv.Atoi(number)
	from := p.lo * q.Size() / max(1, q.Shape[0])
	if err != nil || m.model.Structure(layer).Kind == spec.Dense || base != "mlp.fc1.weight" && base != "mlp.fc2.weight" {
		return m.part(q.Name, from, p.shape, finite(p.name, write))
	}
	if m.name != q.Name {
		if err := m.merge(layer, base); err != nil {
			return fmt.Errorf("%s: %w", q.Name, err)
		}
		m.name = q.Name
	}
	return inPieces(m.merged[from:][:safetensors.Tensor{Shape: p.shape}.Size()], write)
}

// inPieces passes entries on, a piece at a time.
func inPieces(x []float32, write func([]float32) error) error {
	for len(x) > 0 {
		n := min(len(x), piece)
		if err := write(x[:n]); err != nil {
			return err
		}
		x = x[n:]
	}
	return nil
}

// merge makes the dense matrix of a layer's linear.
func (m *merger) merge(layer int, base string) error {
	m.merged = nil
	return model.WithNetwork(m.model, layer, m.read, func(w rt.FFNWeights) (err error) {
		f := m.model.LayerFFN(layer)
		linear, weights := f.FC1(), w.FC1
		if base == "mlp.fc2.weight" {
			linear, weights = f.FC2(), w.FC2
		}
		m.merged, err = rt.Merge(linear, weights, rt.Options{})
		return err
	})
}
