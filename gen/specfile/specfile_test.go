package specfile

import (
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
)

func TestPresets(t *testing.T) {
	for _, name := range Presets() {
		c, err := Load(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if c.Model.Name != name {
			t.Errorf("%s calls itself %s", name, c.Model.Name)
		}
	}
}

// The paper's counts, from the table of its configurations.
func TestCounts(t *testing.T) {
	for name, want := range map[string][3]int64{
		"gpt2s-dense":            {109632000, 56623104, 262932529152},
		"gpt2s-lowrank-63":       {90167808, 37158912, 223069863936},
		"gpt2s-blockdense-32":    {73947648, 20938752, 189850976256},
		"gpt2m-blockdense-63":    {255191040, 121438208, 625051959296},
		"gpt2xl-blockshuffle-32": {743559168, 274726912, 1727650594816},
		"gpt2m-wide":             {219443200, 148635648, 500363689984},
		"gpt2l-gqa":              {729080832, 547356672, 1646851522560},
	} {
		c, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		n := c.Model.Count()
		if got := [3]int64{n.Total, n.MLPWeights, c.Model.ForwardFLOPs(1, 1024)}; got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

// What a guide section leaves out, and what a run of it comes to.
func TestGuide(t *testing.T) {
	c, err := Parse("g", []byte(good+"train: {steps: 10, guide: {max_step_ratio: 0.29, mode: fixedflop}}"))
	if err != nil {
		t.Fatal(err)
	}
	if want := (Guide{MaxStepRatio: 0.29, Schedule: "cosine", Mode: "fixedflop", Start: "merged"}); c.Train.Guide != want || !c.Model.Guided {
		t.Errorf("%+v, want %+v", c.Train.Guide, want)
	}
	if n := c.Course(); n.Steps != 12 || n.Guided != 2 || n.Repeated != 2 {
		t.Errorf("%+v", n)
	}
	if c, err = Parse("g", []byte(good)); err != nil || c.Train.Guide.On() || c.Model.Guided {
		t.Errorf("guided without a guide section: %+v, %v", c, err)
	}
}

const good = `model:
  vocab: 257
  hidden: 64
  ffn: 256
  layers: 2
  q_heads: 4
  mlp: {kind: lowrank, rank: 16}
`

func TestErrors(t *testing.T) {
	for _, tt := range []struct{ name, old, new, want string }{
		{"unknown field", "layers: 2", "layers: 2\n  depth: 3", "bad.yaml:6:3: unknown field \"depth\""},
		{"duplicate key", "layers: 2", "layers: 2\n  layers: 3", "bad.yaml:6:3: mapping key \"layers\" already defined at [5:3]"},
		{"zero", "hidden: 64", "hidden: 0", "bad.yaml:3:11: hidden: 0 is out of range, want 1 to 1048576"},
		{"negative", "ffn: 256", "ffn: -1", "bad.yaml:4:8: ffn: -1 is out of range"},
		{"overflow", "vocab: 257", "vocab: 99999999999999999999", "vocab"},
		{"rank", "rank: 16", "rank: 65", "bad.yaml:7:30: rank: 65 is out of range for a 64 -> 256 lowrank layer, want 1 to 64"},
		{"no rank", ", rank: 16", "", "rank: 0 is out of range"},
		{"blocks on lowrank", "rank: 16", "rank: 16, blocks: 2", "blocks: a lowrank layer has none, got 2"},
		{"blocks divide", "kind: lowrank, rank: 16", "kind: blockshuffle, blocks: 3", "blocks: 3 does not divide ffn 256; valid are 1, 2, 4"},
		{"kind", "lowrank", "lowrnk", "unknown kind \"lowrnk\"; valid are dense"},
		{"heads", "q_heads: 4", "q_heads: 5", "q_heads: 5 does not divide attn_dim 64"},
		{"seq", "rank: 16}", "rank: 16}\ntrain: {seq: 5000}", "seq: 5000 is more than the model's max_positions 1024"},
		{"guide without structure", "mlp: {kind: lowrank, rank: 16}", "mlp: {kind: dense}\ntrain:\n  guide: {mode: fixedflop}", "bad.yaml:9:10: guide: no layer of the model is structured"},
		{"guide's ratio", "rank: 16}", "rank: 16}\ntrain:\n  guide: {max_step_ratio: 1.5}", "bad.yaml:9:27: guide.max_step_ratio: 1.5 is out of range"},
		{"guide's schedule", "rank: 16}", "rank: 16}\ntrain:\n  guide:\n    schedule: step", "bad.yaml:10:15: guide.schedule: unknown schedule \"step\"; valid are cosine, linear"},
		{"guide's field", "rank: 16}", "rank: 16}\ntrain:\n  guide:\n    ratio: 1", "bad.yaml:10:5: unknown field \"ratio\""},
		{"wrong type", "hidden: 64", "hidden: many", "hidden: many"},
		{"empty section", good, "model:\n", "is empty"},
		{"empty", good, "", "the file is empty"},
		{"no YAML", good, "model: [", "bad.yaml:1:8: sequence end token"},
	} {
		src := strings.Replace(good, tt.old, tt.new, 1)
		if src == good {
			t.Fatalf("%s: nothing replaced", tt.name)
		}
		_, err := Parse("bad.yaml", []byte(src))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want it to contain %q", tt.name, err, tt.want)
		}
	}
}

func TestWarning(t *testing.T) {
	f := spec.FFN{Kind: spec.LowRank, Hidden: 64, FFN: 64, Rank: 40, Act: spec.GELU}
	if len(f.Warnings()) != 2 {
		t.Errorf("rank 40 of 64 saves nothing, got %v", f.Warnings())
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("model: {vocab: 1}"))
	f.Add([]byte("model: &a {mlp: *a}"))
	f.Fuzz(func(t *testing.T, src []byte) {
		c, err := Parse("fuzz.yaml", src)
		if err == nil && c.Model.Validate() != nil {
			t.Error("an invalid model was accepted")
		}
	})
}
