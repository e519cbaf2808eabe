// Package attention is blocked causal attention on the kernels of matrix products,
// over whole sequences or a cache of keys and values.
package attention

import (
	"encoding/binary"
	"fmt"
	"math"
	"time"
	"unsafe"

	"github.com/structuredffn/sffn/runtime/contract"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/memory"
	"github.com/structuredffn/sffn/runtime/mul"
	"github.com/structuredffn/sffn/runtime/pool"
	"github.com/structuredffn/sffn/runtime/vec"
)

// Spec is the shape of causal attention. A row of queries, keys and
// values holds QHeads + 2*KVHeads heads of HeadDim entries: all queries, all
// keys, all values. Query head j attends with key/value head
// j / (QHeads/KVHeads).
type Spec struct {
	QHeads, KVHeads, HeadDim int
	// Window, where it is not 0, is how many positions a row sees: the last ones up
	// to its own.
	Window int
	// Scale multiplies the scores.
	Scale float32
}

// first is the first position that the row of position pos sees.
func (s Spec) first(pos int) int {
	if s.Window == 0 {
		return 0
	}
	return max(0, pos+1-s.Window)
}

// seen are the keys that the row of position pos sees of a block of them: entries
// [lo, hi) from k0 on, or none.
func (s Spec) seen(pos, k0, keys int) (lo, hi int) {
	hi = max(0, min(keys, pos+1-k0))
	return min(hi, max(0, s.first(pos)-k0)), hi
}

// firstBlock is the block of keys with the first that any row from position pos on
// sees.
func (s Spec) firstBlock(pos int) int { return s.first(pos) / keyBlock * keyBlock }

// RowWidth is the number of entries of a row of queries, keys and values.
func (s Spec) RowWidth() int { return (s.QHeads + 2*s.KVHeads) * s.HeadDim }

// OutWidth is that of a row of outputs.
func (s Spec) OutWidth() int { return s.QHeads * s.HeadDim }

// Attention is blocked causal softmax(Q K^T) V. It never holds more scores
// than one block of rows times one block of keys for each worker.
type Attention struct {
	Spec
	name  string // for messages
	pool  *pool.Pool
	vec   *vec.Table
	mul   *mul.Multiplier
	group int
	cols  int // HeadDim rounded up to whole panels
	// packs is the format of packed keys and values: float32, or what is widened to it.
	packs kernel.Format
	// ones are what quantising multiplies rows of integers by, nil where there are none.
	ones []float32
}

const (
	keyBlock   = kernel.KeyBlock
	queryBlock = kernel.QueryBlock
)

// New binds the kernels of a target, for keys and values that are held in one of
// [kernel.KVFormats], to which they are rounded: in Int8 each key and each value of a head
// has a scale, by which the largest of its entries is 127. Queries and probabilities stay
// float32. There is no backward pass of rounded ones.
func New(s Spec, p *pool.Pool, target *kernel.Target, kv kernel.FormatName) (*Attention, error) {
	held, ok := kv.Held()
	if !ok {
		return nil, fmt.Errorf("runtime: keys and values in %q; valid: %v", kv, kernel.KVFormats())
	}
	packs, _ := held.Format()
	if s.QHeads < 1 || s.KVHeads < 1 || s.HeadDim < 1 || s.QHeads%s.KVHeads != 0 {
		return nil, fmt.Errorf("runtime: attention with %d query heads, %d key/value heads of %d: want positive counts, key/value heads dividing query heads", s.QHeads, s.KVHeads, s.HeadDim)
	}
	if s.Window < 0 {
		return nil, fmt.Errorf("runtime: attention with a window of %d: want 0 for all positions, or more", s.Window)
	}
	if !(s.Scale >= 0) || s.Scale > math.MaxFloat32 {
		return nil, fmt.Errorf("runtime: attention with scale %v: want 0 or more, finite", s.Scale)
	}
	m, err := mul.NewMultiplier(target, held)
	if err != nil {
		return nil, err
	}
	name := fmt.Sprintf("attention of %d query and %d key/value heads of %d", s.QHeads, s.KVHeads, s.HeadDim)
	if s.Window > 0 {
		name += fmt.Sprintf(", a window of %d", s.Window)
	}
	a := &Attention{Spec: s, name: name, pool: p, vec: vec.On(target), mul: m,
		group: s.QHeads / s.KVHeads, cols: (s.HeadDim + kernel.Panel - 1) &^ (kernel.Panel - 1), packs: packs}
	if packs.Weights == kernel.Integer8 {
		a.ones = make([]float32, kernel.QuantGroups(s.HeadDim)*kernel.QuantGroup)
		for i := range a.ones {
			a.ones[i] = 1
		}
	}
	return a, nil
}

