package gpu

import (
	"math"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/model/decode"
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
	c := golden(t, name)
	m := c.Model
	room := min(promptRoom, m.MaxPositions)
	opt := rt.Options{Pool: rt.NewPool(1)}
	defer opt.Pool.Close()
	p := weightsOf(t, c, opt.Pool)
	cpu, err := decode.Load(m, p.Read, opt)
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

// With graphs and without, a decoder leaves the same bits; a device that waits for
// each kernel records none.
func TestGraphs(t *testing.T) {
	c := golden(t, models[0])
	m := c.Model
	opt := rt.Options{Pool: rt.NewPool(1)}
	defer opt.Pool.Close()
	p := weightsOf(t, c, opt.Pool)
	ks, err := Kernels(m)
	must(t, err)
	d, _ := open(t)
	must(t, d.Load(ks))
	var want [][]float32
	for _, way := range []struct {
		name           string
		sync, noGraphs bool
		graphs         int
	}{{"graphs", false, false, 2}, {"no graphs", false, true, 0}, {"waiting", true, false, 0}} {
		d.Sync = way.sync
		dec, err := NewDecoder(d, p, 2, 16)
		must(t, err)
		dec.NoGraphs = dec.NoGraphs || way.noGraphs
		for i, f := range []struct {
			seqs   []int
			tokens [][]int32
		}{
			{[]int{0, 1}, [][]int32{ids(5, m.Vocab, 1), ids(2, m.Vocab, 2)}},
			{[]int{0, 1}, [][]int32{ids(1, m.Vocab, 3), ids(1, m.Vocab, 4)}},
			{[]int{1}, [][]int32{ids(1, m.Vocab, 5)}},
			{[]int{1, 0}, [][]int32{ids(1, m.Vocab, 6), ids(1, m.Vocab, 7)}},
		} {
			got, err := dec.Feed(f.seqs, f.tokens)
			must(t, err)
			if way.name == "graphs" {
				want = append(want, slices.Clone(got))
			} else if !slices.EqualFunc(got, want[i], func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }) {
				t.Errorf("%s: the logits of pass %d have other bits than with graphs", way.name, i)
			}
		}
		if len(dec.steps) != way.graphs {
			t.Errorf("%s: %d graphs were recorded, want %d", way.name, len(dec.steps), way.graphs)
		}
		dec.Close()
	}
}
