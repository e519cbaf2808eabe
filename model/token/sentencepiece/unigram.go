package sentencepiece

import "math"

// unigramModel cuts a text into the pieces whose scores have the largest sum.
//
// Sums are of float32, from the beginning of the text: what a word becomes may
// depend on how the sum before it rounds. So it is in the library, whose every
// step is done here.
type unigramModel struct {
	pieces *trie
	scores []float32
	sizes  []uint16 // bytes of a piece
	// unknown is the score of a character that is no piece.
	unknown float32
	longest int // bytes of a piece
	// cached says that words may be kept: the scores are small enough for the
	// bounds of rounding.
	cached bool
}

const (
	// unknownPenalty is how far below the lowest score that of unknown characters
	// is.
	unknownPenalty = 10
	// maxScore is how large a sum may become before the library begins again at 0.
	maxScore = 100_000
	// maxCachedScore is the largest score of models whose words may be kept.
	maxCachedScore = 512
	noPiece        = -2
)

func newUnigramModel(pieces []piece, usable *trie) *unigramModel {
	m := &unigramModel{pieces: usable, scores: make([]float32, len(pieces)), sizes: make([]uint16, len(pieces)), cached: true, longest: 4}
	lowest := float32(math.MaxFloat32)
	for i, p := range pieces {
		m.scores[i] = p.score
		m.sizes[i] = uint16(len(p.text))
		m.longest = max(m.longest, len(p.text))
		switch p.kind {
		case normal:
			lowest = min(lowest, p.score)
		case userDefined:
			// So that user-defined symbols are always taken, the longest first.
			m.scores[i] = float32(0.1 * float64(len(p.text)-1))
		}
		if !p.kind.reserved() && max(m.scores[i], -m.scores[i]) > maxCachedScore {
			m.cached = false
		}
	}
	m.unknown = lowest - unknownPenalty
	if max(m.unknown, -m.unknown) > maxCachedScore {
		m.cached = false
	}
	return m
}

// charSize is the number of bytes of the character that begins with b.
func charSize(b byte) int {
	switch {
	case b < 0x80:
		return 1
	case b < 0xe0:
		return 2
	case b < 0xf0:
		return 3
	}
	return 4
}

// word implements model.
func (m *unigramModel) word(s *scratch, out *output, text []byte) {
	if m.cached && len(text) <= maxCached {
		e, hash := s.cache.find(text)
		if e == nil {
			path, low, high := m.stable(s, text)
			e = s.cache.put(hash, text, path)
			e.low, e.high = low, high
		}
		if s.sum+e.low > -maxScore && s.sum+e.high < maxScore {
			m.take(s, out, text, s.cache.what(e), true)
			return
		}
	}
	m.take(s, out, text, m.best(s, text), false)
}

// take appends the ids of a path through text.
func (m *unigramModel) take(s *scratch, out *output, text []byte, path []int32, add bool) {
	sum := s.sum
	at := 0
	for _, id := range path {
		if id >= 0 {
			sum += m.scores[id]
			at += int(m.sizes[id])
			out.id(id)
			continue
		}
		sum += m.unknown
		size := charSize(text[at])
		out.unknownChar(text[at : at+size])
		at += size
	}
	if add {
		s.sum = sum
	}
}

