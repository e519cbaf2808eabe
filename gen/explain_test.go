package gen

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
)

// The plans of two networks as text: a change of any decision shows here.
func TestExplain(t *testing.T) {
	for _, f := range []spec.FFN{
		{Kind: spec.BlockShuffle, Hidden: 768, FFN: 3072, Blocks: 4, Act: spec.GELU, Bias: true},
		{Kind: spec.LowRank, Hidden: 100, FFN: 72, Rank: 13, Act: spec.SwiGLU},
	} {
		name := filepath.Join("testdata", f.Name()+".txt")
		got := Package{Name: "p", FFNs: []spec.FFN{f}}.Explain()
		if *update {
			if err := os.WriteFile(name, got, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != string(want) {
			t.Errorf("%s: the plan has changed; look at the difference of go test ./gen -run Explain -update\n%s", f.Name(), got)
		}
	}
}
