package term

import (
	"bytes"
	"testing"
	"time"

	"github.com/structuredffn/sffn/model/train"
)

// What is counted has a line after a moment, and one every so often.
func TestCounter(t *testing.T) {
	var b bytes.Buffer
	says := func(want string) {
		t.Helper()
		if b.String() != want {
			t.Errorf("the log says %q, want %q", b.String(), want)
		}
		b.Reset()
	}
	c := NewCounter(&b, "documents", 30)
	close(c.end) // the clock is the test's
	start := time.Now().Add(time.Hour)
	c.next = start.Add(firstLine)
	c.Set(3)
	c.tick(start)
	says("")
	c.tick(start.Add(firstLine))
	says("documents 3/30\n")
	c.Set(5)
	c.tick(start.Add(logEvery))
	says("")
	c.tick(start.Add(firstLine + logEvery))
	says("documents 5/30\n")
	c = &Counter{w: &b, name: "reading text"}
	c.tick(start)
	says("reading text\n")
}

// A run has a line within seconds, however long a step or a micro-batch takes.
func TestProgress(t *testing.T) {
	var b bytes.Buffer
	l := NewTrainingLog(&b, 3, 0)
	says := func(want string) {
		t.Helper()
		if b.String() != want {
			t.Errorf("the log says %q, want %q", b.String(), want)
		}
		b.Reset()
	}
	micro := func(step, done, of int) { l.Batch(train.Batch{Step: step, Steps: 3, Done: done, Of: of}) }
	start := time.Now().Add(logEvery)
	l.tick(start)
	says("starting\n")
	l.last = time.Time{}
	micro(1, 1, 512)
	says("step 1/3  1 of 512 micro-batches\n") // a sign of life
	l.last = start.Add(time.Hour)              // just now, however slow this test is
	micro(1, 2, 512)
	says("")
	l.tick(l.last.Add(logEvery / 2))
	says("")
	l.tick(l.last.Add(logEvery))
	says("step 1/3  2 of 512 micro-batches\n")
	l.last = time.Now().Add(-logEvery)
	micro(1, 3, 512)
	says("step 1/3  3 of 512 micro-batches\n")
	l.Step(train.Progress{Metrics: train.Metrics{Step: 1, Loss: 2, TokensPerSecond: 10}, Steps: 3})
	says("step 1/3  loss 2.0000  10 tokens/s  ETA 0s\n")
	l.tick(l.last.Add(logEvery))
	says("step 2/3  at work\n")
	l.Batch(train.Batch{Step: 2, Steps: 3, Validation: true, Done: 7, Of: 9})
	l.tick(l.last.Add(logEvery))
	says("step 2/3  7 of 9 validation batches\n")
	// One batch a step: steps say all.
	l.last = time.Now().Add(-logEvery)
	micro(3, 1, 1)
	says("")
}
