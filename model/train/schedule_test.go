package train

import (
	"encoding/json"
	"math"
	"os"
	"testing"
)

func TestLRSchedule(t *testing.T) {
	l := NewLRSchedule(1, 0.1, 0.1, 40)
	if l.Warmup != 4 || l.Min != 0.1 {
		t.Fatalf("%+v", l)
	}
	// Half-way through the cosine lies the mean of peak and minimum.
	for step, want := range map[int]float64{0: 0.25, 3: 1, 4: 1, 22: 0.55, 40: 0.1, 99: 0.1} {
		if got := l.At(step); math.Abs(got-want) > 1e-15 {
			t.Errorf("step %d: %v, want %v", step, got, want)
		}
	}
	for step := 4; step < 40; step++ {
		if l.At(step+1) >= l.At(step) {
			t.Errorf("the rate rises at step %d", step+1)
		}
	}
	// The reference cuts the double-precision product: 0.29 * 100 gives 28.
	if w := NewLRSchedule(1, 0, 0.29, 100).Warmup; w != 28 {
		t.Errorf("warm-up of %d steps, want 28", w)
	}
	if got := NewLRSchedule(1, 0.5, 0, 1).At(0); got != 1 {
		t.Errorf("a single step without warm-up runs at %v", got)
	}
}

func TestGuideSchedule(t *testing.T) {
	for _, c := range []GuideSchedule{GuideCosine, GuideLinear} {
		for step, want := range map[int]float64{0: 1, 5: 0.5, 10: 0, 11: 0} {
			if got := c.Ratio(step, 10); math.Abs(got-want) > 1e-15 {
				t.Errorf("%s: step %d of 10: %v, want %v", c, step, got, want)
			}
		}
		if c.Ratio(0, 0) != 0 {
			t.Errorf("%s: no guided phase has a ratio", c)
		}
	}
}

// The schedule of every configuration of the paper: the counts of the generator's
// test data, whose steps that package tests.
func TestPaperSchedules(t *testing.T) {
	text, err := os.ReadFile("../../gen/spec/testdata/params_flops.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Configs []struct {
			Name string
			Plan struct {
				LR     float64
				Steps  int     `json:"steps_total"`
				TMax   int     `json:"T_max"`
				Warmup int     `json:"warmup_steps"`
				EtaMin float64 `json:"eta_min"`
			}
		}
	}
	if err := json.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	if len(file.Configs) < 32 {
		t.Fatalf("%d configurations", len(file.Configs))
	}
	for _, c := range file.Configs {
		p := c.Plan
		if got, want := NewLRSchedule(p.LR, 0.1, 0.1, p.Steps), (LRSchedule{Peak: p.LR, Min: p.EtaMin, Warmup: p.Warmup, Total: p.TMax}); got != want {
			t.Errorf("%s: %+v, want %+v", c.Name, got, want)
		}
	}
}
