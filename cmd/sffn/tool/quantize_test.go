package tool

import (
	"strings"
	"testing"

	"github.com/structuredffn/sffn/model/calibrate"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// What has more bits than was asked for is marked, and below is why and what that takes.
func TestQuantizedPrint(t *testing.T) {
	r := quantized{Report: &calibrate.Report{
		Format: kernel.Int4, From: "run", Out: "run4", Bytes: 2000, Before: 8000,
		Params: []calibrate.ParamReport{
			{Name: "head", Format: kernel.Int8, Why: "of logits", More: 300, Entries: 600, Bytes: 600},
			{Name: "large", Format: kernel.Int4, Entries: 800, Bytes: 450, Weights: 0.08},
			{Name: "u", Format: kernel.BF16, Why: "small", More: 300, Entries: 200, Bytes: 400},
			{Name: "v", Format: kernel.BF16, Why: "small", More: 400, Entries: 275, Bytes: 550},
		},
		Formats: []calibrate.FormatReport{{Format: kernel.BF16, Params: 2, Entries: 475, Bytes: 950}},
	}}
	var b strings.Builder
	if err := r.print(&b); err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(b.String()), " ")
	for _, want := range []string{
		"head int8* 0.6 kB 8.00 0.00 %", "large int4 0.5 kB 4.50 8.00 %", "u bf16** 0.4 kB 16.00", "v bf16** ",
		"* more bits than int4, 0.3 kB more in all: of logits", "** more bits than int4, 0.7 kB more in all: small",
		"bf16 2 475 0.9 kB 16.00", "run4: 0.0 MB of weights, 25.0 % of the 0.0 MB of run",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}
