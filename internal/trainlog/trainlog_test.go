package trainlog

import (
	"bytes"
	"testing"
	"time"

	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/train"
)

// A run has a line within seconds, however long a step or a micro-batch takes.
func TestProgress(t *testing.T) {
	var b bytes.Buffer
	l := New(&b, 3, 0)
	says := func(want string) {
		t.Helper()
		if b.String() != want {
			t.Errorf("the log says %q, want %q", b.String(), want)
		}
		b.Reset()
	}
	micro := func(step, done, of int) { l.Batch(train.Batch{Step: step, Steps: 3, Done: done, Of: of}) }
	start := time.Now().Add(term.LogEvery)
	l.tick(start)
	says("starting\n")
	l.last = time.Time{}
	micro(1, 1, 512)
	says("step 1/3  1 of 512 micro-batches\n") // a sign of life
	l.last = start.Add(time.Hour)              // just now, however slow this test is
	micro(1, 2, 512)
	says("")
	l.tick(l.last.Add(term.LogEvery / 2))
	says("")
	l.tick(l.last.Add(term.LogEvery))
	says("step 1/3  2 of 512 micro-batches\n")
	l.last = time.Now().Add(-term.LogEvery)
	micro(1, 3, 512)
	says("step 1/3  3 of 512 micro-batches\n")
	l.Step(train.Progress{Metrics: train.Metrics{Step: 1, Loss: 2, TokensPerSecond: 10}, Steps: 3})
	says("step 1/3  loss 2.0000  10 tokens/s  ETA 0s\n")
	l.tick(l.last.Add(term.LogEvery))
	says("step 2/3  at work\n")
	l.Batch(train.Batch{Step: 2, Steps: 3, Validation: true, Done: 7, Of: 9})
	l.tick(l.last.Add(term.LogEvery))
	says("step 2/3  7 of 9 validation batches\n")
	// One batch a step: steps say all.
	l.last = time.Now().Add(-term.LogEvery)
	micro(3, 1, 1)
	says("")
}
