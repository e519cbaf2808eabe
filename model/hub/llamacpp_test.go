package hub

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/llamacpp"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/model/token"
	"github.com/structuredffn/sffn/model/token/hf"
	"github.com/structuredffn/sffn/model/token/learn"
	"github.com/structuredffn/sffn/model/token/pattern"
)

// llamaLogits compares llama.cpp's logits of a checkpoint with what they have to be,
// in each type of weights: in float32 as far as sums are rounded, in the others as far
// as llama.cpp rounds what it multiplies with them.
func llamaLogits(t *testing.T, c *decode.Checkpoint, ids []int32, want []float64) {
	t.Helper()
	largest := 0.0
	for _, v := range want {
		largest = max(largest, math.Abs(v))
	}
	for typ, part := range map[string]float64{"f32": single, "f16": 4e-3, "bf16": 4e-2} {
		name := filepath.Join(t.TempDir(), typ+".gguf")
		exportTo(t, c, name, Options{Format: "gguf", Type: typ})
		off := farthest(t, llamacpp.Start(t, name).Logits(ids), want)
		t.Logf("%s: off by %.3g of %.3g", typ, off, largest)
		if !(off <= part*largest) {
			t.Errorf("%s: off by %.3g, the largest is %.3g", typ, off, largest)
		}
	}
}

// llama.cpp computes the logits of what transformers wrote, and of models of one's own.
func TestLlamaCPPLogits(t *testing.T) {
	each(t, func(t *testing.T, dir string) {
		c, g := imported(t, dir), readGolden(t, dir)
		s := c.Config.Model
		_, err := architectureOf(s)
		if _, refused := refusedGGUF[filepath.Base(dir)]; refused {
			if err == nil {
				t.Error("llama.cpp's file is made of what TestGGUF says is refused")
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		if windowed(s) {
			g.ids, g.logits = g.ids[:s.Window], g.logits[:s.Window*s.Vocab]
		}
		llamaLogits(t, c, g.ids, g.logits)
	})
	for _, m := range own {
		t.Run("own-"+m.name, func(t *testing.T) {
			c := drawn(t, m.name, ownShape+m.model, nil)
			ids := make([]int32, 40)
			for i := range ids {
				ids[i] = int32((i*7 + i*i) % 40)
			}
			var want []float64
			for _, v := range logits(t, c, ids, false) {
				want = append(want, float64(v))
			}
			llamaLogits(t, c, ids, want)
		})
	}
}

// texts to encode: some that are hard, and Go source.
func texts(t *testing.T) (all []string) {
	all = []string{"", " ", "  ", "\n", "a", "Hello, world!", " Hello", "  two  spaces  ", "tabs\tand\r\nnew lines\n\n\n   indented",
		"I'll don't WE'RE it'S 'tis", "1 12 123 1234 12345 3.14159 1e-10", "Grüße, naïve café, Ångström", "日本語のテキスト。中文字符", "Привет, мир! Ἑλλάς",
		"👍🏽 👨‍👩‍👧 emoji", "func main() {\n\tfmt.Println(\"hi\")\n}\n", "a\u00a0b\u2003c\u3000d", "x²+y³=½", "٣٤٥ १२३", "!!!???...,,,", strings.Repeat("ab ", 200), strings.Repeat("=", 100),
		"<|endoftext|> in a text", "a<s>b", "<|begin_of_text|>hi<|end_of_text|>", "▁ is no space", "_under_score_", "\u200bzero\ufeff width"}
	for n := range 70 {
		all = append(all, strings.Repeat(" ", n)+"a"+strings.Repeat("\n", n)+"b"+strings.Repeat("\t", n))
	}
	files, err := filepath.Glob(filepath.Join("..", "..", "runtime", "*", "*.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files[:min(len(files), 40)] {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, string(text))
	}
	return all
}

// llama.cpp gives the ids of our tokenizers. SFFN_TOKENIZERS may name a folder with
// folders of more.
func TestLlamaCPPTokens(t *testing.T) {
	toks := map[string]token.Tokenizer{"byte": token.Bytes{}, "gpt2": hf.GPT2()}
	for name, expr := range map[string]string{"own": "", "own-llama3": pattern.Llama3, "own-qwen2": qwen2Pattern} {
		tok, err := hf.Parse(name, learned(t, expr))
		if err != nil {
			t.Fatal(err)
		}
		toks[name] = tok
	}
	if dir := os.Getenv("SFFN_TOKENIZERS"); dir != "" {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			tok, err := token.Open(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			toks[e.Name()] = tok
		}
	}
	for name, tok := range toks {
		t.Run(name, func(t *testing.T) {
			c := drawn(t, "x", fmt.Sprintf("vocab: %d, hidden: 8, ffn: 8, layers: 1, q_heads: 1, max_positions: 8, norm: rmsnorm, act: swiglu, bias: false", tok.Vocab()+3), tok)
			file := filepath.Join(t.TempDir(), "x.gguf")
			notes := exportTo(t, c, file, Options{Format: "gguf"})
			t.Logf("notes: %q", notes)
			p := llamacpp.Start(t, file)
			before, after := tok.Frame()
			same, tokens := 0, 0
			for _, text := range texts(t) {
				if (strings.HasPrefix(strings.ReplaceAll(text, "▁", " "), " ") || strings.Contains(text, "<s>")) && slices.ContainsFunc(notes, func(note string) bool { return strings.Contains(note, hf.SpacePrefix) }) {
					continue // as the note says
				}
				for _, ordinary := range []bool{false, true} {
					if !ordinary && !findsSpecial(tok) {
						continue
					}
					want := tok.Encode(nil, []byte(text))
					if ordinary {
						want = tok.EncodeOrdinary(nil, []byte(text))
					}
					got := p.Encode(text, ordinary)
					if want = slices.Concat(before, want, after); !slices.Equal(got, want) {
						t.Errorf("%.60q, ordinary %t:\n%v, want\n%v", text, ordinary, got[:min(len(got), 40)], want[:min(len(want), 40)])
						continue
					}
					same, tokens = same+1, tokens+len(want)
					if ordinary && !tok.Prefixed() {
						if got := p.Decode(want); got != text {
							t.Errorf("%.60q comes back as %.60q", text, got)
						}
					}
				}
			}
			t.Logf("%d texts of %d tokens have the same ids", same, tokens)
		})
	}
}

// findsSpecial says that a tokenizer finds special tokens in a text.
func findsSpecial(t token.Tokenizer) bool {
	special := t.Special(t.EndOfDocument())
	return slices.Equal(t.Encode(nil, []byte(special)), []int32{t.EndOfDocument()})
}

// learned is the tokenizer.json of 600 ids that some Go source gives.
func learned(t *testing.T, expr string) []byte {
	t.Helper()
	r, err := learn.Train(t.Context(), func(yield func([]byte, error) bool) {
		for _, text := range texts(t)[:40] {
			if !yield([]byte(text), nil) {
				return
			}
		}
	}, learn.Options{Vocab: 600, Pattern: expr, Special: []string{"<|endoftext|>"}})
	if err != nil {
		t.Fatal(err)
	}
	return r.Model.JSON()
}