// best returns the best path through text: ids, isUnknown for a character that is
// no piece. It goes on from the sum before the text, and sets that behind it.
func (m *unigramModel) best(s *scratch, text []byte) []int32 {
	if cap(s.back) < len(text)+1 {
		s.back = make([]int32, len(text)+1)
	}
	back := s.back[:len(text)+1] // the last piece of the best path that ends at a byte
	for i := range back {
		back[i] = noPiece
	}
	size := 8
	for size <= m.longest {
		size *= 2
	}
	if len(s.sums) < size {
		s.sums = make([]float32, size)
	}
	sums := s.sums[:size] // of the path that ends at a byte, modulo the size
	mask := size - 1
	sums[0] = s.sum
	units, root := m.pieces.units, m.pieces.root
	far := 0 // the last byte where a path ends
	for at := 0; at < len(text); {
		sum := sums[at&mask]
		if sum < -maxScore || sum > maxScore {
			for i := at; i <= far; i++ {
				if i == at || back[i] != noPiece {
					sums[i&mask] -= sum
				}
			}
			sum = 0
		}
		size := charSize(text[at])
		single := false
		base := root
		for i := at; i < len(text); i++ {
			u := units[base^int32(text[i])]
			if u.meta>>labelShift != uint32(text[i]) {
				break
			}
			if v := int32(u.meta & valueMask); v != 0 {
				end := i + 1
				far = max(far, end)
				if with := m.scores[v-1] + sum; back[end] == noPiece || with > sums[end&mask] {
					back[end], sums[end&mask] = v-1, with
				}
				single = single || end-at == size
			}
			if base = u.base; base == 0 {
				break
			}
		}
		if !single {
			end := at + size
			far = max(far, end)
			if with := m.unknown + sum; back[end] == noPiece || with > sums[end&mask] {
				back[end], sums[end&mask] = isUnknown, with
			}
		}
		at += size
	}
	s.sum = sums[len(text)&mask]
	return m.path(s, text, back)
}

// path follows the last pieces from the end of text.
func (m *unigramModel) path(s *scratch, text []byte, back []int32) []int32 {
	path := s.path[:0]
	for end := len(text); end > 0; {
		id := back[end]
		path = append(path, id)
		if id >= 0 {
			end -= int(m.sizes[id])
			continue
		}
		end--
		for text[end]&0xc0 == 0x80 {
			end--
		}
	}
	s.path = path
	for i, j := 0, len(path)-1; i < j; i, j = i+1, j-1 {
		path[i], path[j] = path[j], path[i]
	}
	return path
}

// stable returns the path through a short text that is the best one whatever sum
// stands before it, as long as that and low, and that and high, stay between the
// bounds of a sum: low and high are sums of the best paths to parts of text. Where
// rounding could make another path the best one, no sum does that.
//
// A path of n pieces rounds n times, by at most 1/128 at sums below 1<<18. So the
// best path stays the best where all others are n/64 below it.
func (m *unigramModel) stable(s *scratch, text []byte) (path []int32, low, high float32) {
	type reached struct {
		best, second float64
		ok           bool
	}
	var at [maxCached + 1]reached
	var back [maxCached + 1]int32
	reach := func(from, to int, id int32, score float32) {
		a, b := &at[from], &at[to]
		best, second := a.best+float64(score), a.second+float64(score)
		if !b.ok || best > b.best {
			b.second = max(b.second, b.best, second)
			if !b.ok {
				b.second = second
			}
			b.best, b.ok = best, true
			back[to] = id
		} else {
			b.second = max(b.second, best)
		}
	}
	at[0] = reached{0, math.Inf(-1), true}
	n := 0
	lowest, highest := 0.0, 0.0
	for from := 0; from < len(text); n++ {
		lowest, highest = min(lowest, at[from].best), max(highest, at[from].best)
		size := charSize(text[from])
		single := false
		base := m.pieces.root
		for i := from; i < len(text); i++ {
			child, id, ok := m.pieces.step(base, text[i])
			if !ok {
				break
			}
			if id >= 0 {
				reach(from, i+1, id, m.scores[id])
				single = single || i+1-from == size
			}
			base = child
		}
		if !single {
			reach(from, from+size, isUnknown, m.unknown)
		}
		from += size
	}
	end := at[len(text)]
	lowest, highest = min(lowest, end.best), max(highest, end.best)
	if !(end.best-end.second > float64(n)/64) {
		return nil, float32(math.Inf(-1)), float32(math.Inf(1))
	}
	return m.path(s, text, back[:len(text)+1]), float32(lowest - 1), float32(highest + 1)
}
