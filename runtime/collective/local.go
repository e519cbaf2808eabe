package collective

import (
	"context"
	"fmt"
	"sync"
)

// Alone is the group of a run of one process.
func Alone() Group { return Local(1)[0] }

// Local returns the groups of n ranks that are goroutines of this process, one for
// each. Abort and a Close that others do not call make every operation that is not
// done fail everywhere.
func Local(n int) []Group {
	w := &world{ops: map[int]*meeting{}}
	all := make([]Group, n)
	for rank := range all {
		w.ranks = append(w.ranks, &local{w: w, rank: rank})
		all[rank] = w.ranks[rank]
	}
	return all
}

// world is what the ranks of a local group share.
type world struct {
	mu     sync.Mutex
	ranks  []*local
	ops    map[int]*meeting // those that not all ranks have come to, by number
	failed error
}

// meeting is one operation of all ranks.
type meeting struct {
	w      *world
	number int
	ops    []*Op // by rank, nil where it has not come
	came   int
	done   chan struct{}
	err    error
}

type local struct {
	w    *world
	rank int
	next int // number of the next operation
}

func (l *local) Rank() int { return l.rank }
func (l *local) Size() int { return len(l.w.ranks) }

func (l *local) Exchange(send, recv [][]byte) Pending {
	return l.begin(Op{Kind: KindExchange, Send: send, Recv: recv})
}

func (l *local) AllGather(data []byte, bounds []int) Pending {
	return l.begin(Op{Kind: KindAllGather, Data: data, Bounds: bounds})
}

func (l *local) Broadcast(root int, data []byte) Pending {
	return l.begin(Op{Kind: KindBroadcast, Data: data, Root: root})
}

func (l *local) Barrier() Pending { return l.begin(Op{Kind: KindBarrier}) }

func (l *local) Abort(code int, message string) {
	l.w.fail(&Aborted{l.rank, code, message})
}

func (l *local) Close() error {
	return l.begin(Op{Kind: KindClose}).Wait(context.Background())
}

// begin comes to the meeting of this rank's next operation; the last one to come
// has it done.
func (l *local) begin(op Op) Pending {
	w := l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	number := l.next
	l.next++
	m := w.ops[number]
	if m == nil {
		m = &meeting{w: w, number: number, ops: make([]*Op, len(w.ranks)), done: make(chan struct{})}
		w.ops[number] = m
	}
	m.ops[l.rank] = &op
	m.came++
	err := Check(l, op)
	for q, other := range m.ops {
		if err == nil && other != nil && other.Kind != op.Kind {
			err = fmt.Errorf("rank %d calls %s where rank %d calls %s (operation %d)", l.rank, op.Kind, q, other.Kind, number)
		}
	}
	if w.failed != nil {
		err = w.failed
	}
	if err != nil {
		w.failLocked(err)
	} else if m.came == len(w.ranks) {
		delete(w.ops, number)
		go m.run() // as late as between machines: who looks too early sees it
	}
	return m
}

// fail makes all operations fail that are not done, and all later ones.
func (w *world) fail(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failLocked(err)
}

func (w *world) failLocked(err error) {
	if w.failed == nil {
		w.failed = err
	}
	for number, m := range w.ops {
		delete(w.ops, number)
		m.err = w.failed
		close(m.done)
	}
}

// run moves the memory of an operation that all ranks have come to.
func (m *meeting) run() {
	defer func() {
		if m.err != nil {
			m.w.fail(m.err)
		}
		close(m.done)
	}()
	send := func(from, to int, src, dst []byte) {
		if len(src) != len(dst) {
			m.err = fmt.Errorf("%s: rank %d sends %d bytes where rank %d expects %d (operation %d)", m.ops[0].Kind, from, len(src), to, len(dst), m.number)
			return
		}
		copy(dst, src)
	}
	for to, op := range m.ops {
		switch op.Kind {
		case KindExchange:
			for from, other := range m.ops {
				if from != to {
					send(from, to, other.Send[to], op.Recv[from])
				}
			}
			op.CopyOwn(to)
		case KindAllGather:
			for from, other := range m.ops {
				if from != to {
					send(from, to, other.Data[other.Bounds[from]:other.Bounds[from+1]], op.Data[op.Bounds[from]:op.Bounds[from+1]])
				}
			}
		case KindBroadcast:
			if from := m.ops[0].Root; op.Root != from {
				m.err = fmt.Errorf("broadcast: the root is %d at rank 0 and %d at rank %d (operation %d)", from, op.Root, to, m.number)
			} else if from != to {
				send(from, to, m.ops[from].Data, op.Data)
			}
		}
	}
}

func (m *meeting) Wait(ctx context.Context) error {
	select {
	case <-m.done:
		return m.err
	default:
	}
	select {
	case <-m.done:
		return m.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (m *meeting) Done() bool {
	select {
	case <-m.done:
		return true
	default:
		return false
	}
}
