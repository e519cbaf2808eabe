package specfile

import (
	"fmt"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
)

func TestPresets(t *testing.T) {
	for _, name := range Presets() {
		m, err := Load(name)
		if err != nil {
			t.Error(err)
			continue
		}
		if m.Name != name {
			t.Errorf("%s calls itself %s", name, m.Name)
		}
	}
}

// The paper's counts, from the table of its configurations.
func TestCounts(t *testing.T) {
	for name, want := range map[string][3]int64{
		"gpt2s-dense":           {109632000, 56623104, 262932529152},
		"gpt2s-lowrank-63":      {90167808, 37158912, 223069863936},
		"gpt2s-blockdense-63":   {90167808, 37158912, 223069863936},
		"gpt2s-blockshuffle-63": {90167808, 37158912, 223069863936},
		"gpt2s-lowrank-32":      {73947648, 20938752, 189850976256},
		"gpt2s-blockdense-32":   {73947648, 20938752, 189850976256},
		"gpt2s-blockshuffle-32": {73947648, 20938752, 189850976256},
		// r (n0 I + m1 O) and r (I + O + b1 b2) weights a layer.
		"gpt2s-btt-63":           {90167808, 37158912, 223069863936},
		"gpt2s-btt-32":           {73947648, 20938752, 189850976256},
		"gpt2s-blast-63":         {90888704, 37879808, 224546258944},
		"gpt2s-blast-32":         {73587200, 20578304, 189112778752},
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
		m, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		n := m.Count()
		if got := [3]int64{n.Total, n.MLPWeights, int64(m.ForwardFLOPs(1, 1024))}; got != want {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
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

// The section train is not read, but for what no section may have and for its
// guides.
func TestTrainUnread(t *testing.T) {
	for _, tt := range []struct{ train, want string }{
		{"train: {steps: no number, unknown: [1, 2], lr: }", ""},
		{"train: {steps: 1, steps: 2}", "f.yaml:8:19: mapping key \"steps\" already defined at [8:9]"},
		{"train: {steps: 1\n", "f.yaml:8:"},
		{"train: {a: &b 1}", "anchors and aliases (&, *) are not taken"},
		{"train:\n", "f.yaml:8:1: train: is empty"},
		{"trian: {}", "f.yaml:8:1: unknown field \"trian\""},
	} {
		_, err := Parse("f.yaml", []byte(good+tt.train))
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %q", tt.train, err, tt.want)
		}
	}
	for train, want := range map[string]bool{"": false, "train: {steps: 5}": false, "train: {guide: {}}": true, "train:\n  steps: 5\n  guide:\n    mode: fixedstep\n": true} {
		if m, err := Parse("f.yaml", []byte(good+train)); err != nil || m.Guided != want {
			t.Errorf("%q: guided %v, %v, want %v", train, m.Guided, err, want)
		}
	}
}

// What sections and lists make of the layers.
func TestLayers(t *testing.T) {
	four := strings.Replace(good, "layers: 2", "layers: 4", 1)
	for mlp, want := range map[string]string{
		"{kind: dense}":             "0-3 dense",
		"{kind: lowrank, rank: 16}": "0 dense, 1-3 lowrank_r16",
		"{kind: lowrank, rank: 16, first_layer_dense: false}":                                                                    "0-3 lowrank_r16",
		"{kind: lowrank, rank: 16, except: [{layers: 2-3, kind: dense}]}":                                                        "0 dense, 1 lowrank_r16, 2-3 dense",
		"{kind: lowrank, rank: 16, except: [{layers: 0, kind: lowrank, rank: 4}]}":                                               "0 lowrank_r4, 1-3 lowrank_r16",
		"{kind: lowrank, rank: 16, except: [{layers: 0, kind: lowrank, rank: 16}]}":                                              "0-3 lowrank_r16",
		"{kind: lowrank, rank: 16, except: []}":                                                                                  "0 dense, 1-3 lowrank_r16",
		"{rank: 0, except: [{layers: \"3\", kind: blockdense, rank: 8, blocks: 4}, {layers: 1, kind: blockshuffle, blocks: 2}]}": "0 dense, 1 blockshuffle_b2, 2 dense, 3 blockdense_r8_b4",
		"[{kind: dense}, {kind: lowrank, rank: 16}, {layers: 2-3, kind: blockshuffle, blocks: 4}]":                               "0 dense, 1 lowrank_r16, 2-3 blockshuffle_b4",
		"[{layers: 1-3, kind: lowrank, rank: 16}, {layers: 0, kind: dense}]":                                                     "0 dense, 1-3 lowrank_r16",
		"[{layers: 0-3, kind: lowrank, rank: 16}]":                                                                               "0-3 lowrank_r16",
		"\n    - kind: dense\n    - {layers: 1-2, kind: lowrank, rank: 16}\n    - kind: dense":                                   "0 dense, 1-2 lowrank_r16, 3 dense",
	} {
		m, err := Parse("f.yaml", []byte(strings.Replace(four, "{kind: lowrank, rank: 16}", mlp, 1)))
		if err != nil {
			t.Errorf("%s: %v", mlp, err)
			continue
		}
		var got []string
		for _, s := range m.Stretches() {
			layers := fmt.Sprint(s.First)
			if s.Last > s.First {
				layers += fmt.Sprintf("-%d", s.Last)
			}
			got = append(got, layers+" "+m.Structure(s.First).String())
		}
		if text := strings.Join(got, ", "); text != want {
			t.Errorf("%s: %s, want %s", mlp, text, want)
		}
	}
}

// Errors of single layers name the entry and its field.
func TestLayerErrors(t *testing.T) {
	for mlp, want := range map[string]string{ // the error points at ^
		"{kind: dense, except: [{layers: 1, kind: lowrank, rank: ^65}]}":                            "mlp.except[0].rank: 65 is out of range for a 64 -> 256 lowrank layer, want 1 to 64",
		"{kind: dense, except: [{layers: 0, kind: dense}, ^{layers: 1, kind: lowrank}]}":            "mlp.except[1].rank: 0 is out of range",
		"{kind: dense, except: [{layers: 1, kind: ^lowrnk}]}":                                       "mlp.except[0].kind: unknown kind \"lowrnk\"; valid are dense",
		"{kind: dense, except: [^{layers: 1}]}":                                                     "mlp.except[0].kind: unknown kind \"\"; valid are dense",
		"{kind: dense, except: [{layers: 1, kind: blockshuffle, blocks: ^3}]}":                      "mlp.except[0].blocks: 3 does not divide ffn 256; valid are",
		"{kind: dense, except: [{layers: 1, kind: dense, rank: ^3}]}":                               "mlp.except[0].rank: a dense layer has none, got 3; leave it out",
		"{kind: dense, except: [{layers: ^2, kind: lowrank, rank: 3}]}":                             "mlp.except[0].layers: 2 is out of range; the model has layers 0 to 1",
		"{kind: dense, except: [{layers: ^1-2, kind: lowrank, rank: 3}]}":                           "mlp.except[0].layers: 1-2 is out of range",
		"{kind: dense, except: [{layers: ^1-0, kind: lowrank, rank: 3}]}":                           "mlp.except[0].layers: 1-0 is out of range",
		"{kind: dense, except: [{layers: ^last, kind: lowrank, rank: 3}]}":                          "mlp.except[0].layers: \"last\" names no layers; want a layer such as 3, or several such as 0-3",
		"{kind: dense, except: [^{kind: lowrank, rank: 3}]}":                                        "mlp.except[0].layers: \"\" names no layers",
		"{kind: dense, except: [{layers: ^99999999999999999999, kind: dense}]}":                     "layers: 99999999999999999999 is a number, want a layer such as 3",
		"{kind: dense, except: [{layers: ^1.5, kind: dense}]}":                                      "layers: 1.5 is a number, want a layer such as 3",
		"{kind: dense, except: [{layers: 0-1, kind: dense}, {layers: ^1, kind: lowrank, rank: 3}]}": "mlp.except[1].layers: layer 1 is in mlp.except[0], too; want it once",
		"{kind: dense, except: ^{layers: 1, kind: dense}}":                                          "except: the value is no list, want a list",
		"{kind: dense, except: [{layers: 1, kind: dense, ^depth: 3}]}":                              "unknown field \"depth\"",
		"{kind: dense, except: [{layers: 1, kind: lowrank, rank: ^many}]}":                          "rank: many is no whole number",
		"{kind: dense, except: [{layers: 1, kind: lowrank, ^rank: }]}":                              "rank: is empty",
		"{kind: lowrank, rank: 65, except: [{layers: 1, kind: lowrank, rank: ^66}]}":                "mlp.except[0].rank: 66 is out of range",
		"{kind: lowrank, rank: ^65, except: [{layers: 1, kind: lowrank, rank: 66}]}":                "rank: 65 is out of range",
		"[{kind: dense}, {kind: lowrank, rank: ^65}]":                                               "mlp[1].rank: 65 is out of range for a 64 -> 256 lowrank layer, want 1 to 64",
		"^[{kind: dense}]": "mlp: layer 1 is in no entry of the list; want each of 0 to 1",
		"^[]":              "mlp: layer 0 is in no entry",
		"[{kind: dense}, {kind: dense}, ^{kind: dense}]": "mlp[2].layers: 2 is out of range; the model has layers 0 to 1",
		"[{kind: dense}, {layers: ^0, kind: dense}]":     "mlp[1].layers: layer 0 is in mlp[0], too; want it once",
		"[{kind: dense}, {^first_layer_dense: true}]":    "unknown field \"first_layer_dense\"",
		"[^dense, dense]": "",
		"^dense":          "",
	} {
		before, after, _ := strings.Cut(mlp, "^")
		_, err := Parse("f.yaml", []byte(strings.Replace(good, "{kind: lowrank, rank: 16}", before+after, 1)))
		want := fmt.Sprintf("f.yaml:7:%d: %s", len("  mlp: ")+len(before)+1, want)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", mlp, err, want)
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
	f.Add([]byte(strings.Replace(good, "rank: 16", "rank: 16, except: [{layers: 1, kind: dense}]", 1)))
	f.Add([]byte(strings.Replace(good, "{kind: lowrank, rank: 16}", "[{kind: dense}, {layers: 1-1, kind: lowrank, rank: 3}]", 1)))
	f.Add([]byte(bomb()))
	f.Add([]byte(deepMap(20)))
	f.Add([]byte(manyKeys(20)))
	f.Add([]byte("model: " + strings.Repeat("[", maxDepth)))
	f.Add([]byte("\ufeff---\n" + good + "train: {steps: 5.9, seed: !!int \"1.5\"}\n...\n"))
	f.Fuzz(func(t *testing.T, src []byte) {
		m, err := Parse("fuzz.yaml", src)
		if err == nil && m.Validate() != nil {
			t.Error("an invalid model was accepted")
		}
	})
}
