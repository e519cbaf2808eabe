package sentencepiece

import (
	"fmt"
	"math/bits"
)

// trie finds the keys that a text starts with. It is a double array: the child
// of a node for the byte b is the unit base^b if that has the label b.
type trie struct {
	units []unit
	root  int32 // the base of the root
}

// unit is a node of a trie. Bases are unique, so that a label tells whose child
// a unit is. Base 0 is of nodes without children: the first 256 units are empty.
type unit struct {
	base int32
	meta uint32 // label<<22 | value+1, or value 0 where no key ends
}

const (
	labelShift = 22
	valueMask  = 1<<labelShift - 1
	emptyUnit  = 256 << labelShift
	// maxNodes bounds a trie's memory: vocabularies of a million pieces have
	// three nodes a piece.
	maxNodes = 1 << 22
)

// newTrie returns a trie of keys, which are sorted, unique and not empty, with
// values of 0 to maxPieces.
func newTrie(keys []string, values []int32) (*trie, error) {
	b := builder{trie: &trie{}}
	b.block() // the empty one
	type span struct {
		lo, hi, depth int
		unit          int32 // -1 for the root
	}
	stack := []span{{0, len(keys), 0, -1}}
	var labels []byte
	var starts []int
	for nodes := 0; len(stack) > 0; {
		s := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		lo := s.lo
		if s.unit >= 0 && len(keys[lo]) == s.depth {
			b.units[s.unit].meta |= uint32(values[lo] + 1)
			lo++
		}
		labels, starts = labels[:0], starts[:0]
		for i := lo; i < s.hi; i++ {
			if c := keys[i][s.depth]; len(labels) == 0 || c != labels[len(labels)-1] {
				labels, starts = append(labels, c), append(starts, i)
			}
		}
		if len(labels) == 0 {
			continue
		}
		if nodes += len(labels); nodes > maxNodes {
			return nil, fmt.Errorf("the pieces are too long all in all: a tree of them has more than %d nodes", maxNodes)
		}
		base := b.place(labels)
		if s.unit >= 0 {
			b.units[s.unit].base = base
		} else {
			b.root = base
		}
		starts = append(starts, s.hi)
		for i, c := range labels {
			child := base ^ int32(c)
			b.units[child].meta = uint32(c) << labelShift
			stack = append(stack, span{starts[i], starts[i+1], s.depth + 1, child})
		}
	}
	return b.trie, nil
}

// A builder places nodes into blocks of 256 units. Few blocks are open, and one
// in which several nodes found no room is closed, so that building takes linear
// time.
type builder struct {
	*trie
	open []openBlock
}

type openBlock struct {
	start  int32
	taken  [4]uint64 // units
	bases  [4]uint64 // bases that are in use
	misses int
}

const (
	maxOpen   = 16
	maxMisses = 16
)

// block appends a block of empty units and returns where it starts.
func (b *builder) block() int32 {
	start := int32(len(b.units))
	for range 256 {
		b.units = append(b.units, unit{0, emptyUnit})
	}
	return start
}

// place returns a base of which the units for the labels were free.
func (b *builder) place(labels []byte) int32 {
	for i := 0; i < len(b.open); i++ {
		if base := b.open[i].place(labels); base >= 0 {
			return base
		}
		if b.open[i].misses++; b.open[i].misses == maxMisses {
			b.open = append(b.open[:i], b.open[i+1:]...)
			i--
		}
	}
	if len(b.open) == maxOpen {
		b.open = append(b.open[:0], b.open[1:]...)
	}
	b.open = append(b.open, openBlock{start: b.block()})
	return b.open[len(b.open)-1].place(labels)
}

func (o *openBlock) place(labels []byte) int32 {
	for w, taken := range o.taken {
	unit:
		for free := ^taken; free != 0; free &= free - 1 {
			at := byte(w<<6 + bits.TrailingZeros64(free))
			base := at ^ labels[0]
			if o.bases[base>>6]>>(base&63)&1 != 0 {
				continue
			}
			for _, c := range labels[1:] {
				if u := base ^ c; o.taken[u>>6]>>(u&63)&1 != 0 {
					continue unit
				}
			}
			o.bases[base>>6] |= 1 << (base & 63)
			for _, c := range labels {
				u := base ^ c
				o.taken[u>>6] |= 1 << (u & 63)
			}
			return o.start | int32(base)
		}
	}
	return -1
}

// step returns the base of the child of a node and the value of the key that
// ends there, or -1; ok is false where there is no child.
func (t *trie) step(base int32, c byte) (child, value int32, ok bool) {
	u := t.units[base^int32(c)]
	if u.meta>>labelShift != uint32(c) {
		return 0, -1, false
	}
	return u.base, int32(u.meta&valueMask) - 1, true
}

// longest returns the length and value of the longest key that text starts with,
// of the first most keys; 0 where there is none.
func (t *trie) longest(text []byte, most int) (n int, value int32) {
	base := t.root
	for i, c := range text {
		child, v, ok := t.step(base, c)
		if !ok {
			break
		}
		if v >= 0 {
			n, value = i+1, v
			if most--; most == 0 {
				break
			}
		}
		base = child
	}
	return n, value
}