// keysValues holds the packed keys and values of one sequence and one
// key/value head: the layout of both the training pass and the decoder's
// cache. It is [key/128] blocks of the keys, [128/32][head dim][32], the right
// operand of the scores, and the values, [cols/32][128][32], that of the
// outputs; of bfloat16, pairs of head dims and of keys side by side. Between the keys and
// the values of integers are their scales, [2][128]. Blocks fill up from the front: what is
// in use is a single stretch of memory but for the last block. (Processors read ahead some
// 16 KB beyond the end of every stretch.)
type keysValues []float32

// size is the number of entries for up to n keys.
func (a *Attention) size(n int) int { return mul.CeilDiv(n, keyBlock) * a.blockSize() }

// keysSize, valuesSize, scalesSize and blockSize are the numbers of entries of float32 that
// a block of keys takes.
func (a *Attention) keysSize() int { return keyBlock / kernel.Panel * a.keyPanel() / kernel.EntryBytes }
func (a *Attention) valuesSize() int {
	return a.cols / kernel.Panel * a.valuePanel() / kernel.EntryBytes
}
func (a *Attention) scalesSize() int {
	if a.ones == nil {
		return 0
	}
	return 2 * keyBlock
}
func (a *Attention) blockSize() int { return a.keysSize() + a.scalesSize() + a.valuesSize() }

// keyPanel and valuePanel are the bytes of a panel of each.
func (a *Attention) keyPanel() int   { return a.packs.PanelBytes(kernel.Panel, a.HeadDim) }
func (a *Attention) valuePanel() int { return a.packs.PanelBytes(kernel.Panel, keyBlock) }

// keys and values are those of the block that begins with key k0.
func (a *Attention) keys(c keysValues, k0 int) []float32 {
	return c[k0/keyBlock*a.blockSize():][:a.keysSize()]
}

func (a *Attention) values(c keysValues, k0 int) []float32 {
	return c[k0/keyBlock*a.blockSize()+a.keysSize()+a.scalesSize():][:a.valuesSize()]
}

// scales are those of the block's keys and values; empty where these have none.
func (a *Attention) scales(c keysValues, k0 int) (keys, values []float32) {
	s := c[k0/keyBlock*a.blockSize()+a.keysSize():][:a.scalesSize()]
	return s[:len(s)/2], s[len(s)/2:]
}

// put packs the keys and values of positions [pos, pos+n); k and v point at
// the first of n rows, stride entries apart.
func (a *Attention) put(s *attnScratch, c keysValues, k, v []float32, stride, pos, n int) {
	for i := 0; i < n; {
		p := pos + i
		in := p % keyBlock
		keys, values := a.keys(c, p-in)[in/kernel.Panel*a.keyPanel()/kernel.EntryBytes:], a.values(c, p-in)
		switch a.packs.Weights {
		case kernel.BFloat16:
			a.putRounded(keys, values, k[i*stride:][:a.HeadDim], v[i*stride:][:a.HeadDim], in)
			i++
			continue
		case kernel.Integer8:
			ofKeys, ofValues := a.scales(c, p-in)
			ofKeys[in], ofValues[in] = a.putIntegers(s, keys, values, k[i*stride:][:a.HeadDim], v[i*stride:][:a.HeadDim], in)
			i++
			continue
		}
		some := min(n-i, kernel.Panel-in%kernel.Panel) // of one panel of keys
		a.vec.Transpose(keys[in%kernel.Panel:], k[i*stride:], some, a.HeadDim, kernel.Panel, stride)
		whole := a.HeadDim / kernel.Panel
		if whole > 0 {
			a.vec.PackPanels(values[in*kernel.Panel:], v[i*stride:], some, whole, keyBlock*kernel.Panel, stride)
		}
		if rest := whole * kernel.Panel; rest < a.HeadDim {
			for r := range some {
				copy(values[rest*keyBlock+(in+r)*kernel.Panel:], v[(i+r)*stride:][rest:a.HeadDim])
			}
		}
		i += some
	}
}

// putRounded packs one key and its value, the in-th of a block, in bfloat16: the key's
// entries, and the values of neighbouring keys, in pairs.
func (a *Attention) putRounded(keys, values, k, v []float32, in int) {
	var row [roundedRow + kernel.LaneGroup]uint16
	toKeys, toValues := halves(keys)[2*(in%kernel.Panel):], halves(values)[in/2*2*kernel.Panel+in%2:]
	for at := 0; at < a.HeadDim; at += roundedRow {
		n := min(roundedRow, a.HeadDim-at)
		a.vec.ToBF16(row[:], k[at:], 1, n, len(row), n)
		for j, x := range row[:n] {
			d := at + j
			toKeys[d/2*2*kernel.Panel+d%2] = x
		}
		a.vec.ToBF16(row[:], v[at:], 1, n, len(row), n)
		for j, x := range row[:n] {
			d := at + j
			toValues[d/kernel.Panel*(2*a.valuePanel()/kernel.EntryBytes)+d%kernel.Panel*2] = x
		}
	}
}

