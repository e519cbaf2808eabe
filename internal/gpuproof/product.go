package gpuproof

import (
	"cmp"
	"math"
	"math/rand/v2"

	"github.com/structuredffn/sffn/internal/f64ref/act"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// place is the index of an operand's entry: i counts the rows or columns that are
// not summed, k those that are.
func place(o table.Operand, block, i, k int) int {
	if o.Summed {
		i, k = k, i
	}
	return o.At(block, i, k)
}

// operands are the two matrices of a product, for one goroutine.
type operands struct {
	a, b side
	// last are the latest sums, by part.
	last []sums
}

// side is one of the matrices, as vectors along what is summed.
type side struct {
	values
	table.Operand
	depth   int
	block   int // of the vectors
	vectors map[int][]float64
	kept    int
}

// mostKept bounds the numbers of vectors that are kept.
const mostKept = 1 << 21

// vector is that of row or column i of a block.
func (s *side) vector(block, i int) []float64 {
	if s.vectors == nil || s.block != block || s.kept+s.depth > mostKept {
		s.block, s.vectors, s.kept = block, map[int][]float64{}, 0
	}
	v := s.vectors[i]
	if v == nil {
		v = make([]float64, 0, min(s.depth, s.len())) // a row may claim what it likes
		for k := range s.depth {
			v = append(v, s.at(place(s.Operand, block, i, k)))
		}
		s.vectors[i] = v
		s.kept += s.depth
	}
	return v
}

// sums are those of neighbouring columns.
type sums struct {
	block, i, j, n int
	sum, abs       [4]float64
}

// sum adds products lo to hi of entry (i,j) of one block, and their absolute
// values, to which the error of float32 sums is relative. Where columns come one
// after the other it adds those of four at a time, of cols in all.
func (o *operands) sum(part, block, i, j, cols, lo, hi int) (sum, abs float64) {
	for len(o.last) <= part {
		o.last = append(o.last, sums{})
	}
	l := &o.last[part]
	if l.n > 0 && l.block == block && l.i == i {
		if n := j - l.j; n >= 0 && n < l.n {
			return l.sum[n], l.abs[n]
		}
		if j == l.j+l.n && j+4 <= cols {
			*l = sums{block: block, i: i, j: j, n: 4}
			l.add(o.a.vector(block, i)[lo:hi], o.b.vector(block, j)[lo:hi], o.b.vector(block, j+1)[lo:hi], o.b.vector(block, j+2)[lo:hi], o.b.vector(block, j+3)[lo:hi])
			return l.sum[0], l.abs[0]
		}
	}
	b := o.b.vector(block, j)[lo:hi]
	for n, x := range o.a.vector(block, i)[lo:hi] {
		p := x * b[n]
		sum += p
		abs += math.Abs(p)
	}
	*l = sums{block, i, j, 1, [4]float64{sum}, [4]float64{abs}}
	return sum, abs
}

// add sums the products of a with each of four.
func (l *sums) add(a, b0, b1, b2, b3 []float64) {
	var s0, s1, s2, s3, a0, a1, a2, a3 float64
	b0, b1, b2, b3 = b0[:len(a)], b1[:len(a)], b2[:len(a)], b3[:len(a)]
	for n, x := range a {
		p0, p1, p2, p3 := x*b0[n], x*b1[n], x*b2[n], x*b3[n]
		s0, s1, s2, s3 = s0+p0, s1+p1, s2+p2, s3+p3
		a0, a1, a2, a3 = a0+math.Abs(p0), a1+math.Abs(p1), a2+math.Abs(p2), a3+math.Abs(p3)
	}
	l.sum, l.abs = [4]float64{s0, s1, s2, s3}, [4]float64{a0, a1, a2, a3}
}

// lost is what float32 loses of a sum of n numbers: n+2 roundings.
func lost(n int, sum, abs float64) float64 { return float64(n+2) * ulp32 * (abs + math.Abs(sum)) }

// product tries a matrix product. Each part of a sum in parts is a result of its
// own.
func product(t *trial, tokens int) {
	k := *t.Shape.Product
	parts := max(1, k.Parts)
	t.counts[table.Tokens], t.counts[table.Parts] = tokens, 1
	// A weight's gradient is cut, and the kernel is told how many units a part has.
	split, units := t.Params[t.array("split")].Unit, 0
	if k.Pass == table.BackwardWeight {
		parts, units = t.Cut.Parts(tokens), t.Cut.Units(tokens)
		t.counts[table.Parts], split = parts, t.Cut.Unit
	} else {
		units = (tokens + split - 1) / max(1, split)
	}
	t.numbers["split"] = uint32(units)
	depth := cmp.Or(k.Depth(), tokens)
	// part is a part's first product and the one after its last.
	part := func(n int) (lo, hi int) {
		each := depth
		switch {
		case k.Split():
			each = k.PartDepth
		case k.Pass == table.BackwardWeight:
			each = units * split
		}
		return min(depth, n*each), min(depth, (n+1)*each)
	}
	a, b := t.draw("a", 1), t.draw("b", 1/math.Sqrt(float64(depth)))
	e := t.epilogue(k)
	rows, cols := cmp.Or(k.Rows(), tokens), k.Cols()
	c := t.array("c")
	t.points = k.Blocks * rows * cols
	point := func(n int) (block, i, j int) { return n / cols / rows, n / cols % rows, n % cols }
	t.wants = func() func(int, wanted) {
		o := operands{a: side{values: a, Operand: k.A, depth: depth}, b: side{values: b, Operand: k.B, depth: depth}}
		return func(n int, want wanted) {
			block, i, j := point(n)
			switch {
			case k.Split():
				for p := range parts {
					lo, hi := part(p)
					v, abs := o.sum(p, block, i, j, cols, lo, hi)
					want(c, (p*tokens+i)*k.C.Pitch+k.C.Cols.At(block, j), v, lost(hi-lo, v, abs))
				}
			case k.Pass == table.BackwardWeight:
				each := t.out[c].len() / parts
				for p := range parts {
					lo, hi := part(p)
					v, abs := o.sum(p, block, i, j, cols, lo, hi)
					want(c, p*each+place(k.C, block, i, j), v, t.stored(c, v, lost(hi-lo, v, abs)))
				}
			default:
				e.wants(block, i, j, func(j int) (v, abs float64, n int) {
					v, abs = o.sum(0, block, i, j, cols, 0, depth)
					return v, abs, depth
				}, want)
			}
		}
	}
	tilesN := (cols + t.Tile.N - 1) / t.Tile.N
	t.ran = func(n int, only func([3]int) bool) bool {
		block, i, j := point(n)
		return only([3]int{block*tilesN + j/t.Tile.N, i / t.Tile.M, 0})
	}
	t.sample = func(add func(int)) { sampleTiles(t.rng, t.Kernel, rows, cols, add) }
}

// mostTiles bounds the tiles of which an entry is compared. Those of the last
// rows and of the last columns are always among them.
const mostTiles = 2048

// sampleTiles adds an entry of every tile of a product's results, or of so many,
// and some of the last row, most of whose tile may be missing.
func sampleTiles(rng *rand.Rand, k table.Kernel, rows, cols int, add func(int)) {
	blocks := k.Shape.Product.Blocks
	tiles := func(n, side int) int { return (n + side - 1) / side }
	down, across := tiles(rows, k.Tile.M), tiles(cols, k.Tile.N)
	each := max(1, blocks*down*across/mostTiles)
	skip := rng.IntN(each)
	for block := range blocks {
		for i := range down {
			for j := range across {
				if ((block*down+i)*across+j)%each != skip && i < down-1 && j < across-1 {
					continue
				}
				r, c := i*k.Tile.M, j*k.Tile.N
				r, c = r+rng.IntN(min(k.Tile.M, rows-r)), c+rng.IntN(min(k.Tile.N, cols-c))
				add((block*rows+r)*cols + c)
			}
		}
		for j := 0; j < cols; j += k.Tile.N {
			add((block*rows+rows-1)*cols + j + rng.IntN(min(k.Tile.N, cols-j)))
		}
	}
}

// stored is how far a sum that is off by tol may be off in an array, where all
// numbers are rounded, to bf16 or once more to float32.
func (t *trial) stored(array int, v, tol float64) float64 {
	ulp := roundoff
	if types[t.Params[array].Type] == 'f' {
		ulp = ulp32
	}
	return tol + (math.Abs(v)+tol)*ulp
}

// epilogue is what follows a product's sums.
type epilogue struct {
	*trial
	table.Product
	bias, before values
	c, pre       int
	keeps        bool // stores the values before the activation
	tanh         float64
	// act is the epilogue's, "" where it has none, of a gate where gated, and its
	// gradient where backward.
	act             string
	backward, gated bool
}

// epilogue draws what a product's epilogue reads.
func (t *trial) epilogue(k table.Product) *epilogue {
	e := &epilogue{trial: t, Product: k, c: t.array("c"), pre: t.array("pre"), tanh: 1.0 / 2048}
	e.act, e.backward = k.Epilogue.Act()
	e.gated = k.Epilogue.Gated()
	if k.Precision == table.Float32s {
		e.tanh = 1.0 / (1 << 19)
	}
	if k.Bias {
		e.bias = t.draw("bias", 0.5)
	}
	switch {
	case k.Epilogue.Slopes():
		e.before = t.draw("pre", 1)
	case k.Epilogue.Activates():
		t.left["pre"] = !t.choose()
		e.keeps = !t.left["pre"]
	}
	return e
}

// wants lists what must be stored for entry (i,j) of a block: half an ulp of the
// stored type, the roundings of a float32 sum, and 2^-11 of tanh.approx, or 2^-19
// of a float32 exponential, whose argument has an absolute error of half an ulp of
// 16, where there is one. sum is the sum of column j, that of its terms' absolute
// values, and their number.
func (k *epilogue) wants(block, i, j int, sum func(j int) (v, abs float64, n int), want wanted) {
	col := func(j int) int { return k.C.Cols.At(block, j) }
	whole := func(j int) (v, e float64) {
		v, abs, n := sum(j)
		if k.bias.data != nil {
			v += k.bias.at(col(j))
		}
		return v, lost(n, v, abs)
	}
	v, e := whole(j)
	at := i*k.Product.C.Pitch + col(j)
	store := func(place int, v, e float64) { want(k.c, place, v, k.stored(k.c, v, e)) }
	// Gates and ups take turns, or those of a row come one after the other.
	result, gate, up := at/2, 2*at, 2*at+1
	if k.Precision == table.Float32s {
		result, gate, up = i*k.C.Pitch/2+col(j), 2*i*k.C.Pitch+col(j), (2*i+1)*k.C.Pitch+col(j)
	}
	if k.keeps {
		want(k.pre, at, v, k.stored(k.pre, v, e))
	}
	f, backward, gated := act.Of(k.act), k.backward, k.gated
	switch {
	case k.act == "":
		store(place(k.C, block, i, j), v, e)
	case !backward && !gated:
		y, slope := f.Value(v)
		store(at, y, e*(math.Abs(slope)+0.1)+math.Abs(v)*k.tanh)
	case !backward:
		if j%2 == 1 {
			return
		}
		u, eu := whole(j + 1)
		s, slope := f.Value(v)
		store(result, s*u, (e*(math.Abs(slope)+0.1)+math.Abs(v)*k.tanh)*(math.Abs(u)+eu)+math.Abs(s)*eu)
	case !gated:
		h := k.before.at(at)
		_, slope := f.Value(h)
		store(at, v*slope, e*math.Abs(slope)+math.Abs(v)*k.tanh*f.Steep(h))
	default:
		g, u := k.before.at(gate), k.before.at(up)
		s, slope := f.Value(g)
		store(gate, v*u*slope, (e*math.Abs(slope)+math.Abs(v)*k.tanh*f.Steep(g))*math.Abs(u))
		store(up, v*s, e*math.Abs(s)+math.Abs(v*g)*k.tanh)
	}
}

// finish tries the kernel that adds the parts of a product's sums.
func finish(t *trial, tokens int) {
	f := *t.Shape.Finish
	rows := table.Operand{Pitch: f.Width, Cols: table.Contiguous(f.Width)}
	k := table.Product{Precision: f.Precision, Blocks: 1, A: rows, C: rows, Epilogue: f.Epilogue, Bias: f.Bias, Sums: f.Sums}
	t.counts[table.Tokens] = tokens
	parts := t.draw("parts", 1)
	e := t.epilogue(k)
	cols := f.Width
	t.points = tokens * cols
	t.wants = func() func(int, wanted) {
		return func(n int, want wanted) {
			i, j := n/cols, n%cols
			e.wants(0, i, j, func(j int) (v, abs float64, n int) {
				for part := range f.Parts {
					p := parts.at((part*tokens+i)*f.Width + j)
					v += p
					abs += math.Abs(p)
				}
				return v, abs, f.Parts
			}, want)
		}
	}
}
