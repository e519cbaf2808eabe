// Package collective is how the processes of one run, its ranks, exchange memory.
// A Group is a rank's end of it. Package mpi has the groups of a cluster; Local
// has those of goroutines, and Alone that of a run of one process.
package collective

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"unsafe"
)

// Group is one rank's view of all ranks.
//
// All ranks issue the same operations in the same order, from one goroutine at a
// time each; operations that were begun go on side by side. The memory of an
// operation belongs to it until its Wait has returned nil: nothing else writes
// there, nor reads what it fills. An operation of more than Small bytes has memory
// outside the Go heap, of an arena that lives as long as the group: networks keep
// what they know of memory, and do not see that it was given to something else.
//
// What begins an operation does not fail: Wait says what is wrong, and then for
// every later operation, too. Errors name the rank. A rank that cannot go on alone
// calls Abort; ranks that agree on the end call Close.
type Group interface {
	// Rank is this process's number, from 0; Size how many there are.
	Rank() int
	Size() int

	// Exchange sends send[q] to rank q and fills recv[q] with what q sends here,
	// for all q. Lengths are bytes; they may differ and be 0, and that of send[q]
	// here is that of recv[this rank] at rank q. This rank's own part is copied,
	// unless both are the same memory.
	Exchange(send, recv [][]byte) Pending
	// AllGather fills data, which has the parts of all ranks in order: rank q's are
	// the bytes from bounds[q] to bounds[q+1], as all ranks know. This rank's part
	// is there before.
	AllGather(data []byte, bounds []int) Pending
	// Broadcast fills data, of the same length everywhere, with that of root.
	Broadcast(root int, data []byte) Pending
	// Barrier is done when all ranks have come to it.
	Barrier() Pending

	// Abort ends all ranks at once, with an exit code that is not 0 and a message
	// that names this rank. Of processes it does not return.
	Abort(code int, message string)
	// Close ends the group once all ranks have called it; all operations are done
	// by then.
	Close() error
}

// Small is the most bytes, sent and received, of an operation on any memory.
const Small = 1 << 20

// Pending is an operation that was begun.
type Pending interface {
	// Wait returns when the operation is done, or has failed. When ctx ends before,
	// it returns its cause, and the operation goes on; Wait may be called again.
	Wait(ctx context.Context) error
	// Done reports whether Wait returns at once.
	Done() bool
}

// Bytes are the entries of x as memory. T has no pointers.
func Bytes[T any](x []T) []byte {
	var one T
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), len(x)*int(unsafe.Sizeof(one)))
}

// Exchange is Group.Exchange of entries of any type without pointers.
func Exchange[T any](g Group, send, recv [][]T) Pending {
	return g.Exchange(manyBytes(send), manyBytes(recv))
}

// AllGather is Group.AllGather of entries of any type without pointers; bounds
// counts entries.
func AllGather[T any](g Group, data []T, bounds []int) Pending {
	var one T
	scaled := make([]int, len(bounds))
	for i, b := range bounds {
		scaled[i] = b * int(unsafe.Sizeof(one))
	}
	return g.AllGather(Bytes(data), scaled)
}

func manyBytes[T any](x [][]T) [][]byte {
	b := make([][]byte, len(x))
	for i := range x {
		b[i] = Bytes(x[i])
	}
	return b
}

// All returns the values of all ranks, in their order. Each brings as many.
func All[T any](ctx context.Context, g Group, mine ...T) ([]T, error) {
	n := len(mine)
	all, bounds := make([]T, n*g.Size()), make([]int, g.Size()+1)
	for q := range bounds {
		bounds[q] = q * n
	}
	copy(all[g.Rank()*n:], mine)
	return all, AllGather(g, all, bounds).Wait(ctx)
}

// AllBytes returns what each rank brings, of any length.
func AllBytes(ctx context.Context, g Group, mine []byte) ([][]byte, error) {
	size := g.Size()
	lengths, err := All(ctx, g, int64(len(mine)))
	if err != nil {
		return nil, err
	}
	all := make([][]byte, size)
	each := max(1, Small/size)
	bounds := make([]int, size+1)
	for from := 0; from < int(slices.Max(lengths)); from += each {
		for q, n := range lengths {
			bounds[q+1] = bounds[q] + min(each, max(0, int(n)-from))
		}
		data := make([]byte, bounds[size])
		copy(data[bounds[g.Rank()]:bounds[g.Rank()+1]], mine[min(from, len(mine)):])
		if err := g.AllGather(data, bounds).Wait(ctx); err != nil {
			return nil, err
		}
		for q := range all {
			all[q] = append(all[q], data[bounds[q]:bounds[q+1]]...)
		}
	}
	return all, nil
}

// Guard is deferred by the goroutines of a rank: a panic ends all ranks, with the
// panic's words.
func Guard(g Group) {
	if v := recover(); v != nil {
		g.Abort(2, fmt.Sprintf("panic: %v\n\n%s", v, debug.Stack()))
		panic(v)
	}
}

// Check says what is wrong with the arguments of an operation of a group.
func Check(g Group, op Op) error {
	size, rank := g.Size(), g.Rank()
	fail := func(format string, args ...any) error {
		return fmt.Errorf("rank %d of %d: %s: %s", rank, size, op.Kind, fmt.Sprintf(format, args...))
	}
	switch op.Kind {
	case KindExchange:
		if len(op.Send) != size || len(op.Recv) != size {
			return fail("%d parts to send and %d to receive, want one for each rank", len(op.Send), len(op.Recv))
		}
		if len(op.Send[rank]) != len(op.Recv[rank]) {
			return fail("its own part has %d bytes to send and %d to receive", len(op.Send[rank]), len(op.Recv[rank]))
		}
	case KindAllGather:
		if len(op.Bounds) != size+1 || op.Bounds[0] != 0 || op.Bounds[size] != len(op.Data) {
			return fail("bounds are %v for %d bytes of %d ranks", op.Bounds, len(op.Data), size)
		}
		for q := range size {
			if op.Bounds[q] > op.Bounds[q+1] {
				return fail("rank %d's part goes from byte %d to %d", q, op.Bounds[q], op.Bounds[q+1])
			}
		}
	case KindBroadcast:
		if op.Root < 0 || op.Root >= size {
			return fail("the root is rank %d", op.Root)
		}
	}
	return nil
}

// Kind is what an operation does.
type Kind string

// The kinds of operations.
const (
	KindExchange  Kind = "exchange"
	KindAllGather Kind = "all-gather"
	KindBroadcast Kind = "broadcast"
	KindBarrier   Kind = "barrier"
	KindClose     Kind = "close"
)

// Op is an operation with the arguments of the method of Group that is named like
// its kind; for those who write groups.
type Op struct {
	Kind       Kind
	Send, Recv [][]byte
	Data       []byte
	Bounds     []int
	Root       int
}

// CopyOwn does this rank's own part of an exchange.
func (op Op) CopyOwn(rank int) {
	to, from := op.Recv[rank], op.Send[rank]
	if unsafe.SliceData(to) != unsafe.SliceData(from) {
		copy(to, from)
	}
}

// Aborted is the error of all that a group does after a rank's Abort.
type Aborted struct {
	Rank, Code int
	Message    string
}

func (e *Aborted) Error() string {
	return fmt.Sprintf("rank %d has ended the run: %s", e.Rank, e.Message)
}
