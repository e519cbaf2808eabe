package gpu

import (
	"testing"

	"github.com/structuredffn/sffn/model"
	rt "github.com/structuredffn/sffn/runtime"
)

func TestDecode(t *testing.T) {
	for _, name := range models {
		t.Run(name, func(t *testing.T) { testDecode(t, name) })
	}
}

// A decoder of sequences of promptRoom tokens begins with a prompt of promptLess
// fewer, and shorter ones beside it: as many rows.
const (
	promptRoom = 80
	promptLess = 10
	promptAll  = promptRoom - promptLess + 3 + 1
)

func testDecode(t *testing.T, name string) {
	c := config(t, name)
	m := c.Model
	room := min(promptRoom, m.MaxPositions)
	opt := rt.Options{Pool: rt.NewPool(1)}
	defer opt.Pool.Close()
	p := weightsOf(t, c, opt.Pool)
	cpu, err := model.New(m, p, opt)
	must(t, err)
	want, err := cpu.NewDecoder(3, room)
	must(t, err)
	d, fake := open(t)
	ks, err := Kernels(m)
	must(t, err)
	must(t, d.Load(ks))
	dec, err := NewDecoder(d, p, 3, room)
	must(t, err)
	defer dec.Close()
	feed := func(seqs []int, tokens ...[]int32) {
		t.Helper()
		w, err := want.Feed(seqs, tokens)
		must(t, err)
		g, err := dec.Feed(seqs, tokens)
		must(t, err)
		near(t, "logits", g, w, roundings(c)/2)
	}
	feed([]int{0, 1, 2}, ids(room-promptLess, m.Vocab, 1), ids(3, m.Vocab, 2), ids(1, m.Vocab, 3))
	feed([]int{0, 1, 2}, ids(1, m.Vocab, 4), ids(1, m.Vocab, 5), ids(1, m.Vocab, 6))
	before := fake.Launches()
	feed([]int{0, 1, 2}, ids(1, m.Vocab, 7), ids(1, m.Vocab, 8), ids(1, m.Vocab, 9))
	feed([]int{2, 0}, ids(1, m.Vocab, 10), ids(1, m.Vocab, 11))
	feed([]int{1}, ids(4, m.Vocab, 12))
	if n := len(dec.steps); n != 2 {
		t.Errorf("%d graphs, want one for two sequences and one for three", n)
	}
	_ = before
}
