package specfile

import (
	"encoding/json"
	"math"
	"os"
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
		"gpt2s-blockdense-63":    {90167808, 37158912, 223069863936},
		"gpt2s-blockshuffle-63":  {90167808, 37158912, 223069863936},
		"gpt2s-lowrank-32":       {73947648, 20938752, 189850976256},
		"gpt2s-blockdense-32":    {73947648, 20938752, 189850976256},
		"gpt2s-blockshuffle-32":  {73947648, 20938752, 189850976256},
		"gpt2m-dense":            {335079424, 201326592, 788663369728},
		"gpt2m-lowrank-63":       {262727680, 128974848, 640486998016},
		"gpt2m-blockdense-63":    {255191040, 121438208, 625051959296},
		"gpt2m-blockshuffle-63":  {262727680, 128974848, 640486998016},
		"gpt2m-lowrank-32":       {202434560, 68681728, 517006688256},
		"gpt2m-blockdense-32":    {198666240, 64913408, 509289168896},
		"gpt2m-blockshuffle-32":  {202434560, 68681728, 517006688256},
		"gpt2l-dense":            {729111552, 452984832, 1646851522560},
		"gpt2l-lowrank-63":       {566320128, 290193408, 1313454686208},
		"gpt2l-blockdense-63":    {566320128, 290193408, 1313454686208},
		"gpt2l-blockshuffle-63":  {566320128, 290193408, 1313454686208},
		"gpt2l-lowrank-32":       {430660608, 154533888, 1035623989248},
		"gpt2l-blockdense-32":    {430660608, 154533888, 1035623989248},
		"gpt2l-blockshuffle-32":  {430660608, 154533888, 1035623989248},
		"gpt2xl-dense":           {1274138624, 805306368, 2814277320704},
		"gpt2xl-lowrank-63":      {984731648, 515899392, 2221571833856},
		"gpt2xl-blockdense-63":   {954585088, 485752832, 2159831678976},
		"gpt2xl-blockshuffle-63": {984731648, 515899392, 2221571833856},
		"gpt2xl-lowrank-32":      {743559168, 274726912, 1727650594816},
		"gpt2xl-blockdense-32":   {728485888, 259653632, 1696780517376},
		"gpt2xl-blockshuffle-32": {743559168, 274726912, 1727650594816},
		"gpt2m-gqa":              {335060992, 239075328, 788663369728},
		"gpt2m-wide":             {219443200, 148635648, 500363689984},
		"gpt2l-gqa":              {729080832, 547356672, 1646851522560},
		"gpt2l-wide":             {464428032, 339345408, 1027570925568},
	} {
		c, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		n := c.Model.Count()
		if got := [3]int64{n.Total, n.MLPWeights, int64(c.Model.ForwardFLOPs(1, 1024))}; got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

// Every configuration of the reference's file has a preset of its name, of its
// size and of its plan.
func TestPresetPlans(t *testing.T) {
	src, err := os.ReadFile("../spec/testdata/params_flops.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Configs []struct {
			Name  string
			Total int64 `json:"total_params"`
			FLOPs int64 `json:"flops_b1_s1024"`
			Plan  struct {
				LR     float64
				Batch  int `json:"global_batch"`
				Seq    int
				Steps  int     `json:"steps_total"`
				Guided int     `json:"guided_steps"`
				FLOPs  float64 `json:"train_flops_total"`
			}
		}
	}
	if err := json.Unmarshal(src, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Configs) < 50 {
		t.Fatalf("%d configurations", len(file.Configs))
	}
	for _, want := range file.Configs {
		c, err := Load(want.Name)
		if err != nil {
			t.Error(err)
			continue
		}
		p, tr := c.Course(), c.Train
		if c.Model.Count().Total != want.Total || int64(c.Model.ForwardFLOPs(1, 1024)) != want.FLOPs || tr.LR != want.Plan.LR ||
			tr.Batch*tr.Accumulate != want.Plan.Batch || tr.Seq != want.Plan.Seq || p.Steps != want.Plan.Steps || p.Guided != want.Plan.Guided ||
			math.Abs(p.FLOPs/want.Plan.FLOPs-1) > 1e-12 {
			t.Errorf("%s: %d parameters, %+v, %+v, want %+v", want.Name, c.Model.Count().Total, p, tr, want)
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
		{"recompute", "rank: 16}", "rank: 16}\ntrain: {recompute: 2}", "recompute: 2"},
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
	f.Add([]byte(bomb()))
	f.Add([]byte(deepMap(20)))
	f.Add([]byte(manyKeys(20)))
	f.Add([]byte("model: " + strings.Repeat("[", maxDepth)))
	f.Add([]byte("\ufeff---\n" + good + "train: {steps: 5.9, seed: !!int \"1.5\"}\n...\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		c, err := Parse("fuzz.yaml", src)
		if err == nil && c.Model.Validate() != nil {
			t.Error("an invalid model was accepted")
		}
	})
}
