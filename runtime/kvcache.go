package runtime

import "fmt"

// KVCache holds the packed keys and values of one attention layer for a batch
// of sequences.
type KVCache struct {
	a        *Attention
	capacity int
	heads    int
	kv       []keysValues // [sequence, key/value head]
	arena    Arena
}

// NewKVCache returns room for capacity positions of each of batch sequences.
func (a *Attention) NewKVCache(batch, capacity int) *KVCache {
	c := &KVCache{a: a, capacity: capacity, heads: a.KVHeads}
	n := a.size(capacity)
	all := c.arena.Floats(batch * a.KVHeads * n) // at once, for huge pages
	for i := range batch * a.KVHeads {
		c.kv = append(c.kv, all[i*n:][:n])
	}
	return c
}

// Copy makes sequence dst hold the first n positions of sequence src.
func (c *KVCache) Copy(dst, src, n int) {
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
// and computes their outputs o, each row seeing its sequence up to itself.
// The same code as Forward runs on the same layout.
func (a *Attention) Extend(o, qkv []float32, c *KVCache, spans []Span, ws *AttnWorkspace) error {
	for _, sp := range spans {
		if sp.Pos+sp.Rows > c.capacity {
			return fmt.Errorf("runtime: sequence %d would grow to %d positions, the cache holds %d", sp.Seq, sp.Pos+sp.Rows, c.capacity)
		}
	}
	ws.attnCall = attnCall{a: a, o: o, qkv: qkv, cache: c, spans: spans}
	a.opt.Pool.Run(len(spans)*a.KVHeads, ws.runExtend)
	return nil
}

// extendStep appends one span's keys and values of one head, and computes the
// outputs of the query heads of its group.
func (ws *AttnWorkspace) extendStep(worker, i int) {
	a, width, hd := ws.a, ws.a.rowWidth(), ws.a.HeadDim
	sp, kvh := ws.spans[i/a.KVHeads], i%a.KVHeads
	kv := ws.cache.kv[sp.Seq*ws.cache.heads+kvh]
	row := ws.qkv[sp.Row*width:]
	a.put(kv, row[(a.QHeads+kvh)*hd:], row[(a.QHeads+a.KVHeads+kvh)*hd:], width, sp.Pos, sp.Rows)
	for j := range a.group {
		h := kvh*a.group + j
		for r := 0; r < sp.Rows; r += queryBlock {
			at := sp.Row + r
			a.attend(&ws.scratch[worker], kv, ws.o[at*a.QHeads*hd+h*hd:], ws.qkv[at*width+h*hd:],
				a.QHeads*hd, width, sp.Pos+r, min(queryBlock, sp.Rows-r), nil)
		}
	}
}
