package attention

import (
	"fmt"

	"github.com/structuredffn/sffn/runtime/contract"
	"github.com/structuredffn/sffn/runtime/memory"
)

// KVCache holds the packed keys and values of one attention layer for a batch
// of sequences.
type KVCache struct {
	a        *Attention
	capacity int
	heads    int
	kv       []keysValues // [sequence, key/value head]
	held     []int        // positions that each sequence holds
	seen     []bool       // scratch of Extend, all false between calls
	arena    memory.Arena
}

// NewKVCache returns room for capacity positions of each of batch sequences.
func (a *Attention) NewKVCache(batch, capacity int) *KVCache {
	if batch < 0 || capacity < 0 {
		panic(fmt.Sprintf("runtime: %s: a cache of %d sequences of %d", a.name, batch, capacity))
	}
	c := &KVCache{a: a, capacity: capacity, heads: a.KVHeads, held: make([]int, batch), seen: make([]bool, batch)}
	n := a.size(capacity)
	all := c.arena.Floats(batch * a.KVHeads * n) // at once, for huge pages
	for i := range batch * a.KVHeads {
		c.kv = append(c.kv, all[i*n:][:n])
	}
	return c
}

// Copy makes sequence dst hold the first n positions of sequence src, which
// must hold as many.
func (c *KVCache) Copy(dst, src, n int) {
	if min(dst, src) < 0 || max(dst, src) >= len(c.held) {
		panic(fmt.Sprintf("runtime: copying sequence %d to %d of a cache of %d", src, dst, len(c.held)))
	}
	if n < 0 || n > c.held[src] {
		panic(fmt.Sprintf("runtime: copying %d positions of sequence %d, which holds %d", n, src, c.held[src]))
	}
	c.held[dst] = n
	size := c.a.size(n) // of whole blocks, in which they are laid out
	for h := range c.heads {
		copy(c.kv[dst*c.heads+h][:size], c.kv[src*c.heads+h])
	}
}

// Close frees the cache.
func (c *KVCache) Close() { c.arena.Close() }

// Span is a stretch of Rows new positions of one sequence, from Pos, whose
// rows of queries, keys and values begin at Row.
type Span struct{ Seq, Pos, Row, Rows int }

// Extend appends the keys and values of the spans' rows of qkv to the cache
// and computes their outputs o, each row seeing its sequence up to itself. A
// span follows what its sequence holds, or replaces its end: the sequence then
// holds the positions up to the span's last. No sequence has two spans, spans
// come in the order of their rows, and o shares no memory with qkv. On an error
// nothing has changed. The same code as Forward runs on the same layout.
func (a *Attention) Extend(o, qkv []float32, c *KVCache, spans []Span, ws *Workspace) error {
	a.checkWorkspace(ws)
	if err := a.checkSpans(o, qkv, c, spans); err != nil {
		return fmt.Errorf("runtime: %w", err)
	}
	for _, sp := range spans {
		c.held[sp.Seq] = sp.Pos + sp.Rows
	}
	ws.attnCall = attnCall{a: a, o: o, qkv: qkv, cache: c, spans: spans}
	a.pool.Run(len(spans)*a.KVHeads, ws.runExtend)
	return nil
}

func (a *Attention) checkSpans(o, qkv []float32, c *KVCache, spans []Span) error {
	if c == nil {
		return fmt.Errorf("%s: the cache is nil", a.name)
	}
	if c.heads != a.KVHeads || c.a.HeadDim != a.HeadDim {
		return fmt.Errorf("%s: the cache has %d key/value heads of %d", a.name, c.heads, c.a.HeadDim)
	}
	if c.a.packs.Name != a.packs.Name {
		return fmt.Errorf("%s: the cache holds keys and values in another format", a.name)
	}
	defer func() {
		for _, sp := range spans {
			if sp.Seq >= 0 && sp.Seq < len(c.seen) {
				c.seen[sp.Seq] = false
			}
		}
	}()
	next := 0
	for _, sp := range spans {
		switch {
		case sp.Seq < 0 || sp.Seq >= len(c.held):
			return fmt.Errorf("sequence %d of a cache of %d", sp.Seq, len(c.held))
		case c.seen[sp.Seq]:
			return fmt.Errorf("sequence %d has two spans in one call", sp.Seq)
		case sp.Pos < 0 || sp.Rows < 1 || sp.Row < 0:
			return fmt.Errorf("sequence %d: a span of %d rows, from row %d and position %d on", sp.Seq, sp.Rows, sp.Row, sp.Pos)
		case sp.Pos > c.held[sp.Seq]:
			return fmt.Errorf("sequence %d holds %d positions, a span that begins at %d would leave a gap", sp.Seq, c.held[sp.Seq], sp.Pos)
		case sp.Rows > c.capacity-sp.Pos:
			return fmt.Errorf("sequence %d would grow to %d positions, the cache holds %d", sp.Seq, sp.Pos+sp.Rows, c.capacity)
		case sp.Rows > len(qkv)/a.RowWidth()-sp.Row:
			return fmt.Errorf("sequence %d: rows %d to %d of a qkv of %d", sp.Seq, sp.Row, sp.Row+sp.Rows-1, len(qkv)/a.RowWidth())
		case sp.Rows > len(o)/a.OutWidth()-sp.Row:
			return fmt.Errorf("sequence %d: rows %d to %d of an o of %d", sp.Seq, sp.Row, sp.Row+sp.Rows-1, len(o)/a.OutWidth())
		}
		if sp.Row < next {
			return fmt.Errorf("sequence %d: its span begins at row %d, the one before ends with row %d", sp.Seq, sp.Row, next-1)
		}
		next = sp.Row + sp.Rows
		c.seen[sp.Seq] = true
	}
	if contract.Overlap(o[:next*a.OutWidth()], qkv[:next*a.RowWidth()]) {
		return fmt.Errorf("%s: o lies in the memory of qkv", a.name)
	}
	return nil
}

// extendStep appends one span's keys and values of one head, and computes the
// outputs of the query heads of its group.
func (ws *Workspace) extendStep(worker, i int) {
	a, width, hd := ws.a, ws.a.RowWidth(), ws.a.HeadDim
	sp, kvh := ws.spans[i/a.KVHeads], i%a.KVHeads
	kv := ws.cache.kv[sp.Seq*ws.cache.heads+kvh]
	row := ws.qkv[sp.Row*width:]
	a.put(&ws.scratch[worker], kv, row[(a.QHeads+kvh)*hd:], row[(a.QHeads+a.KVHeads+kvh)*hd:], width, sp.Pos, sp.Rows)
	if sp.Rows == 1 { // the heads of the group read keys and values once
		for j := 0; j < a.group; j += queryBlock {
			h := kvh*a.group + j
			a.attend(&ws.scratch[worker], kv, ws.o[sp.Row*a.QHeads*hd+h*hd:], hd, queries{row[h*hd:], hd, sp.Pos, min(queryBlock, a.group-j), 0}, nil)
		}
		return
	}
	for j := range a.group {
		h := kvh*a.group + j
		for r := 0; r < sp.Rows; r += queryBlock {
			at := sp.Row + r
			a.attend(&ws.scratch[worker], kv, ws.o[at*a.QHeads*hd+h*hd:], a.QHeads*hd,
				queries{ws.qkv[at*width+h*hd:], width, sp.Pos + r, min(queryBlock, sp.Rows-r), 1}, nil)
		}
	}
}
