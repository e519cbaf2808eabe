package sentencepiece

import (
	"cmp"
	"container/heap"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"
	"unicode/utf8"

	"github.com/structuredffn/sffn/model/token/bpe"
)

// maxMerges bounds the memory of merges: vocabularies in use have two or three
// for each piece.
const maxMerges = 1 << 22

// pairModel joins characters to pieces, the pair whose piece has the highest
// score first. It is also the char model: that has no merges.
//
// Symbols are the ids of pieces, and behind these the characters that are no
// pieces but parts of some.
type pairModel struct {
	merges  *bpe.Table
	chars   [(utf8.MaxRune + 1) >> 8]*[256]int32 // symbol and one of a character; 0 is none
	symbols *trie                                // the user-defined ones, which are never joined with others
	results []int32                              // what a symbol becomes: its id, or isUnknown or isUnused
	pieces  []piece
	parts   []rune // the characters behind the pieces
	// splits are of unused pieces: the two symbols that they are cut into again,
	// where these are always the same.
	splits map[int32][2]int32
	// ambiguous says that they are not: then those count that met last in the
	// text, also where they were not joined.
	ambiguous bool
}

const (
	isUnknown = -1
	isUnused  = -2
	// maxDepth is how often parts of an unused piece are cut again.
	maxDepth = 100
)

func newPairModel(pieces []piece, symbols *trie, merge bool) (*pairModel, error) {
	m := &pairModel{pieces: pieces, symbols: symbols, splits: map[int32][2]int32{}}
	type symbol struct {
		text string
		id   int32
	}
	var all []symbol
	setChar := func(r rune, id int32) {
		page := &m.chars[r>>8]
		if *page == nil {
			*page = new([256]int32)
		}
		(*page)[r&255] = id + 1
	}
	m.results = make([]int32, len(pieces))
	for i, p := range pieces {
		id := int32(i)
		m.results[i] = isUnknown
		if p.kind.reserved() || p.text == "\x00" {
			continue
		}
		m.results[i] = id
		if p.kind == unused {
			m.results[i] = isUnused
		}
		r, size := utf8.DecodeRuneInString(p.text)
		if size == len(p.text) {
			if p.kind == unused {
				m.results[i] = isUnknown
			}
			setChar(r, id)
		} else if !merge {
			continue
		}
		all = append(all, symbol{p.text, id})
	}
	if !merge {
		var err error
		m.merges, err = bpe.New(nil)
		return m, err
	}
	for _, s := range all[:len(all):len(all)] {
		first, size := utf8.DecodeRuneInString(s.text)
		if size == len(s.text) {
			continue
		}
		last, _ := utf8.DecodeLastRuneInString(s.text)
		for _, r := range []rune{first, last} {
			if m.char(r) < 0 {
				id := int32(len(m.results))
				setChar(r, id)
				m.results = append(m.results, isUnknown)
				m.parts = append(m.parts, r)
				all = append(all, symbol{string(r), id})
			}
		}
	}

	// The longest proper prefix and suffix of each symbol that are symbols too
	// lead to all of them; where the lengths of one and one make the symbol's, the
	// two merge.
	texts := make([]string, len(m.results))
	for _, s := range all {
		texts[s.id] = s.text
	}
	parents := func(is func(text, part string) bool) []int32 {
		longest := make([]int32, len(texts))
		var stack []int32
		for _, s := range all {
			for len(stack) > 0 && !is(s.text, texts[stack[len(stack)-1]]) {
				stack = stack[:len(stack)-1]
			}
			longest[s.id] = -1
			if len(stack) > 0 {
				longest[s.id] = stack[len(stack)-1]
			}
			stack = append(stack, s.id)
		}
		return longest
	}
	slices.SortFunc(all, func(a, b symbol) int { return strings.Compare(a.text, b.text) })
	prefixes := parents(strings.HasPrefix)
	slices.SortFunc(all, func(a, b symbol) int { return compareFromEnd(a.text, b.text) })
	suffixes := parents(strings.HasSuffix)
	rank := ranks(pieces)
	var merges []bpe.Merge
	var left, right []int32
	for id := range int32(len(pieces)) {
		text := texts[id]
		left, right = left[:0], right[:0]
		if text == "" {
			continue
		}
		for p := prefixes[id]; p >= 0; p = prefixes[p] {
			left = append(left, p)
		}
		for s := suffixes[id]; s >= 0; s = suffixes[s] {
			right = append(right, s)
		}
		splits := 0
		for i, j := 0, len(right)-1; i < len(left) && j >= 0; {
			switch l, r := left[i], right[j]; cmp.Compare(len(texts[l])+len(texts[r]), len(text)) {
			case 1:
				i++
			case -1:
				j--
			default:
				merges = append(merges, bpe.Merge{Left: l, Right: r, Into: id, Rank: rank(id)})
				splits++
				m.splits[id] = [2]int32{l, r}
				i++
			}
		}
		if m.results[id] != isUnused {
			delete(m.splits, id)
		} else if splits > 1 {
			m.ambiguous = true
		}
		if len(merges) > maxMerges {
			return nil, fmt.Errorf("more than %d pairs of pieces that make others", maxMerges)
		}
	}
	table, err := bpe.New(merges)
	if err != nil {
		return nil, err
	}
	m.merges = table
	return m, nil
}