// putIntegers packs the integers of one key and its value, the in-th of a block, and returns
// their scales.
func (a *Attention) putIntegers(s *attnScratch, keys, values, k, v []float32, in int) (ofKey, ofValue float32) {
	n := kernel.LeftRow(a.HeadDim)
	if len(s.integers) < n {
		s.integers = make([]byte, n)
	}
	panel := integers(keys)[in%kernel.Panel:]
	ofKey = a.eachGroup(s, k, func(d int, group []int8) {
		for j, x := range group {
			panel[(d+j)*kernel.Panel] = x
		}
	})
	toValues := integers(values)[in*kernel.Panel:]
	ofValue = a.eachGroup(s, v, func(d int, group []int8) { copy(toValues[d/kernel.Panel*a.valuePanel():], group) })
	return ofKey, ofValue
}

// eachGroup calls f with the integers of a row, a group of entries at a time from entry d on,
// and returns the row's scale.
func (a *Attention) eachGroup(s *attnScratch, x []float32, f func(d int, group []int8)) float32 {
	a.vec.Quantize(s.integers, x, a.ones)
	for d := 0; d < len(x); d += kernel.QuantGroup {
		at := kernel.LeftHead + d/kernel.QuantGroup*kernel.LeftGroupBytes + kernel.LeftGroupBytes - kernel.QuantGroup
		f(d, unsafe.Slice((*int8)(unsafe.Pointer(&s.integers[at])), min(kernel.QuantGroup, len(x)-d)))
	}
	return math.Float32frombits(binary.NativeEndian.Uint32(s.integers))
}

// integers views entries as four times as many bytes.
func integers(x []float32) []int8 { return unsafe.Slice((*int8)(unsafe.Pointer(&x[0])), 4*len(x)) }

// roundedRow is the number of entries that are rounded at a time.
const roundedRow = 64

// halves views entries as twice as many of 16 bits.
func halves(x []float32) []uint16 { return unsafe.Slice((*uint16)(unsafe.Pointer(&x[0])), 2*len(x)) }

// valuesFrom are the values of keys [lo, hi) of a block as a right operand, from its
// first panel on. Groups of keys that begin elsewhere are copied.
func (a *Attention) valuesFrom(values []float32, lo, hi int) []float32 {
	if a.packs.KGroup == 1 {
		return values[lo*kernel.Panel*a.packs.Weights.Bits/kernel.Float32.Bits:]
	}
	if lo%2 == 0 {
		return values[lo/2*kernel.Panel:]
	}
	moved := make([]float32, len(values))
	to, from := halves(moved), halves(values)
	for at := 0; at < len(from); at += 2 * a.valuePanel() / kernel.EntryBytes {
		for k := lo; k < hi; k++ {
			for c := range kernel.Panel {
				to[at+((k-lo)/2*kernel.Panel+c)*2+(k-lo)%2] = from[at+(k/2*kernel.Panel+c)*2+k%2]
			}
		}
	}
	return moved
}

// panels packs n rows of head dim entries into [cols/32][n][32].
func (a *Attention) panels(dst, x []float32, stride, n int) {
	if a.cols == a.HeadDim {
		a.vec.PackPanels(dst, x, n, a.cols/kernel.Panel, n*kernel.Panel, stride)
		return
	}
	for i := range n {
		row := x[i*stride:][:a.HeadDim]
		for c := 0; c < a.HeadDim; c += kernel.Panel {
			d := dst[(c*n + i*kernel.Panel):][:kernel.Panel]
			clear(d[copy(d, row[c:]):])
		}
	}
}

// queries are rows of queries: row i, at position pos+i*next, sees the keys of its window,
// up to its own. They follow each other in one head (next is 1), or are the heads of a
// group at one position (0).
type queries struct {
	q               []float32 // the first row
	stride          int       // entries from one row to the next
	pos, rows, next int
}

// at is the position of row i.
func (q queries) at(i int) int { return q.pos + i*q.next }

// end is the position behind that of row i.
func (q queries) end(i int) int { return q.at(i) + 1 }

