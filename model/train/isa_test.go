package train

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// A checkpoint states what it was trained on. A run that goes on elsewhere says
// that its bits are others from there on; on the same, it says nothing.
func TestResumeElsewhere(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	run := filepath.Join(dir, "run")
	best, err := kernel.Default()
	if err != nil {
		t.Fatal(err)
	}
	// resume trains until a step, and returns what was said of the resumed run.
	resume := func(isa kernel.ISA, until int) (said string) {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		r := newRun(t, filepath.Join(dir, "data"), run, 1, isa)
		r.Resume = until > 2
		r.OnStep = func(p Progress) {
			if p.Step == until {
				cancel()
			}
		}
		r.OnNote = func(s string) {
			if strings.Contains(s, "warning") {
				said += s
			}
		}
		res, err := r.Train(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if isa == "" {
			isa = best
		}
		if _, s, err := checkpoint.Describe(res.Checkpoint); err != nil || s.ISA != string(isa) {
			t.Errorf("%s: stated is %q, %v", isa, s.ISA, err)
		}
		return said
	}
	other := kernel.Portable
	if best == other {
		other = "" // nothing else is here
	}
	for i, isa := range []kernel.ISA{"", best, other, other, best} {
		said := resume(isa, 2*(i+1))
		if warned := (i == 2 || i == 4) && other != ""; warned != strings.Contains(said, "was trained on ") || warned && !strings.Contains(said, "goes on on "+string(isa)) {
			t.Errorf("resuming on %q: %q", isa, said)
		}
	}
}