// compareFromEnd orders texts by their bytes from the last to the first.
func compareFromEnd(a, b string) int {
	for i := 1; i <= min(len(a), len(b)); i++ {
		if c := cmp.Compare(a[len(a)-i], b[len(b)-i]); c != 0 {
			return c
		}
	}
	return cmp.Compare(len(a), len(b))
}

// ranks returns the rank of a piece: 0 for the highest score, the same for the
// same score. -0 is below 0.
func ranks(pieces []piece) func(id int32) int32 {
	key := func(score float32) int32 {
		bits := int32(math.Float32bits(score))
		return ^(bits ^ bits>>31&math.MaxInt32) // the highest first
	}
	keys := make([]int32, len(pieces))
	for i, p := range pieces {
		keys[i] = key(p.score)
	}
	slices.Sort(keys)
	keys = slices.Compact(keys)
	return func(id int32) int32 {
		return int32(sort.Search(len(keys), func(i int) bool { return keys[i] >= key(pieces[id].score) }))
	}
}

// char returns the symbol of a character, or -1.
func (m *pairModel) char(r rune) int32 {
	page := m.chars[r>>8]
	if page == nil {
		return -1
	}
	return page[r&255] - 1
}

// word implements model.
func (m *pairModel) word(s *scratch, out *output, text []byte) {
	if len(text) > maxCached || m.ambiguous {
		m.encode(s, out, text)
		return
	}
	e, hash := s.cache.find(text)
	if e != nil {
		out.append(s.cache.what(e))
		return
	}
	// Encoded into a list of its own: what stands before may join its first id.
	own := output{dst: s.own[:0], unknown: out.unknown, bytes: out.bytes}
	m.encode(s, &own, text)
	s.own = own.dst
	s.cache.put(hash, text, own.dst)
	out.append(own.dst)
}

// encode cuts text into runs of symbols between characters and user-defined
// symbols that cannot be joined.
func (m *pairModel) encode(s *scratch, out *output, text []byte) {
	run := s.run[:0]
	if m.ambiguous {
		m.encodeAmbiguous(out, text)
		return
	}
	for len(text) > 0 {
		if m.symbols != nil {
			if size, id := m.symbols.longest(text, maxSymbols); size > 0 {
				run = m.join(s, out, run)
				out.id(id)
				text = text[size:]
				continue
			}
		}
		r, size := decode(text)
		if id := m.char(r); id >= 0 {
			run = append(run, id)
		} else {
			run = m.join(s, out, run)
			out.unknownChar(text[:size])
		}
		text = text[size:]
	}
	s.run = m.join(s, out, run)
}

// join appends what a run becomes to out, and returns an empty one.
func (m *pairModel) join(s *scratch, out *output, run []int32) []int32 {
	for _, id := range m.merges.Apply(run) {
		if result := m.results[id]; result >= 0 {
			out.id(result)
		} else {
			m.result(out, id, m.splits, 0)
		}
	}
	return run[:0]
}

