package pattern

import "encoding/binary"

// op is what an instruction does.
type op uint8

const (
	opSet   op = iota // takes a character of a set and goes on behind
	opSplit           // goes on at a, or else at b
	opLook            // goes on behind where an assertion holds
	opMatch
)

type inst struct {
	op     op
	a, b   int32
	set    int32 // of opSet and opLook
	edge   bool
	behind bool
}

// Bounds of the instructions that an expression becomes, and of the sets in them.
const (
	maxProgram = 1 << 15
	maxSets    = 1 << 10
)

// program is an expression as instructions.
type program struct {
	insts []inst
	sets  []set
	index map[string]int32 // of sets
}

type tooLarge struct{}

// compile writes the instructions of an expression; ok is false where they are
// too many.
func compile(n *node) (p *program, ok bool) {
	defer func() {
		if r := recover(); r != nil {
			if _, is := r.(tooLarge); !is {
				panic(r)
			}
		}
	}()
	p = &program{index: map[string]int32{}}
	p.emit(n)
	p.add(inst{op: opMatch})
	return p, true
}

func (p *program) add(x inst) int32 {
	if len(p.insts) == maxProgram {
		panic(tooLarge{})
	}
	p.insts = append(p.insts, x)
	return int32(len(p.insts) - 1)
}

func (p *program) next() int32 { return int32(len(p.insts)) }

func (p *program) setIndex(n *node) int32 {
	if n.index > 0 {
		return n.index - 1
	}
	var key []byte
	for _, r := range n.set {
		key = binary.LittleEndian.AppendUint64(key, uint64(r.lo)<<32|uint64(r.hi))
	}
	i, ok := p.index[string(key)]
	if !ok {
		if len(p.sets) == maxSets {
			panic(tooLarge{})
		}
		i = int32(len(p.sets))
		p.sets = append(p.sets, n.set)
		p.index[string(key)] = i
	}
	n.index = i + 1
	return i
}

// split adds a choice; its other side is set later.
func (p *program) split() int32 { return p.add(inst{op: opSplit, a: -1, b: -1}) }

// choose sets the sides of a choice.
func (p *program) choose(at, first, second int32, swap bool) {
	if swap {
		first, second = second, first
	}
	p.insts[at].a, p.insts[at].b = first, second
}

func (p *program) emit(n *node) {
	switch n.kind {
	case kindSet:
		p.add(inst{op: opSet, set: p.setIndex(n)})
	case kindLook:
		p.add(inst{op: opLook, set: p.setIndex(n), edge: n.edge, behind: n.behind})
	case kindConcat:
		for _, x := range n.subs {
			p.emit(x)
		}
	case kindAlternate:
		var ends []int32
		for i, x := range n.subs {
			if i == len(n.subs)-1 {
				p.emit(x)
				break
			}
			at := p.split()
			p.emit(x)
			ends = append(ends, p.split())
			p.choose(at, at+1, p.next(), false)
		}
		for _, at := range ends {
			p.choose(at, p.next(), p.next(), false)
		}
	case kindRepeat:
		p.repeat(n)
	}
}

func (p *program) repeat(n *node) {
	x := n.subs[0]
	for i := range n.min {
		if n.max < 0 && i == n.min-1 {
			p.plus(x, n.lazy)
			return
		}
		p.emit(x)
	}
	switch {
	case n.max >= 0:
		var skips []int32
		for range n.max - n.min {
			skips = append(skips, p.split())
			p.emit(x)
		}
		for _, at := range skips {
			p.choose(at, at+1, p.next(), n.lazy)
		}
	case empty(x):
		// (x+)?: a turn that takes nothing ends the loop before other ways to
		// match x are tried.
		at := p.split()
		p.plus(x, n.lazy)
		p.choose(at, at+1, p.next(), n.lazy)
	default:
		at := p.split()
		p.emit(x)
		back := p.split()
		p.choose(back, at, at, false)
		p.choose(at, at+1, p.next(), n.lazy)
	}
}

// plus emits x+.
func (p *program) plus(x *node, lazy bool) {
	start := p.next()
	p.emit(x)
	at := p.split()
	p.choose(at, start, at+1, lazy)
}

// empty tells whether a node may match nothing.
func empty(n *node) bool {
	switch n.kind {
	case kindSet:
		return false
	case kindConcat:
		for _, x := range n.subs {
			if !empty(x) {
				return false
			}
		}
		return true
	case kindAlternate:
		for _, x := range n.subs {
			if empty(x) {
				return true
			}
		}
		return false
	case kindRepeat:
		return n.min == 0 || empty(n.subs[0])
	}
	return true
}
