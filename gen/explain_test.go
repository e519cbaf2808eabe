package gen

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// The plans of two networks as text: a change of any decision shows here.
func TestExplain(t *testing.T) {
	for _, f := range []spec.FFN{
		{Kind: spec.BlockShuffle, Hidden: 768, FFN: 3072, Blocks: 4, Act: spec.GELU, Bias: true},
		{Kind: spec.LowRank, Hidden: 100, FFN: 72, Rank: 13, Act: spec.SwiGLU},
	} {
		explained(t, f.Name(), Package{Name: "p", FFNs: []spec.FFN{f}}.Explain())
	}
}

// A chain with a middle factor of many narrow blocks, 370 of 16 x 12.
func TestExplainAcross(t *testing.T) {
	block := func(name string, n, in, out int, then spec.Shuffle) spec.Factor {
		return spec.Factor{Param: name, Blocks: n, In: in, Out: out, Then: then}
	}
	var b bytes.Buffer
	explainLayer(&b, "layer", plan.NewChain(spec.Linear{In: 16 * 48, Out: 12 * 64}, []spec.Factor{
		block("first", 16, 48, 370, spec.Riffle(16, 370)), block("middle", 370, 16, 12, spec.Riffle(370, 12)), block("last", 12, 370, 64, spec.Shuffle{}),
	}, plan.Identity(16*48), plan.Identity(12*64), ""))
	got := b.String()
	i := strings.Index(got, "  layer.middle")
	explained(t, "across", []byte(got[i:i+strings.Index(got[i:], "  layer.last")]))
}

// Small factors keep more bits in formats of integers.
func TestExplainFormats(t *testing.T) {
	f := spec.FFN{Kind: spec.BLAST, Hidden: 768, FFN: 3072, Rank: 368, Blocks: 16, Act: spec.GELU}
	var b bytes.Buffer
	for _, line := range bytes.SplitAfter(Package{Name: "p", FFNs: []spec.FFN{f}, Formats: []kernel.FormatName{kernel.F32, kernel.BF16, kernel.Int8, kernel.Int4}}.Explain(), []byte("\n")) {
		if bytes.HasPrefix(line, []byte("in ")) || bytes.Contains(line, []byte("float32's")) {
			b.Write(line)
		}
	}
	explained(t, "formats", b.Bytes())
}

// explained compares a plan as text with the file of a name.
func explained(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.WriteFile(file, got, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != string(want) {
		t.Errorf("%s: the plan has changed; look at the difference of go test ./gen -run Explain -update\n%s", name, got)
	}
}