// result appends what a symbol becomes: unused pieces are cut again.
func (m *pairModel) result(out *output, id int32, splits map[int32][2]int32, depth int) {
	switch result := m.results[id]; {
	case result >= 0:
		out.id(result)
	case depth > maxDepth && int(id) < len(m.pieces):
		out.id(id)
	case result == isUnused:
		parts := splits[id]
		m.result(out, parts[0], splits, depth+1)
		m.result(out, parts[1], splits, depth+1)
	case int(id) < len(m.pieces):
		out.unknownChar([]byte(m.pieces[id].text))
	default:
		out.unknownChar([]byte(string(m.parts[int(id)-len(m.pieces)])))
	}
}

// A node is a symbol in a text whose unused pieces are ambiguous.
type node struct {
	prev, next int32 // -1 and the number of nodes at the ends
	id         int32 // -1 for what cannot be joined
	rank       int32 // of this and the next, -1 where they do not merge
	start, end int32 // in the text
	symbol     bool  // user-defined
}

// encodeAmbiguous is encode for models with unused pieces that can be made in
// several ways. It joins in the same order as [bpe.Table.Apply], over the whole
// text, and notes of what two symbols each unused piece could have been made last.
func (m *pairModel) encodeAmbiguous(out *output, text []byte) {
	var nodes []node
	for at := 0; at < len(text); {
		n := node{prev: int32(len(nodes)) - 1, next: int32(len(nodes)) + 1, id: -1, start: int32(at)}
		size, id := 0, int32(0)
		if m.symbols != nil {
			size, id = m.symbols.longest(text[at:], maxSymbols)
		}
		if n.symbol = size > 0; n.symbol {
			n.id = id
		} else {
			var r rune
			r, size = decode(text[at:])
			n.id = m.char(r)
		}
		at += size
		n.end = int32(at)
		nodes = append(nodes, n)
	}
	splits := map[int32][2]int32{}
	var agenda keys
	// note looks at the pair that begins at a node.
	note := func(at int32) {
		a := &nodes[at]
		a.rank = -1
		if int(a.next) == len(nodes) {
			return
		}
		b := nodes[a.next]
		if a.id < 0 || b.id < 0 || a.symbol || b.symbol {
			return
		}
		rank, into, ok := m.merges.Pair(a.id, b.id)
		if !ok {
			return
		}
		a.rank = rank
		agenda = append(agenda, uint64(rank)<<32|uint64(at))
		if m.results[into] == isUnused {
			splits[into] = [2]int32{a.id, b.id}
		}
	}
	for at := range nodes {
		note(int32(at))
	}
	heap.Init(&agenda)
	fix := func(at int32) {
		n := len(agenda)
		if note(at); len(agenda) > n {
			heap.Fix(&agenda, n)
		}
	}
	for len(agenda) > 0 {
		k := agenda[0]
		last := len(agenda) - 1
		agenda[0] = agenda[last]
		agenda = agenda[:last]
		if last > 0 {
			heap.Fix(&agenda, 0)
		}
		at := int32(k & math.MaxUint32)
		a := &nodes[at]
		if a.rank != int32(k>>32) {
			continue // changed since, or joined with what is before it
		}
		b := &nodes[a.next]
		_, a.id, _ = m.merges.Pair(a.id, b.id)
		a.next, a.end, b.rank = b.next, b.end, -1
		if int(a.next) < len(nodes) {
			nodes[a.next].prev = at
		}
		if a.prev >= 0 {
			fix(a.prev)
		}
		fix(at)
	}
	for at := int32(0); int(at) < len(nodes); at = nodes[at].next {
		switch n := nodes[at]; {
		case n.symbol:
			out.id(n.id)
		case n.id < 0:
			out.unknownChar(text[n.start:n.end])
		default:
			m.result(out, n.id, splits, 0)
		}
	}
}

// keys is a heap of ranks and places.
type keys []uint64

func (k keys) Len() int           { return len(k) }
func (k keys) Less(i, j int) bool { return k[i] < k[j] }
func (k keys) Swap(i, j int)      { k[i], k[j] = k[j], k[i] }
func (k *keys) Push(any)          { panic("not used") }
func (k *keys) Pop() any          { panic("not used") }