// attend computes the outputs of queries; o points at the first row's. sums, where not nil,
// receives each row's pair of Forward.
func (a *Attention) attend(s *attnScratch, c keysValues, o []float32, oStride int, q queries, sums []float32) {
	out := s.out[:q.rows*a.cols]
	a.average(s, c, out, q, false)
	// The products give keys that a row does not see the weight 0, which makes NaN of
	// values that are not finite.
	if (q.next > 0 && q.rows > 1 || a.Window > 0) && a.anyNaN(out, q.rows) {
		a.average(s, c, out, q, true)
	}
	s.Elementwise(func() {
		for i := range q.rows {
			row := o[i*oStride:][:a.HeadDim]
			copy(row, out[i*a.cols:])
			a.vec.Scale(row, 1/s.sum[i])
			if sums != nil {
				sums[2*i], sums[2*i+1] = s.max[i], float32(math.Log(float64(s.sum[i])))
			}
		}
	})
}

// anyNaN reports whether there may be a NaN in the rows: their sum is one.
func (a *Attention) anyNaN(out []float32, rows int) bool {
	sum := float32(0)
	for i := range rows {
		sum += a.vec.Sum(out[i*a.cols:][:a.HeadDim])
	}
	return sum != sum
}

// average leaves the rows' sums of values, weighted by the exponentials of their
// scores, in out, and the largest scores and sums of exponentials in s. Where
// apart, each row's products are its own: they read no values of keys that the row
// does not see.
func (a *Attention) average(s *attnScratch, c keysValues, out []float32, q queries, apart bool) {
	for i := range q.rows {
		// Not -Inf: the difference of two would be NaN.
		s.max[i], s.sum[i] = -math.MaxFloat32, 0
	}
	first, last := a.firstBlock(q.pos), q.end(q.rows-1)
	if a.Window > 0 {
		// Rows differ in the first block that they see. All add to zeros, so that none
		// depends on where the first row begins.
		clear(out)
	}
	for k0 := first; k0 < last; k0 += keyBlock {
		keys := min(keyBlock, last-k0)
		a.scores(s, a.keys(c, k0), s.p, q, k0, keys)
		ofKeys, ofValues := a.scales(c, k0)
		s.Elementwise(func() { a.softmaxBlock(s, ofKeys, ofValues, out, q, k0, keys, k0 > first) })
		args := kernel.Args{
			A: unsafe.Pointer(&s.p[0]), LDA: kernel.EntryBytes * keyBlock, KStep: kernel.EntryBytes,
			B: unsafe.Pointer(&a.values(c, k0)[0]), PanelStep: a.valuePanel(),
			C: unsafe.Pointer(&out[0]), LDC: kernel.EntryBytes * a.cols,
		}
		if k0 > first || a.Window > 0 {
			args.Flags = kernel.Accumulate
		}
		if !apart {
			panels := a.cols / kernel.Panel
			a.mul.RunNeeded(&s.Scratch, args, q.rows, panels, func(r, n int) mul.Need { return mul.Need{Depth: min(keys, q.end(r+n-1)-k0), Panels: panels} })
			continue
		}
		for i := range q.rows {
			// Zeros before what a row sees leave its sums at zero: the bits are the same.
			if lo, hi := a.seen(q.at(i), k0, keys); lo < hi {
				args.A, args.B = unsafe.Pointer(&s.p[i*keyBlock+lo]), unsafe.Pointer(&a.valuesFrom(a.values(c, k0), lo, hi)[0])
				args.C = unsafe.Pointer(&out[i*a.cols])
				a.mul.Run(&s.Scratch, args, 1, hi-lo, a.cols/kernel.Panel)
			}
		}
	}
}

// softmaxBlock turns the scores of one block of keys into exponentials
// relative to the largest score so far, and rescales what earlier blocks gave
// where that one grew. Exponents are differences of scores, times the scale:
// the largest is exactly 0, however coarse float32 is at the scores' size. later
// says that there are earlier blocks. Scores of keys that are integers come without the
// keys' scales, and exponentials leave with the values'.
func (a *Attention) softmaxBlock(s *attnScratch, ofKeys, ofValues, out []float32, q queries, k0, keys int, later bool) {
	for i := range q.rows {
		row := s.p[i*keyBlock:][:keys]
		lo, hi := a.seen(q.at(i), k0, keys)
		if lo < hi {
			seen := row[lo:hi]
			if a.ones != nil {
				a.vec.Multiply(seen, ofKeys[lo:hi])
			}
			m := max(s.max[i], a.vec.Max(seen))
			corr := float32(math.Exp(float64((s.max[i] - m) * a.Scale)))
			s.sum[i] = s.sum[i]*corr + a.vec.ExpSumBelow(seen, seen, m, a.Scale, 0)
			if a.ones != nil {
				a.vec.Multiply(seen, ofValues[lo:hi])
			}
			if later && corr != 1 {
				a.vec.Scale(out[i*a.cols:][:a.cols], corr)
			}
			s.max[i] = m
		}
		clear(row[:lo])
		clear(row[hi:])
	}
}

