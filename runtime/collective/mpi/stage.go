//go:build linux && (amd64 || arm64)

package mpi

import (
	"math/bits"

	"github.com/structuredffn/sffn/runtime/collective"
)

// What is small goes through memory that is never given back to the system. Networks
// keep what they know of memory, and would not see that Go's heap has moved on.

// stage has an operation use the thread's memory in place of the caller's.
func (t *talker) stage(o *op) {
	n := len(o.Data)
	for q := range o.Send {
		if q != t.rank {
			n += len(o.Send[q]) + len(o.Recv[q])
		}
	}
	if n == 0 || n > collective.Small {
		return
	}
	class := bits.Len(uint(n - 1))
	if list := t.free[class]; len(list) > 0 {
		o.staged, t.free[class] = list[len(list)-1], list[:len(list)-1]
	} else {
		o.staged = t.arena.Bytes(1 << class)
	}
	rest := o.staged
	part := func(of []byte) (p []byte) {
		p, rest = rest[:len(of):len(of)], rest[len(of):]
		return p
	}
	o.caller = o.Op
	switch o.Kind {
	case collective.KindExchange:
		o.Send, o.Recv = make([][]byte, t.size), make([][]byte, t.size)
		for q := range t.size {
			if q != t.rank {
				o.Send[q], o.Recv[q] = part(o.caller.Send[q]), part(o.caller.Recv[q])
				copy(o.Send[q], o.caller.Send[q])
			}
		}
	case collective.KindAllGather:
		o.Data = part(o.caller.Data)
		from, to := o.Bounds[t.rank], o.Bounds[t.rank+1]
		copy(o.Data[from:to], o.caller.Data[from:to])
	default:
		o.Data = part(o.caller.Data)
		copy(o.Data, o.caller.Data)
	}
}

// unstage brings what has come to the caller.
func (t *talker) unstage(o *op, good bool) {
	if o.staged == nil || !good { // MPI may still write where an operation has failed
		return
	}
	switch o.Kind {
	case collective.KindExchange:
		for q := range t.size {
			if q != t.rank {
				copy(o.caller.Recv[q], o.Recv[q])
			}
		}
	case collective.KindAllGather:
		for q := range t.size {
			if from, to := o.Bounds[q], o.Bounds[q+1]; q != t.rank {
				copy(o.caller.Data[from:to], o.Data[from:to])
			}
		}
	default:
		if o.Root != t.rank {
			copy(o.caller.Data, o.Data)
		}
	}
	class := bits.Len(uint(len(o.staged) - 1))
	t.free[class] = append(t.free[class], o.staged)
	o.staged, o.caller = nil, collective.Op{}
}
