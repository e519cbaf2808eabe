package pattern

import (
	"encoding/binary"
	"slices"
)

// Bounds of the automaton of an expression. A published one has some dozens of
// states and classes.
const (
	maxClasses     = 1 << 12
	maxTransitions = 1 << 20 // 4 MiB
	maxThreads     = 1 << 21 // of all states, 8 MiB
	maxLookBehinds = 64      // that differ
	maxWork        = 1 << 26 // instructions looked at, some tenths of a second
)

// An automaton goes from state to state by the class of each character, and of
// the end of the text. A transition holds the next state and, in its lowest bit,
// whether a match ends before that character. A state is the place of its
// first transition; 0 is where no match is possible any longer.
type automaton struct {
	transitions []uint32
	start       []uint32 // by the class of the character before
	behind      bool     // whether the states of start differ
	size        int      // transitions of a state
}

const matchBit = 1

// threads is a state under construction: where in the program each attempt goes
// on, the preferred one first, and what look-behinds know of the character
// before.
type threads struct {
	list   []int32
	before int32
}

func (t threads) key(buf []byte) []byte {
	buf = binary.LittleEndian.AppendUint32(buf[:0], uint32(t.before))
	for _, pc := range t.list {
		buf = binary.LittleEndian.AppendUint32(buf, uint32(pc))
	}
	return buf
}

type builder struct {
	*program
	members [][]bool
	edge    int // class of the edges of the text
	before  []int32
	example []int // a class of each kind of character before

	states  []threads
	index   map[string]uint32
	total   int // threads of all states
	work    int
	visited []int
	added   []int
	round   int
	stack   []int32
}

// determinise makes the automaton of a program; ok is false where it is too
// large.
func determinise(p *program, classes int, members [][]bool) (a *automaton, ok bool) {
	if classes > maxClasses {
		return nil, false
	}
	b := &builder{program: p, members: members, edge: classes, index: map[string]uint32{},
		visited: make([]int, len(p.insts)), added: make([]int, len(p.insts))}
	if !b.kinds() {
		return nil, false
	}
	a = &automaton{size: classes + 1, behind: len(b.example) > 1}
	b.state(threads{}) // the dead one
	starts := make([]uint32, len(b.example))
	for i := range b.example {
		starts[i] = b.state(threads{[]int32{0}, int32(i)})
	}
	for i := 0; i < len(b.states); i++ {
		for c := range a.size {
			if len(b.states)*a.size > maxTransitions || b.total > maxThreads || b.work > maxWork {
				return nil, false
			}
			next, match := b.step(b.states[i], c)
			t := b.state(next) * uint32(a.size) << 1
			if match {
				t |= matchBit
			}
			a.transitions = append(a.transitions, t)
		}
		// Only transitions are needed of those that are done.
		b.states[i].list = nil
	}
	for c := range a.size {
		a.start = append(a.start, starts[b.before[c]]*uint32(a.size))
	}
	return a, true
}

// kinds tells apart the classes that look-behinds tell apart.
func (b *builder) kinds() bool {
	var looks []inst
	for _, x := range b.insts {
		if x.op == opLook && x.behind && !slices.Contains(looks, x) {
			if len(looks) == maxLookBehinds {
				return false
			}
			looks = append(looks, x)
		}
	}
	index := map[uint64]int32{}
	for c := range b.edge + 1 {
		var key uint64
		for i, x := range looks {
			if b.holds(x, c) {
				key |= 1 << i
			}
		}
		i, ok := index[key]
		if !ok {
			i = int32(len(b.example))
			index[key] = i
			b.example = append(b.example, c)
		}
		b.before = append(b.before, i)
	}
	return true
}

// holds tells whether an assertion holds of a class.
func (b *builder) holds(x inst, class int) bool {
	if class == b.edge {
		return x.edge
	}
	return b.members[x.set][class]
}

// state returns the number of a state.
func (b *builder) state(t threads) uint32 {
	if len(t.list) == 0 {
		t.before = 0
	}
	var buf [256]byte
	key := t.key(buf[:0])
	i, ok := b.index[string(key)]
	if !ok {
		i = uint32(len(b.states))
		b.index[string(key)] = i
		t.list = slices.Clone(t.list)
		b.states = append(b.states, t)
		b.total += len(t.list)
	}
	return i
}

// step takes a character of a class, or the edge, and tells whether a match ends
// before it. What is preferred less than a match is given up.
func (b *builder) step(t threads, class int) (next threads, match bool) {
	b.round++
	next.before = b.before[class]
	before := b.example[t.before]
	b.work += len(t.list)
	for _, pc := range t.list {
		b.stack = append(b.stack[:0], pc)
		for len(b.stack) > 0 {
			pc := b.stack[len(b.stack)-1]
			b.stack = b.stack[:len(b.stack)-1]
			if b.visited[pc] == b.round {
				continue
			}
			b.visited[pc] = b.round
			b.work++
			switch x := b.insts[pc]; x.op {
			case opSet:
				if class != b.edge && b.members[x.set][class] && b.added[pc+1] != b.round {
					b.added[pc+1] = b.round
					next.list = append(next.list, pc+1)
				}
			case opSplit:
				b.stack = append(b.stack, x.b, x.a)
			case opLook:
				if x.behind && b.holds(x, before) || !x.behind && b.holds(x, class) {
					b.stack = append(b.stack, pc+1)
				}
			case opMatch:
				return next, true
			}
		}
	}
	return next, false
}