// scores computes rows x keys products with the transposed panels kt of keys from k0 on into
// dst, keyBlock entries a row, as far as the rows need them.
func (a *Attention) scores(s *attnScratch, kt, dst []float32, q queries, k0, keys int) {
	a.mul.RunNeeded(&s.Scratch, kernel.Args{
		A: unsafe.Pointer(&q.q[0]), LDA: kernel.EntryBytes * q.stride, KStep: kernel.EntryBytes,
		B: unsafe.Pointer(&kt[0]), PanelStep: a.keyPanel(),
		C: unsafe.Pointer(&dst[0]), LDC: kernel.EntryBytes * keyBlock,
	}, q.rows, mul.CeilDiv(keys, kernel.Panel), func(r, n int) mul.Need {
		return mul.Need{Depth: a.HeadDim, Panels: mul.CeilDiv(max(0, min(keys, q.end(r+n-1)-k0)), kernel.Panel)}
	})
}

// attnScratch is what one worker needs for attention.
type attnScratch struct {
	mul.Scratch
	max, sum [queryBlock]float32
	p, dp    []float32 // [queryBlock, keyBlock]
	out      []float32 // [queryBlock, cols]
	// integers is a row of a key or value, quantised.
	integers []byte
	// Packed rows of the query block for the gradients of keys and values.
	qPanels, doPanels []float32
}

// Workspace is the scratch memory of one caller's attention calls.
type Workspace struct {
	pool    *pool.Pool
	cols    int // of the attention that made it
	scratch []attnScratch
	kv, kt2 memory.Buffer
	dkv     memory.Buffer
	delta   memory.Buffer

	// The call at work, and the closures that the pool runs on it, made once so
	// that a call allocates nothing.
	attnCall
	runPack, runForward, runExtend         func(worker, i int)
	runOpposite, runBackward, runSumGroups func(worker, i int)
}

// attnCall holds the operands of a call: those of Forward and Backward, or of
// Extend.
type attnCall struct {
	a          *Attention
	batch, seq int
	o, qkv     []float32
	sums       []float32
	do, dqkv   []float32
	cache      *KVCache
	spans      []Span
}

// NewWorkspace returns an empty workspace for calls of this attention, and of
// any other with heads of the same size on the same pool.
func (a *Attention) NewWorkspace() *Workspace {
	w := &Workspace{pool: a.pool, cols: a.cols, scratch: make([]attnScratch, a.pool.Threads())}
	for i := range w.scratch {
		s := &w.scratch[i]
		s.p = make([]float32, queryBlock*keyBlock)
		s.out = make([]float32, queryBlock*a.cols)
		s.SetCrowded(a.pool.Crowded())
	}
	w.runPack, w.runForward, w.runExtend = w.packStep, w.forwardStep, w.extendStep
	w.runOpposite, w.runBackward, w.runSumGroups = w.oppositeStep, w.backwardStep, w.sumGroup
	return w
}

// Elementwise is the time that this workspace's calls have spent outside
// matrix products, averaged over the pool's threads.
func (w *Workspace) Elementwise() time.Duration {
	var d time.Duration
	for i := range w.scratch {
		d += w.scratch[i].Spent
	}
	return d / time.Duration(len(w.scratch))
}

// Close frees the workspace.
func (w *Workspace) Close() {
	for _, b := range []*memory.Buffer{&w.kv, &w.kt2, &w.dkv, &w.delta} {
		b.Close()
	}
}

// Forward computes, for batch sequences of seq rows, o [batch*seq,
// QHeads*HeadDim] and, where not nil, sums [batch, QHeads, seq, 2] from qkv
// [batch*seq, (QHeads+2*KVHeads)*HeadDim]. sums are, of each row, the largest
// score before Scale, and the logarithm of the sum of exponentials relative to
// it. (Their sum, the logarithm of all, would lose the second where scores are
// large.) A row depends on no later row of its sequence, finite or not.
func (a *Attention) Forward(o, sums, qkv []float32, batch, seq int, ws *Workspace) {
	m := a.checkBatch(batch, seq, ws)
	contract.Rows(a.name, "o", o, m, a.OutWidth())
	contract.Rows(a.name, "qkv", qkv, m, a.RowWidth())
	if sums != nil {
		contract.Rows(a.name, "sums", sums, m, 2*a.QHeads)
		contract.Apart(a.name, contract.Operand{Name: "sums", Data: sums[:2*m*a.QHeads]}, contract.Operand{Name: "qkv", Data: qkv[:m*a.RowWidth()]}, contract.Operand{Name: "o", Data: o[:m*a.OutWidth()]})
	}
	contract.Apart(a.name, contract.Operand{Name: "o", Data: o[:m*a.OutWidth()]}, contract.Operand{Name: "qkv", Data: qkv[:m*a.RowWidth()]})
	if m == 0 {
		return
	}
	ws.attnCall = attnCall{a: a, batch: batch, seq: seq, o: o, sums: sums, qkv: qkv}
	ws.pack()
	a.pool.Run(batch*a.QHeads*queryBlocks(seq), ws.runForward)
}

