package train

import (
	"math/bits"

	"github.com/structuredffn/sffn/model"
)

// span is a stretch of a step's lanes, [lo, hi). The sums of lanes are added as a
// fixed binary tree: a span of n lanes is its first ones, as many as the largest
// power of two below n, plus the others. Which spans are sums of the tree does not
// depend on who computes them, so nor do the bits.
type span struct{ lo, hi int }

func (s span) halves() (a, b span) {
	mid := s.lo + 1<<(bits.Len(uint(s.hi-s.lo-1))-1)
	return span{s.lo, mid}, span{mid, s.hi}
}

// sumsIn are the largest sums of the tree over a span that lie within another one, in
// order.
func (s span) sumsIn(in span) []span {
	switch {
	case s.hi <= in.lo || in.hi <= s.lo:
		return nil
	case in.lo <= s.lo && s.hi <= in.hi:
		return []span{s}
	}
	a, b := s.halves()
	return append(a.sumsIn(in), b.sumsIn(in)...)
}

// additions are those that leave in the first of some sums of the tree over a span,
// which they fill, that of the span: each a += b, by number.
func (s span) additions(sums []span) (all [][2]int) {
	if len(sums) == 1 {
		return nil
	}
	a, _ := s.halves()
	n := 0
	for sums[n].hi < a.hi {
		n++
	}
	n++
	_, b := s.halves()
	all = append(a.additions(sums[:n]), shifted(b.additions(sums[n:]), n)...)
	return append(all, [2]int{0, n})
}

func shifted(all [][2]int, n int) [][2]int {
	for i := range all {
		all[i][0] += n
		all[i][1] += n
	}
	return all
}

// lane says where a lane's gradients are summed: in the arena of that number. After
// it so many arenas are added, the last to the one before it, and so on.
type lane struct{ arena, additions int }

// lanesOf is the course of those lanes, of all in a step, that lie within a span; sums
// is what is left of them, one an arena, and arenas how many it takes.
func lanesOf(all int, within span) (course []lane, sums []span, arenas int) {
	tree := span{0, all}
	for i := within.lo; i < within.hi; i++ {
		l := lane{arena: len(sums)}
		sums = append(sums, span{i, i + 1})
		arenas = max(arenas, len(sums))
		for len(sums) > len(tree.sumsIn(span{within.lo, i + 1})) {
			n := len(sums)
			sums[n-2].hi = sums[n-1].hi
			sums = sums[:n-1]
			l.additions++
		}
		course = append(course, l)
	}
	return course, sums, arenas
}

// Arenas is the number of gradient arenas of a rank, of several, that has its share
// of lanes.
func Arenas(lanes, ranks int) int {
	most := 0
	for r := range ranks {
		_, _, n := lanesOf(lanes, share(lanes, ranks, r))
		most = max(most, n)
	}
	return most
}

// share is the lanes of a rank.
func share(lanes, ranks, rank int) span {
	each := lanes / ranks
	return span{rank * each, (rank + 1) * each}
}

// accumulator sums the gradients of this process's micro-batches.
type accumulator struct {
	m *model.Model
	// arenas hold the sums, of which lanes say what goes where.
	arenas []*model.Params
	course []lane
	each   int // micro-batches a lane
	// What the pool runs, made once.
	a, b []float32
	add  func(worker, i int)
}

// addBlock is the unit of work of additions; no sum depends on it.
const addBlock = 1 << 14

func newAccumulator(m *model.Model, lanes, micros, ranks, rank int) *accumulator {
	s := &accumulator{m: m, each: micros / lanes}
	var arenas int
	s.course, _, arenas = lanesOf(lanes, share(lanes, ranks, rank))
	s.make(arenas)
	s.add = func(_, i int) {
		lo, hi := i*addBlock, min(len(s.a), (i+1)*addBlock)
		s.m.Vec().Add(s.a[lo:hi], s.b[lo:hi])
	}
	return s
}

func (s *accumulator) make(arenas int) {
	for range arenas {
		s.arenas = append(s.arenas, model.NewParams(s.m.Spec))
	}
}

// lane is that of this process's micro-batch of some number, and says whether that is
// its last one.
func (s *accumulator) lane(micro int) (l lane, last bool) {
	return s.course[micro/s.each], micro%s.each == s.each-1
}

// addUp does a lane's additions on a stretch of the arenas.
func (s *accumulator) addUp(l lane, r model.Range) {
	for i := range l.additions {
		to := l.arena - 1 - i
		s.a, s.b = s.arenas[to].Data[r.Lo:r.Hi], s.arenas[to+1].Data[r.Lo:r.Hi]
		s.m.Pool().Run((len(s.a)+addBlock-1)/addBlock, s.add)
	}
}

func (s *accumulator) close() {
	for _, p := range s.arenas {
		p.Close()
	}
	s.arenas = nil
}
