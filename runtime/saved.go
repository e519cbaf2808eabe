package runtime

import (
	"fmt"
	"math"
)

// Saved holds what a layer's backward pass needs of its forward pass: the
// intermediates between factors and, for an FFN, the values before the
// activation. The activation itself is computed again, and so are intermediates
// that are wider than what they lie between. It serves any layer of
// the shape that it was made for, and the backward pass of the layer and rows
// that filled it last.
type Saved struct {
	rows    int
	widths  savedWidths
	z1, z2  []float32
	pre     []float32
	arena   Arena
	layer   *layer // which filled it last, of a network the first one
	current int    // rows that it filled
	fills   uint64 // counts
}

// savedWidths are the entries of a row that a layer saves: the intermediates of
// its linears, and the values before the activation.
type savedWidths struct{ z1, z2, pre int }

func (w savedWidths) sum() int { return w.z1 + w.z2 + w.pre }

// savedRows are the rows of a Saved from one on.
type savedRows struct{ z1, z2, pre []float32 }

// from is what was saved, from a row on.
func (s *Saved) from(row int) savedRows {
	w := s.widths
	return savedRows{s.z1[row*w.z1:], s.z2[row*w.z2:], s.pre[row*w.pre:]}
}

// first and second are the intermediates of the first and the second linear, none
// where nothing is saved.
func (s *Saved) first() []float32 {
	if s == nil {
		return nil
	}
	return s.z1
}

func (s *Saved) second() []float32 {
	if s == nil {
		return nil
	}
	return s.z2
}

// BytesPerRow is the memory that one row (token) takes.
func (s *Saved) BytesPerRow() int { return 4 * s.widths.sum() }

// Close frees the buffers.
func (s *Saved) Close() { s.arena.Close() }

func newSaved(rows int, w savedWidths) *Saved {
	if rows < 0 {
		panic(fmt.Sprintf("runtime: room for %d rows, want 0 or more", rows))
	}
	s := &Saved{rows: rows, widths: w}
	s.z1 = s.arena.Floats(rows * w.z1)
	s.z2 = s.arena.Floats(rows * w.z2)
	s.pre = s.arena.Floats(rows * w.pre)
	return s
}

// NoIntermediates is what a layer of one factor saves: nothing, for any
// number of rows. Layers and goroutines may share it.
func NoIntermediates() *Saved { return &Saved{rows: math.MaxInt} }

// fill checks that there is room for m rows of a layer that saves rows of such
// widths, and notes that it fills them.
func (s *Saved) fill(l *layer, w savedWidths, m int) {
	s.checkShape(l, w, m)
	if w.sum() > 0 {
		s.layer, s.current = l, m
		s.fills++
	}
}

// check checks that it was m rows of this layer that filled s last.
func (s *Saved) check(l *layer, w savedWidths, m int) {
	s.checkShape(l, w, m)
	if w.sum() == 0 {
		return
	}
	if s.layer != l {
		panic("runtime: " + l.name + ": saved was filled by another layer, or by none; the backward pass needs that of its own forward pass")
	}
	if s.current != m {
		panic(fmt.Sprintf("runtime: %s: saved holds %d rows, the backward pass has %d", l.name, s.current, m))
	}
}

func (s *Saved) checkShape(l *layer, w savedWidths, m int) {
	switch {
	case s == nil:
		panic("runtime: " + l.name + ": the backward pass needs the Saved of its forward pass, got nil")
	case s.widths != w:
		panic(fmt.Sprintf("runtime: %s: saved has room for rows of %+v entries, the layer's are %+v: it was made by another layer", l.name, s.widths, w))
	case m > s.rows:
		panic(fmt.Sprintf("runtime: %s: saved has room for %d rows, got %d", l.name, s.rows, m))
	}
}