// queryBlocks is the number of blocks of a sequence's queries.
func queryBlocks(seq int) int { return mul.CeilDiv(seq, queryBlock) }

// forwardStep computes one block of queries of one head. The last blocks see
// the most keys: they go first.
func (ws *Workspace) forwardStep(worker, i int) {
	a, seq, heads := ws.a, ws.seq, ws.batch*ws.a.QHeads
	q0 := (queryBlocks(seq) - 1 - i/heads) * queryBlock
	b, h := i%heads/a.QHeads, i%a.QHeads
	rows := min(queryBlock, seq-q0)
	row, width, hd := b*seq+q0, a.RowWidth(), a.HeadDim
	var sums []float32
	if ws.sums != nil {
		sums = ws.sums[2*((b*a.QHeads+h)*seq+q0):][:2*rows]
	}
	a.attend(&ws.scratch[worker], ws.head(&ws.kv, b*a.KVHeads+h/a.group), ws.o[row*a.QHeads*hd+h*hd:], a.QHeads*hd,
		queries{ws.qkv[row*width+h*hd:], width, q0, rows, 1}, sums)
}

// pack packs the keys and values of all sequences and heads.
func (ws *Workspace) pack() {
	ws.reserve(&ws.kv)
	ws.a.pool.Run(ws.batch*ws.a.KVHeads, ws.runPack)
}

// reserve makes room in buf for the keys and values of the call.
func (ws *Workspace) reserve(buf *memory.Buffer) {
	buf.Floats(ws.batch * ws.a.KVHeads * ws.a.size(ws.seq))
}

// head is the place in buf of one key/value head of one sequence.
func (ws *Workspace) head(buf *memory.Buffer, i int) keysValues {
	n := ws.a.size(ws.seq)
	return buf.Held()[i*n:][:n]
}

// rows are the keys and the values of one head of one sequence: the first of
// rows that are RowWidth apart.
func (ws *Workspace) rows(i int) (k, v []float32) {
	a := ws.a
	b, h := i/a.KVHeads, i%a.KVHeads
	row := ws.qkv[b*ws.seq*a.RowWidth():]
	return row[(a.QHeads+h)*a.HeadDim:], row[(a.QHeads+a.KVHeads+h)*a.HeadDim:]
}

func (ws *Workspace) packStep(worker, i int) {
	k, v := ws.rows(i)
	ws.a.put(&ws.scratch[worker], ws.head(&ws.kv, i), k, v, ws.a.RowWidth(), 0, ws.seq)
}

// oppositeStep packs the values transposed and the keys plain.
func (ws *Workspace) oppositeStep(worker, i int) {
	k, v := ws.rows(i)
	ws.a.put(&ws.scratch[worker], ws.head(&ws.kt2, i), v, k, ws.a.RowWidth(), 0, ws.seq)
}

// Backward computes dqkv, shaped as qkv, from do and the o, sums and qkv of
// the forward pass. The probabilities are computed again, block by block:
//
//	P = exp((S - sums0)*scale - sums1), dP = dO V^T, dS = P*(dP - rowsum(dO*O))*scale
//	dQ = dS K, dK = dS^T Q, dV = P^T dO
//
// Where an operand of a sequence is not finite, any of that sequence's gradients
// may be NaN: masked entries of P and dS are zeros here, not left out.
func (a *Attention) Backward(dqkv, do, o, sums, qkv []float32, batch, seq int, ws *Workspace) {
	if a.packs.Name != kernel.F32 {
		panic("runtime: " + a.name + ": keys and values are held rounded, and of rounded ones there is no backward pass")
	}
	m := a.checkBatch(batch, seq, ws)
	contract.Rows(a.name, "dqkv", dqkv, m, a.RowWidth())
	contract.Rows(a.name, "do", do, m, a.OutWidth())
	contract.Rows(a.name, "o", o, m, a.OutWidth())
	contract.Rows(a.name, "sums", sums, m, 2*a.QHeads)
	contract.Rows(a.name, "qkv", qkv, m, a.RowWidth())
	contract.Apart(a.name, contract.Operand{Name: "dqkv", Data: dqkv[:m*a.RowWidth()]},
		contract.Operand{Name: "do", Data: do[:m*a.OutWidth()]}, contract.Operand{Name: "o", Data: o[:m*a.OutWidth()]}, contract.Operand{Name: "qkv", Data: qkv[:m*a.RowWidth()]}, contract.Operand{Name: "sums", Data: sums[:2*m*a.QHeads]})
	if m == 0 {
		return
	}
	ws.attnCall = attnCall{a: a, batch: batch, seq: seq, o: o, sums: sums, qkv: qkv, do: do, dqkv: dqkv}
	ws.pack()
	ws.reserve(&ws.kt2)
	a.pool.Run(batch*a.KVHeads, ws.runOpposite)
	ws.dkv.Floats(batch * a.QHeads * ws.share())
	ws.delta.Floats(batch * a.QHeads * seq)
	a.pool.Run(batch*a.QHeads, ws.runBackward)
	a.pool.Run(batch*a.KVHeads, ws.runSumGroups)
}

