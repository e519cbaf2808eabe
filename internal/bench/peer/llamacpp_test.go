package peer

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// llamaOrSkip skips where make llamacpp has built nothing, and says so.
func llamaOrSkip(t *testing.T, format kernel.FormatName) Program {
	t.Helper()
	t.Chdir(filepath.Join("..", "..", ".."))
	return oneOrSkip(t, "decode", format, "llamacpp")
}

// wide are models that llama.cpp has architectures for, of whole groups of its types.
func wide(i int) spec.Model {
	s := []spec.Model{
		{Name: "gates", Kind: spec.Dense, Act: spec.SwiGLU, Norm: spec.RMSNorm, NormEps: 1e-5, Position: spec.RoPE, KVHeads: 2},
		{Name: "structured", Kind: spec.LowRank, Rank: 32, Act: spec.GELU, Norm: spec.LayerNorm, NormEps: 1e-5, Position: spec.RoPE, QKVBias: true, OutputBias: true, FFNBias: true, TieEmbeddings: true, KVHeads: 4},
	}[i]
	s.Vocab, s.Hidden, s.FFN, s.Layers, s.AttnDim, s.QHeads, s.MaxPositions, s.RotaryBase, s.InitStd = 96, 128, 256, 2, 128, 4, 64, 10000, 0.2
	return s
}

// llama.cpp decodes what we do, as far as its types round: tokens of several sequences,
// each behind a prompt of its own.
func TestLlamaCPP(t *testing.T) {
	for _, c := range []struct {
		format kernel.FormatName
		model  int
		typ    string
		// part is how far logits may be off, in parts of the largest: in float32 what
		// keys and values in F16 and a table of GELU round; in the others what weights
		// and activations do, of which groups of 32 in 8 bits have three times the rms
		// error of bfloat16. That of 4 bits is fifty times as large, and bounds little.
		part float64
	}{
		{kernel.F32, 0, "all F32", 4e-3}, {kernel.F32, 1, "all F32", 4e-3}, {kernel.BF16, 1, "BF16", 4e-2}, {kernel.Int8, 0, "Q8_0", 15e-2}, {kernel.Int4, 1, "Q4_0", 0.5},
	} {
		t.Run(string(c.format)+"_"+wide(c.model).Name, func(t *testing.T) {
			llama, s := llamaOrSkip(t, c.format), wide(c.model)
			m, values := newModel(t, s, kernel.F32)
			const batch, context, steps = 3, 21, 4
			ids := make([]int32, batch*(context+1))
			for i := range ids {
				ids[i] = int32((i*i + 7*i) % s.Vocab)
			}
			d, err := decode.Of(m).NewDecoder(batch, context+steps)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			feed := func(lo, hi int) []float32 {
				var tokens [][]int32
				for i := range batch {
					tokens = append(tokens, ids[i*(context+1):][lo:hi])
				}
				logits, err := d.Feed([]int{0, 1, 2}, tokens)
				if err != nil {
					t.Fatal(err)
				}
				return logits
			}
			params := func() *model.Params {
				p := model.NewParams(s)
				for _, v := range values {
					copy(p.Get(v.Name), v.Data)
				}
				return p
			}
			before := temporary(t)
			p, err := llama.Start(Job{Mode: "decode", Model: &s, Params: params, Threads: 1, Batch: batch, Seq: context, Steps: steps, IDs: ids})
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			if left := temporary(t); !slices.Equal(left, before) {
				t.Errorf("files are left: %v", left)
			}
			if want := ", " + c.typ + ", keys f16, values f16"; !strings.HasSuffix(strings.ReplaceAll(p.Version, "(guessed) ", ""), want) {
				t.Errorf("version %q, want it to end in %q", p.Version, want)
			}
			compare := func(what string, got, want []float32) {
				t.Helper()
				if len(got) != len(want) {
					t.Fatalf("%s: llama.cpp has %d logits, we %d", what, len(got), len(want))
				}
				largest, off := 0.0, 0.0
				for i, v := range want {
					largest, off = max(largest, math.Abs(float64(v))), max(off, math.Abs(float64(got[i]-v)))
				}
				t.Logf("%s: off by %.3g of %.3g", what, off, largest)
				if !(off <= c.part*largest) {
					t.Errorf("%s: off by %.3g, the largest is %.3g", what, off, largest)
				}
			}
			for range 2 { // a prompt is filled in again behind tokens
				d.Truncate(0, 0)
				d.Truncate(1, 0)
				d.Truncate(2, 0)
				compare("the prompt", show(t, p, "prefill")[0], feed(0, context))
				for range steps {
					compare("a token", show(t, p, "decode")[0], feed(context, context+1))
				}
				for i := range batch {
					d.Truncate(i, context)
				}
				compare("a token in the first place again", show(t, p, "decode")[0], feed(context, context+1))
			}
			if seconds, err := p.Run("decode", 3); err != nil || !(seconds > 0) {
				t.Error(seconds, err)
			}
			if _, err := p.Run("train", 1); err == nil || !strings.Contains(err.Error(), "llamacpp: unknown operation train") {
				t.Error(err)
			}
		})
	}
}

// temporary lists the folders of files for llama.cpp.
func temporary(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(os.TempDir(), "sffn-llamacpp-*"))
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// What llama.cpp does not take is an error that names it, and leaves nothing behind.
func TestLlamaCPPRefuses(t *testing.T) {
	llama := llamaOrSkip(t, kernel.F32)
	before := temporary(t)
	for want, change := range map[string]func(s *spec.Model, job *Job){
		"llamacpp: gates: llama.cpp has no architecture for this model; the nearest is llama: position absolute, want rope": func(s *spec.Model, _ *Job) { s.Position = spec.Absolute },
		"llamacpp: gates sees a window of 16 positions, which a prompt of 21 tokens and 4 more leave":                       func(s *spec.Model, _ *Job) { s.Window = 16 },
		"llamacpp: llama.cpp takes 256 sequences at most, got 300":                                                          func(_ *spec.Model, job *Job) { job.Batch = 300 },
	} {
		s := wide(0)
		job := Job{Mode: "decode", Model: &s, Threads: 1, Batch: 1, Seq: 21, Steps: 4, IDs: make([]int32, 22),
			Params: func() *model.Params { return model.NewParams(s) }}
		change(&s, &job)
		if _, err := llama.Start(job); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if left := temporary(t); !slices.Equal(left, before) {
		t.Errorf("files are left: %v", left)
	}
}

// Where nothing is built an error says what builds it; a format that llama.cpp has no
// type for is named; training and networks know no llamacpp.
func TestLlamaCPPErrors(t *testing.T) {
	t.Chdir(t.TempDir())
	if _, _, err := FindPrograms("decode", kernel.F32, []string{"llamacpp"}); err == nil || !strings.Contains(err.Error(), "build it with make llamacpp") {
		t.Error(err)
	}
	if _, _, err := FindPrograms("decode", kernel.BF16W, []string{"llamacpp"}); err == nil || !strings.Contains(err.Error(), "no type that stands for bf16w; want f32, bf16, int8 or int4") {
		t.Error(err)
	}
	if _, _, err := FindPrograms("train", kernel.F32, []string{"llamacpp"}); err == nil || !strings.Contains(err.Error(), "want torch, torch-compile or all") {
		t.Error(err)
	}
	t.Setenv("PATH", t.TempDir())
	found, absent, err := FindPrograms("decode", kernel.F32, []string{"all"})
	if err != nil || len(found) != 0 || len(absent) != 3 || !strings.HasPrefix(absent[2].Error(), "llamacpp: ") {
		t.Error(found, absent, err)
	}
}
