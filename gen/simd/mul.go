package simd

import (
	"cmp"
	"fmt"
	"math/bits"
	"slices"

	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// Mul assembles matrix-product kernels: one file an instruction set, and the
// file of their declarations.
func Mul(pkg string, kernels []kernel.Row) (map[string][]byte, error) {
	byISA := map[kernel.ISA][]kernel.Row{}
	for _, k := range kernels {
		byISA[k.ISA] = append(byISA[k.ISA], k)
	}
	files := map[string][]byte{}
	var asms []*asm
	for _, isa := range kernel.ISAs {
		ks := byISA[isa]
		if len(ks) == 0 {
			continue
		}
		slices.SortFunc(ks, func(a, b kernel.Row) int { return cmp.Compare(a.Name(), b.Name()) })
		e := newAsm(isa)
		for _, k := range ks {
			if k.Across {
				e.across(k)
			} else if k.Format.Quantized() {
				if err := e.integers(k); err != nil {
					return nil, err
				}
			} else if err := e.mul(k); err != nil {
				return nil, err
			}
		}
		src, err := e.finish()
		if err != nil {
			return nil, err
		}
		files[fmt.Sprintf("z_mul_%s_amd64.s", isa)] = src
		asms = append(asms, e)
	}
	files["z_mul_amd64.go"] = stubs(pkg, "Args", asms...)
	return files, nil
}

// tile is the emission of one matrix-product kernel:
//
//	for t in tiles:
//	    acc = 0
//	    for seg in segments: for k in seg: acc[i][j] += A[i,k] * B[k,j], by the format's inner step
//	    epilogue: scale, accumulate, bias, residual, aux, activation, store
type tile struct {
	*asm
	kernel.Row
	format kernel.Format
	step   step
	acc    [][]reg.VecVirtual
	// t counts the tiles done, b walks the panel.
	t, b reg.GPVirtual
	// columnAt is the column of the panel at which each vector begins; groupBytes
	// the size of one group of k of all columns of the panel.
	columnAt   []int
	groupBytes int
	// paired tiles take their last vectors from the neighbouring panel,
	// pairStep bytes on.
	paired   bool
	pairStep reg.GPVirtual
	// ahead walks what comes next.
	ahead reg.GPVirtual
}

func (e *asm) mul(k kernel.Row) error {
	m := &tile{asm: e, Row: k, paired: k.NR == 2*kernel.Panel}
	var ok bool
	if m.format, ok = k.Format.Format(); !ok {
		return fmt.Errorf("simd: unknown format %q", k.Format)
	}
	if m.step, ok = steps[m.format.Name][k.ISA]; !ok {
		return fmt.Errorf("simd: format %s has no inner step on %s", m.format.Name, k.ISA)
	}
	if _, ok := activations[k.Epilogue]; !ok && k.Epilogue != kernel.Linear {
		return fmt.Errorf("simd: activation %q has no epilogue", k.Epilogue)
	}
	e.function(k.Name(), k.Needs())
	m.groupBytes = kernel.PanelWidth(k.NR) * m.format.GroupBytes()
	vectors := k.NR / e.Lanes() / k.Sweeps
	for j := range vectors {
		at := j * e.Lanes() % kernel.PanelWidth(k.NR)
		if k.Epilogue.Gated() && m.Sweeps == 2 {
			at = j * kernel.HalfPanel // the gates' and the ups' half of the panel
		}
		m.columnAt = append(m.columnAt, at)
	}
	m.t = e.GP64()
	e.XORQ(m.t, m.t)
	next := e.label("tile")
	e.Label(next)
	m.beginTile(vectors)
	if k.PrefetchC {
		m.prefetch()
	}
	m.beginAhead()
	m.products()
	m.endAhead()
	m.epilogue()
	e.INCQ(m.t)
	n := e.load(argNTiles)
	switch m.Sweeps {
	case 2:
		e.ADDQ(n, n)
	case 3:
		e.LEAQ(indexed(n, n, 2, 0), n)
	}
	e.CMPQ(m.t, n)
	e.JL(e.jump(next))
	e.done()
	return nil
}

// beginTile clears the accumulators and points b at the tile's panel.
func (m *tile) beginTile(vectors int) {
	m.acc = nil
	for range m.MR {
		row := m.vecs(vectors)
		for _, v := range row {
			m.Zero(v)
		}
		m.acc = append(m.acc, row)
	}
	m.b = m.GP64()
	m.MOVQ(m.t, m.b)
	if m.Sweeps == 3 {
		// A 48-wide panel is a product's last: there is no other tile.
		m.times(kernel.HalfPanel*m.format.GroupBytes(), m.b)
		m.ADDQ(m.field(argB), m.b)
		return
	}
	half := m.GP64()
	if m.Sweeps == 2 {
		// Tile t is sweep t&1 of panel t>>1.
		m.MOVQ(m.t, half)
		m.ANDQ(operand.U32(1), half)
		m.times(m.sweepColumns()*m.format.GroupBytes(), half)
		m.SHRQ(operand.U8(1), m.b)
	}
	step := m.load(argPanelStep)
	m.IMULQ(step, m.b)
	if m.paired {
		m.pairStep = step
		m.ADDQ(m.b, m.b)
	}
	m.ADDQ(m.field(argB), m.b)
	if m.Sweeps == 2 {
		m.ADDQ(half, m.b)
	}
}

// sweepColumns is the distance of a panel's two sweeps: a gated one takes half of
// the gates, and the ups that belong to them.
func (m *tile) sweepColumns() int {
	if m.Epilogue.Gated() {
		return kernel.HalfPanel / 2
	}
	return kernel.HalfPanel
}

// times multiplies r by a power of two.
func (m *tile) times(n int, r reg.GPVirtual) {
	if n&(n-1) != 0 {
		panic(fmt.Sprintf("simd: %d is no power of two", n))
	}
	m.SHLQ(operand.U8(bits.TrailingZeros(uint(n))), r)
}

// prefetch asks for the lines that the epilogue will store to: rows lie too far
// apart for the hardware to see them coming, and the products hide the wait.
func (m *tile) prefetch() {
	lines := func(base, ld, extra uintptr) {
		m.rows(base, ld, extra, func(_ int, p reg.GPVirtual) {
			for at := 0; at < m.stored(); at += 64 {
				m.PREFETCHT0(mem(p, at))
			}
		})
	}
	lines(argC, argLDC, 0)
	if m.Epilogue != kernel.Linear {
		m.optional(argAux, func() {
			lines(argAux, argLDAux, 0)
			if m.Epilogue.Gated() {
				lines(argAux, argLDAux, argUpAux)
			}
		})
	}
}

// beginAhead points ahead at what comes next, or else at the panel itself,
// where a prefetch does nothing.
func (m *tile) beginAhead() {
	if m.aheadLines() == 0 {
		return
	}
	some := m.label("ahead")
	m.ahead = m.load(argAhead)
	m.TESTQ(m.ahead, m.ahead)
	m.JNZ(m.jump(some))
	m.MOVQ(m.b, m.ahead)
	m.Label(some)
}

// askAhead asks for what comes next after the products of us k: so many lines
// every four, nothing in rounds of one.
func (m *tile) askAhead(us int) {
	lines := m.aheadLines() * us / aheadK
	if us < m.Unroll || lines == 0 {
		return
	}
	for i := range lines {
		m.PREFETCHT1(mem(m.ahead, 64*i))
	}
	m.ADDQ(operand.I32(int32(64*lines)), m.ahead)
}

// endAhead leaves ahead for the next tile.
func (m *tile) endAhead() {
	if m.aheadLines() > 0 {
		m.MOVQ(m.ahead, m.field(argAhead))
	}
}

// aheadLines is the number of lines that one sweep asks for every four k.
func (m *tile) aheadLines() int { return m.Ahead / m.Sweeps }

const aheadK = 4

// panelVec is where vector j of the g-th group of k of the panel lies.
func (m *tile) panelVec(g, j int) operand.Mem {
	disp := g*m.groupBytes + m.columnAt[j]*m.format.GroupBytes()
	if m.paired && j >= len(m.columnAt)/2 {
		return indexed(m.b, m.pairStep, 1, disp)
	}
	return mem(m.b, disp)
}

// round multiplies us k, from b on: one multiplication at a time, of which a gives
// the left operand of row i at the u-th k, and next, where not nil, is called after
// each.
func (m *tile) round(us int, a func(u, i int) operand.Mem, next func()) {
	for u := 0; u < us; u += m.step.k {
		bs := m.vecs(len(m.columnAt))
		for j, b := range bs {
			m.step.load(m.asm, m.panelVec(u/m.format.KGroup, j), u%m.format.KGroup/m.step.k, b)
		}
		for i, row := range m.acc {
			x := m.Vec()
			m.step.left(m.asm, a(u, i), x)
			for j, b := range bs {
				m.step.multiply(m.asm, x, b, row[j])
			}
		}
		if next != nil {
			next()
		}
	}
}

// leftBytes is the size of what us k of a packed row of the left operand take: four bytes
// a multiplication.
func (m *tile) leftBytes(us int) int { return us * m.format.Activations.Bits / 8 }

// advance moves b past us k.
func (m *tile) advance(us int) {
	m.ADDQ(operand.I32(int32(m.format.Groups(us)*m.groupBytes)), m.b)
}

func (m *tile) products() {
	switch {
	case m.Shape != nil:
		m.constantProducts()
	case m.Strip:
		ap := m.load(argA)
		segs, n := m.load(argSegs), m.GP64()
		m.MOVQ(mem(segs, int(segLen)), n)
		m.countedLoop(n, func(us int) {
			m.round(us, func(u, i int) operand.Mem { return mem(ap, m.leftBytes(u)*m.MR+kernel.EntryBytes*i) }, nil)
			m.advance(us)
			m.ADDQ(operand.I32(int32(m.leftBytes(us)*m.MR)), ap)
		})
	default:
		m.stridedProducts()
	}
}

// countedLoop runs body(Unroll) n/Unroll times, then a group of k at a time, then
// what is left of one, of which packed rows leave nothing. n is destroyed.
func (m *tile) countedLoop(n reg.GPVirtual, body func(us int)) {
	rest, end := m.label("rest"), m.label("end")
	main, one := m.label("main"), m.label("one")
	m.SUBQ(operand.I32(int32(m.Unroll)), n)
	m.JL(m.jump(rest))
	m.Label(main)
	body(m.Unroll)
	m.SUBQ(operand.I32(int32(m.Unroll)), n)
	m.JGE(m.jump(main))
	m.Label(rest)
	m.ADDQ(operand.I32(int32(m.Unroll)), n)
	m.JZ(m.jump(end))
	group := m.format.KGroup
	if group == 1 {
		m.Label(one)
		body(1)
		m.DECQ(n)
		m.JNZ(m.jump(one))
		m.Label(end)
		return
	}
	part := m.label("part")
	m.SUBQ(operand.I32(int32(group)), n)
	m.JL(m.jump(part))
	m.Label(one)
	body(group)
	m.SUBQ(operand.I32(int32(group)), n)
	m.JGE(m.jump(one))
	m.Label(part)
	m.ADDQ(operand.I32(int32(group)), n)
	if m.format.Packs() {
		m.Label(end)
		return
	}
	m.JZ(m.jump(end))
	for us := 1; us < group; us++ {
		more := m.label("more")
		m.CMPQ(n, operand.I32(int32(us)))
		m.JNE(m.jump(more))
		body(us)
		m.JMP(m.jump(end))
		m.Label(more)
	}
	m.Label(end)
}

// constantProducts has every stride and count as an immediate.
func (m *tile) constantProducts() {
	s := m.Shape
	ap := m.load(argA)
	n := len(s.Segs)
	step := func(us int) int { return us * s.KStep }
	if m.format.Packs() {
		step = m.leftBytes
	}
	body := func() {
		us := m.Unroll
		block := func(us int) {
			m.round(us, func(u, i int) operand.Mem { return mem(ap, i*s.LDA+step(u)) }, nil)
			m.askAhead(us)
			m.advance(us)
			m.ADDQ(operand.I32(int32(step(us))), ap)
		}
		if c := s.Segs[0].Len / us; c > 0 {
			k, l := m.GP64(), m.label("k")
			m.MOVQ(operand.U32(uint32(c)), k)
			m.Label(l)
			block(us)
			m.DECQ(k)
			m.JNZ(m.jump(l))
		}
		if r := s.Segs[0].Len % us; r > 0 {
			block(r)
		}
	}
	if n == 1 {
		body()
		return
	}
	c, l := m.GP64(), m.label("seg")
	m.MOVQ(operand.U32(uint32(n)), c)
	m.Label(l)
	body()
	m.ADDQ(operand.I32(int32(s.Segs[1].Off-s.Segs[0].Off-s.Segs[0].Len*s.KStep)), ap)
	m.DECQ(c)
	m.JNZ(m.jump(l))
}

// stridedProducts reads every stride from the arguments. Rows are addressed
// from pointers 5 rows apart: with the stride and three times the stride as
// index registers, one pointer reaches rows 0 to 4 and 6, 8, 12.
func (m *tile) stridedProducts() {
	lda, lda3 := m.load(argLDA), m.GP64()
	var kStep reg.GPVirtual
	if !m.format.Packs() {
		kStep = m.load(argKStep)
	}
	m.LEAQ(indexed(lda, lda, 2, 0), lda3)
	segs, nsegs := m.load(argSegs), m.load(argNSegs)
	l := m.label("seg")
	m.Label(l)
	ptrs := make([]reg.GPVirtual, (m.MR+pointerRows-1)/pointerRows)
	for i := range ptrs {
		ptrs[i] = m.GP64()
		if i == 0 {
			m.MOVQ(m.field(argA), ptrs[0])
			m.ADDQ(mem(segs, int(segOff)), ptrs[0])
			continue
		}
		m.LEAQ(indexed(ptrs[i-1], lda, 4, 0), ptrs[i])
		m.ADDQ(lda, ptrs[i])
	}
	row := func(_, i int) operand.Mem { return stride{lda, lda3}.at(ptrs[i/pointerRows], i%pointerRows) }
	next := func() {
		for _, p := range ptrs {
			m.ADDQ(kStep, p)
		}
	}
	if m.format.Packs() {
		at := row
		row, next = func(u, i int) operand.Mem { return at(u, i).Offset(m.leftBytes(u)) }, nil
	}
	n := m.GP64()
	m.MOVQ(mem(segs, int(segLen)), n)
	m.countedLoop(n, func(us int) {
		m.round(us, row, next)
		if m.format.Packs() {
			for _, p := range ptrs {
				m.ADDQ(operand.I32(int32(m.leftBytes(us))), p)
			}
		}
		m.askAhead(us)
		m.advance(us)
	})
	m.ADDQ(operand.I32(int32(segSize)), segs)
	m.DECQ(nsegs)
	m.JNZ(m.jump(l))
}

// pointerRows is the number of rows, equally far apart, that one pointer reaches with
// the distance and three times the distance as index registers.
const pointerRows = 5

// stride holds these registers.
type stride struct{ one, three reg.GPVirtual }

// stride loads the distance of n rows.
func (e *asm) stride(field uintptr, n int) (s stride) {
	if n > 1 {
		s.one = e.load(field)
	}
	if n > 3 {
		s.three = e.GP64()
		e.LEAQ(indexed(s.one, s.one, 2, 0), s.three)
	}
	return s
}

// at is row i of those that p reaches.
func (s stride) at(p reg.Register, i int) operand.Mem {
	switch i {
	case 0:
		return mem(p, 0)
	case 1:
		return indexed(p, s.one, 1, 0)
	case 2:
		return indexed(p, s.one, 2, 0)
	case 3:
		return indexed(p, s.three, 1, 0)
	}
	return indexed(p, s.one, 4, 0)
}

// stored is the number of bytes that one row of a tile (or sweep) stores.
func (m *tile) stored() int {
	n := len(m.columnAt) * m.Bytes()
	if m.Epilogue.Gated() {
		n /= 2
	}
	return n
}

// rows walks the tile's rows of the buffer at field base, whose row stride is
// at field ld, calling f with the row's index and pointer. extra, where not 0,
// is a field that is added to the base.
func (m *tile) rows(base, ld, extra uintptr, f func(i int, p reg.GPVirtual)) {
	p := m.load(base)
	m.addColumns(p, m.stored())
	if extra != 0 {
		m.ADDQ(m.field(extra), p)
	}
	stride := m.GP64()
	if m.MR > 1 {
		m.MOVQ(m.field(ld), stride)
	}
	for i := range m.MR {
		f(i, p)
		if i < m.MR-1 {
			m.ADDQ(stride, p)
		}
	}
}

// addColumns advances p by the columns of the tiles done.
func (m *tile) addColumns(p reg.GPVirtual, bytes int) {
	off := m.GP64()
	m.IMUL3Q(operand.U32(uint32(bytes)), m.t, off)
	m.ADDQ(off, p)
}

// optional emits body where the pointer at field off is not nil.
func (m *tile) optional(off uintptr, body func()) {
	skip := m.label("skip")
	p := m.load(off)
	m.TESTQ(p, p)
	m.JZ(m.jump(skip))
	body()
	m.Label(skip)
}

// flagged emits body where the flag is set.
func (m *tile) flagged(f kernel.Flags, body func()) {
	skip := m.label("skip")
	m.TESTL(operand.U32(uint32(f)), m.field(argFlags))
	m.JZ(m.jump(skip))
	body()
	m.Label(skip)
}

func (m *tile) epilogue() {
	gated := m.Epilogue.Gated()
	m.flagged(kernel.Scale, func() {
		alpha := m.Vec()
		m.VBROADCASTSS(m.field(argAlpha), alpha)
		for _, row := range m.acc {
			for _, v := range row {
				m.VMULPS(alpha, v, v)
			}
		}
	})
	m.flagged(kernel.Accumulate, func() {
		add := func(i int, p reg.GPVirtual, vs []reg.VecVirtual) {
			for j, v := range vs {
				m.VADDPS(mem(p, j*m.Bytes()), v, v)
			}
		}
		if gated {
			m.rows(argAux, argLDAux, 0, func(i int, p reg.GPVirtual) { add(i, p, m.gates(i)) })
			m.rows(argAux, argLDAux, argUpAux, func(i int, p reg.GPVirtual) { add(i, p, m.ups(i)) })
			return
		}
		m.rows(argC, argLDC, 0, func(i int, p reg.GPVirtual) { add(i, p, m.acc[i]) })
	})
	m.optional(argBias, m.addBias)
	if !gated {
		m.optional(argResidual, func() {
			m.rows(argResidual, argLDC, 0, func(i int, p reg.GPVirtual) {
				for j, v := range m.acc[i] {
					m.VADDPS(mem(p, j*m.Bytes()), v, v)
				}
			})
		})
	}
	if m.Epilogue != kernel.Linear {
		m.optional(argAux, m.storeAux)
	}
	switch {
	case m.Epilogue == kernel.Linear:
		m.store(func(i int) []reg.VecVirtual { return m.acc[i] })
	case !gated:
		m.storeActivated()
	default:
		skip := m.label("skip")
		m.TESTL(operand.U32(uint32(kernel.PreOnly)), m.field(argFlags))
		m.JNZ(m.jump(skip))
		m.storeActivated()
		m.Label(skip)
	}
}

// store stores the vectors of each row.
func (m *tile) store(row func(i int) []reg.VecVirtual) {
	m.rows(argC, argLDC, 0, func(i int, p reg.GPVirtual) {
		for j, v := range row(i) {
			m.VMOVUPS(v, mem(p, j*m.Bytes()))
		}
	})
}

// gates and ups are the halves of a gated row: panels hold 16 of each.
func (m *tile) gates(i int) []reg.VecVirtual { return m.half(i, 0) }
func (m *tile) ups(i int) []reg.VecVirtual   { return m.half(i, 1) }

func (m *tile) half(i, h int) (vs []reg.VecVirtual) {
	for j := h; j < len(m.acc[i]); j += 2 {
		vs = append(vs, m.acc[i][j])
	}
	return vs
}

// addBias adds one entry a packed column. A sweep's vectors lie in the bias
// as they do in a row of the panel.
func (m *tile) addBias() {
	p := m.load(argBias)
	if m.Sweeps == 2 {
		panel, half := m.GP64(), m.GP64()
		m.MOVQ(m.t, panel)
		m.SHRQ(operand.U8(1), panel)
		m.times(kernel.Panel*kernel.EntryBytes, panel)
		m.ADDQ(panel, p)
		m.MOVQ(m.t, half)
		m.ANDQ(operand.U32(1), half)
		m.times(m.sweepColumns()*kernel.EntryBytes, half)
		m.ADDQ(half, p)
	} else {
		m.addColumns(p, len(m.columnAt)*m.Bytes())
	}
	for j := range m.columnAt {
		at := j * m.Bytes()
		if m.Sweeps == 2 {
			at = m.columnAt[j] * kernel.EntryBytes
		}
		b := m.Vec()
		m.VMOVUPS(mem(p, at), b)
		for _, row := range m.acc {
			m.VADDPS(b, row[j], row[j])
		}
	}
}

func (m *tile) storeAux() {
	store := func(vs []reg.VecVirtual, p reg.GPVirtual) {
		for j, v := range vs {
			m.VMOVUPS(v, mem(p, j*m.Bytes()))
		}
	}
	if !m.Epilogue.Gated() {
		m.rows(argAux, argLDAux, 0, func(i int, p reg.GPVirtual) { store(m.acc[i], p) })
		return
	}
	m.rows(argAux, argLDAux, 0, func(i int, p reg.GPVirtual) { store(m.gates(i), p) })
	m.rows(argAux, argLDAux, argUpAux, func(i int, p reg.GPVirtual) { store(m.ups(i), p) })
}