// share is the size of one query head's own sums of dK and dV: [batch, head,
// seq, 2*cols] in all.
func (ws *Workspace) share() int { return ws.seq * 2 * ws.a.cols }

// backwardStep computes one query head's dQ, and its share of dK and dV.
func (ws *Workspace) backwardStep(worker, i int) {
	a, s, seq := ws.a, &ws.scratch[worker], ws.seq
	s.grow(a)
	width, hd, out := a.RowWidth(), a.HeadDim, a.QHeads*a.HeadDim
	b, h := i/a.QHeads, i%a.QHeads
	delta := ws.delta.Held()[i*seq:][:seq]
	s.Elementwise(func() {
		for r := range delta {
			at := (b*seq+r)*out + h*hd
			delta[r] = a.vec.Dot(ws.do[at:at+hd], ws.o[at:at+hd])
		}
	})
	kv := b*a.KVHeads + h/a.group
	g := headGradient{
		kv: ws.head(&ws.kv, kv), opposite: ws.head(&ws.kt2, kv),
		q: ws.qkv[b*seq*width+h*hd:], dq: ws.dqkv[b*seq*width+h*hd:], width: width,
		do: ws.do[b*seq*out+h*hd:], out: out,
		sums: ws.sums[2*i*seq:][:2*seq], delta: delta, dkv: ws.dkv.Held()[i*ws.share():][:ws.share()],
	}
	for k0 := 0; k0 < seq; k0 += keyBlock {
		end := seq // of the queries that see any of these keys
		if a.Window > 0 {
			end = min(seq, k0+keyBlock-1+min(seq, a.Window))
		}
		for q0 := k0 / queryBlock * queryBlock; q0 < end; q0 += queryBlock {
			a.backwardBlock(s, g, k0, q0, seq)
		}
	}
}

// sumGroup adds up the dK and dV of one key/value head: those of the query
// heads of its group, in order.
func (ws *Workspace) sumGroup(_, i int) {
	a, seq, width, hd := ws.a, ws.seq, ws.a.RowWidth(), ws.a.HeadDim
	b, h := i/a.KVHeads, i%a.KVHeads
	for r := range seq {
		row := ws.dqkv[(b*seq+r)*width:][:width]
		dk := row[(a.QHeads+h)*hd:][:hd]
		dv := row[(a.QHeads+a.KVHeads+h)*hd:][:hd]
		for j := range a.group {
			part := ws.dkv.Held()[(b*a.QHeads+h*a.group+j)*ws.share()+r*2*a.cols:]
			if j == 0 {
				copy(dk, part[:hd])
				copy(dv, part[a.cols:])
			} else {
				a.vec.Add(dk, part[:hd])
				a.vec.Add(dv, part[a.cols:][:hd])
			}
		}
	}
}

func (s *attnScratch) grow(a *Attention) {
	if s.dp == nil {
		s.dp = make([]float32, queryBlock*keyBlock)
		s.qPanels = make([]float32, queryBlock*a.cols)
		s.doPanels = make([]float32, queryBlock*a.cols)
	}
}

// headGradient is one query head of one sequence in the backward pass.
type headGradient struct {
	kv, opposite keysValues
	q, dq        []float32 // rows width apart
	width        int
	do           []float32 // rows out apart
	out          int
	sums, delta  []float32
	dkv          []float32 // [seq, 2*cols]
}

