package term

import (
	"bytes"
	"testing"
	"time"
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
	c.tick(start.Add(LogEvery))
	says("")
	c.tick(start.Add(firstLine + LogEvery))
	says("documents 5/30\n")
	c = &Counter{w: &b, name: "reading text"}
	c.tick(start)
	says("reading text\n")
}
