package train

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/config"
)

// Runs in bf16, plain, guided and recomputed, end with the same bits for any number of
// threads and where they are interrupted; their losses are near those of float32, and
// their checkpoints are float32.
func TestPrecision(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	exact := train(t, newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "exact"), 2, ""))
	for i, settings := range []string{"", "recompute: true, ", "guide: {max_step_ratio: 0.5, reduce_flop: true}, "} {
		begin := func(name string, threads int) *Run {
			r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, fmt.Sprint(name, i)), threads, "")
			r.Config = parse(t, strings.Replace(tiny, "steps: 30", settings+"precision: bf16, steps: 30", 1))
			return r
		}
		whole := train(t, begin("whole", 1))
		ctx, cancel := context.WithCancel(context.Background())
		r := begin("broken", 2)
		r.OnStep = func(p Progress) {
			if p.Step == 11 {
				cancel()
			}
		}
		if res, err := r.Train(ctx); err != nil || res.Step != 11 {
			t.Fatalf("interrupted: %+v, %v", res, err)
		}
		r = begin("broken", 3)
		r.Resume = true
		again := train(t, r)
		if !bytes.Equal(weights(t, again.Checkpoint), weights(t, whole.Checkpoint)) {
			t.Errorf("%q: interrupted, and on other numbers of threads, the run ends with other weights", settings)
		}
		cfg, _, err := checkpoint.Describe(whole.Checkpoint)
		if err != nil || cfg.Train.Precision != "bf16" {
			t.Errorf("%q: stated is %q, %v", settings, cfg.Train.Precision, err)
		}
		if i > 1 {
			continue
		}
		if len(weights(t, whole.Checkpoint)) < len(weights(t, exact.Checkpoint)) {
			t.Errorf("%q: the checkpoint is smaller than that of float32", settings)
		}
		if d := math.Abs(whole.ValLoss - exact.ValLoss); d == 0 || d > 0.05 {
			t.Errorf("%q: a loss of %v, %v in float32", settings, whole.ValLoss, exact.ValLoss)
		}
	}
	r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, "device"), 1, "")
	r.Config.Train.Precision = "bf16"
	if err := r.CheckDevice(); err == nil || !strings.Contains(err.Error(), "precision") {
		t.Errorf("on a device: %v", err)
	}
	_, err := config.Parse("tiny", []byte(strings.Replace(tiny, "steps: 30", "precision: fp8, steps: 30", 1)))
	if err == nil || !strings.Contains(err.Error(), "valid are float32, bf16") {
		t.Errorf("an unknown precision: %v", err)
	}
}
