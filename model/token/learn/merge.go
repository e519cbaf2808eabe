package learn

import (
	"context"
	"slices"
)

// merger merges pairs of neighbouring symbols, the most frequent first.
//
// All distinct words lie one behind the other in symbols, a slot for each
// byte, with an edge around each. A symbol of several bytes is its id in the
// first of its slots and, in its last, where the first is; what is between is no
// symbol. Each pair has a list of the places where it begins, which is in order:
// all of them came up when the later one of its symbols did, from left to right.
type merger struct {
	symbols []int32 // ids; edge; or first(place)
	word    []int32 // of each place
	counts  []int64 // of each word
	next    []int32 // place in the list of the same pair, or -1
	prev    []int32 // likewise; detached where the place is in no list

	text []string // of each id

	index  map[pair]int32 // of pairs
	infos  []info
	free   []int32 // infos that are in no use
	queue  queue
	places []int32 // of the pair that is being merged
	grown  []int32 // pairs that became more frequent meanwhile
}

const (
	edge     = -1
	detached = -2
)

// first marks the last slot of a symbol that begins at a place.
func first(place int32) int32 { return -2 - place }

// pair is two ids; smaller ones are less, by the first id and then the second.
type pair uint64

func makePair(a, b int32) pair { return pair(uint64(a)<<32 | uint64(uint32(b))) }

func (p pair) split() (a, b int32) { return int32(p >> 32), int32(uint32(p)) }

// info is what is known of a pair.
type info struct {
	pair       pair
	count      int64
	head, tail int32 // of the list of its places, -1 where it is empty
	grown      bool  // in merger.grown
}

// newMerger takes the words, which are given up.
func newMerger(w *words, order [256]byte) *merger {
	n := len(w.text) + len(w.entries) + 1
	m := &merger{
		symbols: make([]int32, 0, n), word: make([]int32, n), next: make([]int32, n), prev: make([]int32, n),
		counts: make([]int64, len(w.entries)),
		index:  map[pair]int32{},
	}
	var id [256]int32
	for i, b := range order {
		id[b] = int32(i)
		m.text = append(m.text, string([]byte{b}))
	}
	m.symbols = append(m.symbols, edge)
	for i := range w.entries {
		e := &w.entries[i]
		m.counts[i] = e.count
		for _, b := range w.word(e) {
			m.word[len(m.symbols)] = int32(i)
			m.symbols = append(m.symbols, id[b])
		}
		m.symbols = append(m.symbols, edge)
	}
	for place, a := range m.symbols {
		m.prev[place] = detached
		if a >= 0 && m.symbols[place+1] >= 0 {
			m.link(int32(place), makePair(a, m.symbols[place+1]))
		}
	}
	m.queueGrown()
	return m
}

// link adds a place to a pair.
func (m *merger) link(place int32, p pair) {
	i, ok := m.index[p]
	if !ok {
		if n := len(m.free); n > 0 {
			i, m.free = m.free[n-1], m.free[:n-1]
		} else {
			i = int32(len(m.infos))
			m.infos = append(m.infos, info{})
		}
		m.infos[i] = info{pair: p, head: -1, tail: -1}
		m.index[p] = i
	}
	x := &m.infos[i]
	x.count += m.counts[m.word[place]]
	m.prev[place], m.next[place] = x.tail, -1
	if x.tail >= 0 {
		m.next[x.tail] = place
	} else {
		x.head = place
	}
	x.tail = place
	if !x.grown {
		x.grown = true
		m.grown = append(m.grown, i)
	}
}

// unlink takes a place from a pair.
func (m *merger) unlink(place int32, p pair) {
	i := m.index[p]
	x := &m.infos[i]
	x.count -= m.counts[m.word[place]]
	before, behind := m.prev[place], m.next[place]
	if before == detached {
		return
	}
	m.prev[place] = detached
	if before >= 0 {
		m.next[before] = behind
	} else {
		x.head = behind
	}
	if behind >= 0 {
		m.prev[behind] = before
	} else {
		x.tail = before
	}
}

// queueGrown puts pairs that became more frequent into the queue, and forgets
// those that came up and vanished within one merge.
func (m *merger) queueGrown() {
	for _, i := range m.grown {
		x := &m.infos[i]
		x.grown = false
		if x.head >= 0 {
			m.queue.push(candidate{x.count, x.pair})
		} else {
			m.forget(i)
		}
	}
	m.grown = m.grown[:0]
}

// forget makes room, where a pair is nowhere.
func (m *merger) forget(i int32) {
	delete(m.index, m.infos[i].pair)
	m.free = append(m.free, i)
}

// run merges until there are so many ids, or no pairs left, and returns the
// merges. A pair that would spell a forbidden text, or one that is too long, stays
// two symbols.
//
// No two merges give the same text: wherever symbols spell it between the same
// two edges, they became so by the same merges, the first of which took all of
// them.
func (m *merger) run(ctx context.Context, ids int, forbidden []string, progress func(ids int)) (merges [][2]int32, err error) {
	for len(m.text) < ids && len(m.queue) > 0 {
		top := m.queue[0]
		i, ok := m.index[top.pair]
		switch {
		case !ok:
			m.queue.pop()
			continue
		case m.infos[i].head < 0:
			m.queue.pop()
			m.forget(i)
			continue
		case m.infos[i].count != top.count:
			m.queue.replace(candidate{m.infos[i].count, top.pair})
			continue
		}
		m.queue.pop()
		a, b := top.pair.split()
		if len(m.text[a])+len(m.text[b]) > maxToken {
			continue
		}
		text := m.text[a] + m.text[b]
		if slices.Contains(forbidden, text) {
			continue
		}
		m.merge(i, a, b, int32(len(m.text)))
		m.text = append(m.text, text)
		m.queueGrown()
		merges = append(merges, [2]int32{a, b})
		if len(merges)%64 == 0 {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			progress(len(m.text))
		}
	}
	progress(len(m.text))
	return merges, nil
}

// merge makes one symbol of each pair of a and b, from the left in each word.
func (m *merger) merge(i, a, b, id int32) {
	x := &m.infos[i]
	m.places = m.places[:0]
	for place := x.head; place >= 0; place = m.next[place] {
		m.places = append(m.places, place)
		m.prev[place] = detached
	}
	x.head, x.tail = -1, -1
	lengthA, lengthB := int32(len(m.text[a])), int32(len(m.text[b]))
	for _, place := range m.places {
		middle := place + lengthA
		if m.symbols[place] != a || m.symbols[middle] != b {
			continue // one of three in a row, or more
		}
		end := middle + lengthB
		left, right := m.symbols[place-1], m.symbols[end]
		before := place - 1
		if left != edge {
			if left < 0 {
				before = -2 - left
				left = m.symbols[before]
			}
			m.unlink(before, makePair(left, a))
		}
		if right != edge {
			m.unlink(middle, makePair(b, right))
		}
		m.symbols[place] = id
		m.symbols[middle] = first(place)
		m.symbols[end-1] = first(place)
		if left != edge {
			m.link(before, makePair(left, id))
		}
		if right != edge {
			m.link(place, makePair(id, right))
		}
	}
	m.forget(i)
}