// backwardBlock adds what the query rows from q0 and the keys from k0 give
// each other.
func (a *Attention) backwardBlock(s *attnScratch, g headGradient, k0, q0, seq int) {
	rows := min(queryBlock, seq-q0)
	keys := min(keyBlock, q0+rows-k0)
	q, do := g.q[q0*g.width:], g.do[q0*g.out:]
	a.scores(s, a.keys(g.kv, k0), s.p, queries{q, g.width, q0, rows, 1}, k0, keys)
	a.scores(s, a.keys(g.opposite, k0), s.dp, queries{do, g.out, q0, rows, 1}, k0, keys)
	s.Elementwise(func() {
		for i := range rows {
			lo, hi := a.seen(q0+i, k0, keys)
			p, dp := s.p[i*keyBlock:][:keys], s.dp[i*keyBlock:][:keys]
			if lo < hi {
				p, dp := p[lo:hi], dp[lo:hi]
				a.vec.ExpSumBelow(p, p, g.sums[2*(q0+i)], a.Scale, g.sums[2*(q0+i)+1])
				a.vec.SoftmaxBackward(dp, p, dp, g.delta[q0+i], a.Scale)
			}
			for _, x := range [2][]float32{p, dp} {
				clear(x[:lo])
				clear(x[hi:])
			}
		}
	})
	// dQ: the first block of keys overwrites.
	out, panels := s.out[:rows*a.cols], a.cols/kernel.Panel
	clear(out[:a.cols*min(rows, max(0, k0-q0))]) // rows that see none of the keys
	a.mul.RunNeeded(&s.Scratch, kernel.Args{
		A: unsafe.Pointer(&s.dp[0]), LDA: kernel.EntryBytes * keyBlock, KStep: kernel.EntryBytes,
		B: unsafe.Pointer(&a.values(g.opposite, k0)[0]), PanelStep: a.valuePanel(),
		C: unsafe.Pointer(&out[0]), LDC: kernel.EntryBytes * a.cols,
	}, rows, panels, func(r, n int) mul.Need { return mul.Need{Depth: min(keys, q0+r+n-k0), Panels: panels} })
	for i := range rows {
		dst, src := g.dq[(q0+i)*g.width:][:a.HeadDim], out[i*a.cols:][:a.HeadDim]
		if k0 == a.firstBlock(q0) {
			copy(dst, src)
		} else {
			a.vec.Add(dst, src)
		}
	}
	// dK and dV: keys that earlier rows saw have a sum to add to, the others
	// begin here.
	a.panels(s.qPanels, q, g.width, rows)
	a.panels(s.doPanels, do, g.out, rows)
	seen := min(keys, max(0, q0-k0))
	a.keyGradient(s, g, k0, 0, seen, rows, k0-q0, kernel.Accumulate)
	a.keyGradient(s, g, k0, seen, keys, rows, k0+seen-q0, 0)
}

// keyGradient adds dS^T Q and P^T dO for keys [k0+lo, k0+hi), or stores them
// where flags is 0. The first of them is key own of the block's rows, which sees it first.
func (a *Attention) keyGradient(s *attnScratch, g headGradient, k0, lo, hi, rows, own int, flags kernel.Flags) {
	if lo >= hi {
		return
	}
	ld, panels := 2*a.cols, a.cols/kernel.Panel
	for j, left := range [2][]float32{s.dp, s.p} {
		right := s.qPanels
		if j == 1 {
			right = s.doPanels
		}
		a.mul.RunNeeded(&s.Scratch, kernel.Args{
			A: unsafe.Pointer(&left[lo]), LDA: kernel.EntryBytes, KStep: kernel.EntryBytes * keyBlock,
			B: unsafe.Pointer(&right[0]), PanelStep: kernel.EntryBytes * kernel.Panel * rows,
			C: unsafe.Pointer(&g.dkv[(k0+lo)*ld+j*a.cols]), LDC: kernel.EntryBytes * ld,
			Flags: flags,
		}, hi-lo, panels, func(r, _ int) mul.Need { return mul.Need{From: max(0, own+r), Depth: rows, Panels: panels} })
	}
}

// checkBatch checks the shape of a batch and the workspace, and returns the
// number of its rows.
func (a *Attention) checkBatch(batch, seq int, ws *Workspace) int {
	if batch < 0 || seq < 0 {
		panic(fmt.Sprintf("runtime: %s: a batch of %d sequences of %d", a.name, batch, seq))
	}
	a.checkWorkspace(ws)
	return batch * seq
}

func (a *Attention) checkWorkspace(ws *Workspace) {
	switch {
	case ws == nil:
		panic("runtime: " + a.name + ": the workspace is nil; NewWorkspace makes one")
	case ws.cols != a.cols || ws.pool != a.pool:
		panic("runtime: " + a.name + ": the workspace was made by an attention with heads of another size, or on another pool")
	}
}

// Wrap puts what wrap makes of each kernel in its place: for tests that look at the
// calls.
func (a *Attention) Wrap(wrap func(kernel.Func) kernel.Func) { a.mul.Wrap(wrap) }

// Calls is the number of calls of kernels since somebody last asked.
func (w *Workspace) Calls() (n uint) {
	for i := range w.scratch {
		n += w.scratch[i].Calls()
	}
	return n
}
