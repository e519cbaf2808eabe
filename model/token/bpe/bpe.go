// Package bpe applies the merges of byte-pair encoding to words.
package bpe

import (
	"fmt"
	"math"
	"math/bits"
	"math/rand/v2"
	"sync"
)

// A Merge says that the symbols Left and Right, where they stand beside each
// other, may become Into.
type Merge struct {
	Left, Right, Into int32
	// Rank orders merges: the lowest of a word comes first, and of several with
	// the same rank the leftmost.
	Rank int32
}

// Table holds merges by their pair of symbols. It is safe for concurrent use.
type Table struct {
	entries []entry // open addressing, a power of two of them
	shift   int
	factor  uint64 // of the hash; random, so that no file can make pairs collide
}

type entry struct {
	pair       uint64 // left<<32 | right, or free
	rank, into int32
}

const (
	free = math.MaxUint64 // no pair of symbols that are not negative
	none = math.MaxInt32  // the rank of a pair that is no merge
)

// New returns a table of merges, of 16 bytes for 0.25 to 0.5 of a merge. Of
// several merges of the same pair the last counts. Symbols are at least 0,
// ranks are below 1<<31 - 1.
func New(merges []Merge) (*Table, error) {
	log := max(bits.Len(uint(2*len(merges))), 1)
	t := &Table{entries: make([]entry, 1<<log), shift: 64 - log, factor: rand.Uint64() | 1}
	for i := range t.entries {
		t.entries[i].pair = free
	}
	for i, m := range merges {
		if min(m.Left, m.Right, m.Into) < 0 || m.Rank == none {
			return nil, fmt.Errorf("merge %d of symbols %d and %d into %d with rank %d: want symbols of at least 0 and a rank below %d", i, m.Left, m.Right, m.Into, m.Rank, none)
		}
		e := t.find(m.Left, m.Right)
		*e = entry{pair(m.Left, m.Right), m.Rank, m.Into}
	}
	return t, nil
}

func pair(left, right int32) uint64 { return uint64(uint32(left))<<32 | uint64(uint32(right)) }

// find returns the entry of the pair, or the free one where it would be.
func (t *Table) find(left, right int32) *entry {
	p := pair(left, right)
	for i := p * t.factor >> t.shift; ; i = (i + 1) & uint64(len(t.entries)-1) {
		if e := &t.entries[i]; e.pair == p || e.pair == free {
			return e
		}
	}
}

// Pair returns the rank of a pair of symbols and what they become; ok is false
// where they do not merge.
func (t *Table) Pair(left, right int32) (rank, into int32, ok bool) {
	rank, into = t.pair(left, right)
	return rank, into, rank != none
}

func (t *Table) pair(left, right int32) (rank, into int32) {
	p := pair(left, right)
	for i := p * t.factor >> t.shift; ; i = (i + 1) & uint64(len(t.entries)-1) {
		switch e := &t.entries[i]; e.pair {
		case p:
			return e.rank, e.into
		case free:
			return none, 0
		}
	}
}

// maxScanned is the longest word whose merges are found by looking through all
// of its pairs, which is quicker there than a heap.
const maxScanned = 64

// Apply merges word in place and returns what is left of it. It takes
// O(n log n) time for n symbols, and 28 n bytes for more than 64.
func (t *Table) Apply(word []int32) []int32 {
	switch {
	case len(word) < 2:
		return word
	case len(word) <= maxScanned:
		return t.scan(word)
	default:
		return t.heap(word)
	}
}

// scan looks for the lowest rank of a word again after each merge.
func (t *Table) scan(word []int32) []int32 {
	// ranks[i] and into[i] are of word[i] and word[i+1].
	var ranks, into [maxScanned]int32
	for i := range word[:len(word)-1] {
		ranks[i], into[i] = t.pair(word[i], word[i+1])
	}
	for pairs := len(word) - 1; pairs > 0; pairs-- {
		at, least := 0, int32(none)
		for i, r := range ranks[:pairs] {
			if r < least {
				at, least = i, r
			}
		}
		if least == none {
			break
		}
		word[at] = into[at]
		copy(word[at+1:], word[at+2:])
		word = word[:pairs]
		copy(ranks[at:pairs], ranks[at+1:pairs])
		copy(into[at:pairs], into[at+1:pairs])
		if at > 0 {
			ranks[at-1], into[at-1] = t.pair(word[at-1], word[at])
		}
		if at < pairs-1 {
			ranks[at], into[at] = t.pair(word[at], word[at+1])
		}
	}
	return word
}

