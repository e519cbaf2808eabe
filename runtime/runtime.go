// Package runtime binds structured layers to their weights and runs them: linear layers,
// feed-forward networks and attention, forward and backward, on the kernels that fit the
// machine, with the same bits on any number of threads.
package runtime

import (
	"fmt"

	"github.com/structuredffn/sffn/runtime/attention"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/memory"
	"github.com/structuredffn/sffn/runtime/mul"
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

// Workspace is the scratch memory of one caller. All of its layers share it;
// it grows to what the largest one needs. It must not be used by two calls at
// once.
type Workspace struct {
	*mul.Workspace
	half half
}

// NewWorkspace returns an empty workspace for calls on the pool.
func NewWorkspace(pool *Pool) *Workspace { return &Workspace{Workspace: mul.NewWorkspace(pool)} }

// begin starts the stages of a call over m rows, each of width entries between
// factors.
func (w *Workspace) begin(t *kernel.Target, m, width int) {
	w.half = half{}
	w.Begin(t, m, width)
}

// Close frees the workspace's buffers.
func (w *Workspace) Close() {
	w.half = half{}
	w.Workspace.Close()
}

// Attention is blocked causal softmax(Q K^T) V.
type Attention = attention.Attention

// AttentionSpec is the shape of causal attention.
type AttentionSpec = attention.Spec

// AttnWorkspace is the scratch memory of one caller's attention calls.
type AttnWorkspace = attention.Workspace

// KVCache holds the packed keys and values of one attention layer for a batch
// of sequences.
type KVCache = attention.KVCache

// Span is a stretch of new positions of one sequence.
type Span = attention.Span

// NewAttention binds the kernels of attention.
func NewAttention(s AttentionSpec, opt Options) (*Attention, error) {
	if err := opt.setDefaults(); err != nil {
		return nil, err
	}
	if opt.Train && opt.KV != "" && opt.KV != kernel.F32 {
		return nil, fmt.Errorf("runtime: keys and values in %s are for running models; to train want %s", opt.KV, kernel.F32)
	}
	return attention.New(s, opt.Pool, opt.Target, opt.KV)
}
