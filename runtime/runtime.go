// Package runtime binds structured layers to their weights and runs them: linear layers,
// feed-forward networks and attention, forward and backward, on the kernels that fit the
// machine, with the same bits on any number of threads.
package runtime

import (
	"github.com/structuredffn/sffn/runtime/memory"
	"github.com/structuredffn/sffn/runtime/pool"
)

// Pool is a set of persistent workers that share out chunks of work.
type Pool = pool.Pool

// Arena hands out 64-byte-aligned buffers outside the Go heap.
type Arena = memory.Arena

// DefaultThreads is the number of threads that a pool has by default.
func DefaultThreads() int { return pool.DefaultThreads() }

// NewPool starts a pool of the given number of threads, the caller's
// included; 0 means DefaultThreads. Close it when done.
func NewPool(threads int) *Pool { return pool.New(threads) }