// A node belongs to a symbol at the place where it began, in a list of those
// that are left.
type node struct {
	prev, next int32 // -1 and the word's length at the ends
	rank, into int32 // of this symbol and the next; none where they do not merge
}

// scratch is what one call of heap needs.
type scratch struct {
	nodes []node
	queue queue
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

// maxKept is the longest word whose scratch is kept for the next.
const maxKept = 1 << 16

// heap keeps the pairs that merge in order of rank and place.
func (t *Table) heap(word []int32) []int32 {
	n := len(word)
	s := scratches.Get().(*scratch)
	if cap(s.nodes) < n {
		s.nodes = make([]node, n)
		s.queue = make(queue, 0, n)
	}
	nodes, q := s.nodes[:n], s.queue[:0]
	for i := range nodes {
		rank, into := int32(none), int32(0)
		if i+1 < n {
			if rank, into = t.pair(word[i], word[i+1]); rank != none {
				q = append(q, key(rank, int32(i)))
			}
		}
		nodes[i] = node{int32(i - 1), int32(i + 1), rank, into}
	}
	q.order()
	for len(q) > 0 {
		k := q.pop()
		at := int32(k & math.MaxUint32)
		here := &nodes[at]
		// A key whose pair has changed since has another rank, or is as good as
		// the key of the pair that is there now. The rank of a symbol that is
		// gone is none.
		if key(here.rank, at) != k {
			continue
		}
		word[at] = here.into
		gone := &nodes[here.next]
		gone.rank = none
		here.next = gone.next
		here.rank = none
		if int(here.next) < n {
			nodes[here.next].prev = at
			if here.rank, here.into = t.pair(word[at], word[here.next]); here.rank != none {
				q.push(key(here.rank, at))
			}
		}
		if prev := here.prev; prev >= 0 {
			before := &nodes[prev]
			if before.rank, before.into = t.pair(word[prev], word[at]); before.rank != none {
				q.push(key(before.rank, prev))
			}
		}
	}
	left := 0
	for at := int32(0); int(at) < n; at = nodes[at].next {
		word[left] = word[at]
		left++
	}
	if n <= maxKept {
		s.queue = q
		scratches.Put(s)
	}
	return word[:left]
}

// key orders by rank and then by place.
func key(rank, at int32) uint64 { return uint64(uint32(rank)^1<<31)<<32 | uint64(uint32(at)) }

// queue is a heap of keys, the least first, with four children each: fewer
// levels, and a node's children share a cache line.
type queue []uint64

// order makes a heap of keys in any order.
func (q queue) order() {
	for i := (len(q) - 2) >> 2; i >= 0; i-- {
		q.sink(i, q[i])
	}
}

func (q *queue) push(k uint64) {
	*q = append(*q, k)
	h := *q
	i := len(h) - 1
	for i > 0 {
		up := (i - 1) >> 2
		if h[up] <= k {
			break
		}
		h[i] = h[up]
		i = up
	}
	h[i] = k
}

// pop returns the least key.
func (q *queue) pop() uint64 {
	h := *q
	least, last := h[0], h[len(h)-1]
	h = h[:len(h)-1]
	*q = h
	if len(h) > 0 {
		h.sink(0, last)
	}
	return least
}

// sink puts k where i is free, or below.
func (q queue) sink(i int, k uint64) {
	for {
		child := 4*i + 1
		if child >= len(q) {
			break
		}
		least := child
		for c := child + 1; c < min(child+4, len(q)); c++ {
			if q[c] < q[least] {
				least = c
			}
		}
		if q[least] >= k {
			break
		}
		q[i] = q[least]
		i = least
	}
	q[i] = k
}
