package project

import (
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/blas"
	"gonum.org/v1/gonum/blas/blas64"
	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/mat"

	rt "github.com/structuredffn/sffn/runtime"
)

// sweeps is how often, at most, factors are gone through that cannot be solved at once,
// and enough the share of the error from which on what a sweep gains is worth the next.
const (
	sweeps = 20
	enough = 1e-3
)

// fit is a task whose factors are improved in turn, each by least squares while the
// others stay.
//
// Columns are in coordinates where the inputs of each block are white: with moments C and
// L_j L_j^T = C_jj, a block of weights is W_j L_j there, and what is lost of outputs is
// the trace of E K E^T, E being all that lacks and K_ij = L_i^-1 C_ij L_j^-T. K is as well
// conditioned as the inputs of different blocks are apart, whatever lengths they have: so
// float32 is good for E K, which is where the time goes. Without moments K is the identity.
type fit struct {
	*task
	roots []*mat.Dense
	// by multiplies changes of the columns of a block by their rows of K; nil without moments.
	by []*rt.Linear
	// dense is the matrix, hat what the factors make of it, and g is (dense - hat) K;
	// d is what hat's columns of a block lose. All are row-major, as wide as the
	// matrix but for d.
	dense, hat, g, d []float32
}

// improve finds factors that cannot be solved for at once, in so many sweeps at most.
func (t *task) improve(most int) error {
	n := len(t.w.RawMatrix().Data)
	f := &fit{task: t, dense: make([]float32, n), hat: make([]float32, n), g: make([]float32, n), d: make([]float32, n/t.columns)}
	if t.moments != nil {
		roots, white, err := t.moments.whiten(t.products, t.columns)
		if err != nil {
			return err
		}
		f.roots = roots
		for j := range t.columns {
			w := white[j*t.in*t.q : (j+1)*t.in*t.q]
			if t.columns == 1 {
				w = identity(t.in)
			}
			l := t.must(w, t.q, t.in)
			defer l.Close()
			f.by = append(f.by, l)
		}
	}
	if err := f.start(); err != nil {
		return err
	}
	f.fill()
	lost, reach := f.lost(), 1.0
	for range most {
		before := f.save()
		f.sweep()
		now := f.lost()
		if err := t.ctx.Err(); err != nil {
			return err
		}
		if !(now < lost) {
			f.restore(before)
			break
		}
		// Steps in turn creep where factors depend on each other: to go on in the
		// direction of a sweep, where that is good, is several times faster (Harshman 1970).
		after := f.save()
		for i, w := range f.factors {
			for n := range w {
				w[n] += reach * (w[n] - before.factors[i][n])
			}
		}
		f.fill()
		if further := f.lost(); further < now {
			now, reach = further, 1.5*reach
		} else {
			f.restore(after)
			reach = max(1, reach/3)
		}
		gain := lost - now
		if lost = now; gain < enough*lost {
			break
		}
	}
	f.colour()
	if f.middle == nil {
		t.run(len(t.links), func(_, at int) {
			i, j := at/t.columns, at%t.columns
			if links := t.of(i, j); len(links) > 0 {
				right, left := t.right(i, j), t.left(i, j, false)
				balance(right, left)
				t.put(i, j, right, left)
			}
		})
	} else {
		f.even()
	}
	return t.ctx.Err()
}

func identity(n int) []float32 {
	x := make([]float32, n*n)
	for i := range n {
		x[i*n+i] = 1
	}
	return x
}

// state is what a fit goes back to.
type state struct {
	factors [][]float64
	hat, g  []float32
}

func (f *fit) save() state {
	s := state{hat: slices.Clone(f.hat), g: slices.Clone(f.g)}
	for _, w := range f.factors {
		s.factors = append(s.factors, slices.Clone(w))
	}
	return s
}

func (f *fit) restore(s state) {
	copy(f.hat, s.hat)
	copy(f.g, s.g)
	for i, w := range s.factors {
		copy(f.factors[i], w)
	}
}

// start are factors to begin with: of each block the optimum as if the others lacked
// nothing, or, of chains of three, those of the whole matrix. The first factor is in
// white coordinates from here on.
func (f *fit) start() error {
	t := f.task
	if f.middle != nil {
		if err := f.whole(); err != nil {
			return err
		}
		f.whiten(f.factors[0], f.first.Out)
	}
	f.run(len(f.links), func(worker, at int) {
		i, j := at/f.columns, at%f.columns
		a := mat.DenseCopyOf(f.block(f.w, i, j))
		if f.roots != nil {
			a = f.mul(worker, a, f.roots[j])
		}
		for r := range f.p {
			to := f.row(f.dense, i, j, r)
			for c, v := range a.RawRowView(r) {
				to[c] = float32(v)
			}
		}
		if k := min(len(f.links[at]), f.p, f.q); f.middle == nil && k > 0 {
			right, left := f.principal(worker, a, k)
			t.put(i, j, right, left)
		}
	})
	return f.ctx.Err()
}

// whole is the truncated decomposition of the whole matrix, where the middle factor is
// all ones; what is wider than that begins with random numbers of the same size.
func (f *fit) whole() (err error) {
	k := min(f.first.Out, f.last.In, f.rows*f.p, f.in)
	var right, left *mat.Dense
	if f.moments == nil {
		right, left = f.principal(0, f.w, k)
	} else if right, left, err = f.outputs(0, f.w, k); err != nil {
		return err
	}
	if err := f.ctx.Err(); err != nil {
		return err
	}
	rng := rand.New(rand.NewPCG(1, 1))
	size := func(m *mat.Dense) float64 { return math.Sqrt(square(m) / float64(len(m.RawMatrix().Data))) }
	a, b := size(right), size(left)
	for j := range f.columns {
		first := f.firstBlock(j)
		for c := range f.first.Out {
			for d := range f.q {
				if c < k {
					first.Set(c, d, right.At(c, j*f.q+d))
				} else {
					first.Set(c, d, a*rng.NormFloat64())
				}
			}
		}
	}
	for i := range f.rows {
		last := f.lastBlock(i)
		for r := range f.p {
			for s := range f.last.In {
				if s < k {
					last.Set(r, s, left.At(i*f.p+r, s))
				} else {
					last.Set(r, s, b*rng.NormFloat64())
				}
			}
		}
	}
	for i := range f.factors[1] {
		f.factors[1][i] = 1
	}
	return nil
}

// whiten brings rows of each block of the first factor into white coordinates, colour
// back.
func (f *fit) whiten(w []float64, rows int) { f.triangular(w, rows, blas64.Trmm) }
func (f *fit) colour()                      { f.triangular(f.factors[0], f.first.Out, blas64.Trsm) }

func (f *fit) triangular(w []float64, rows int, by func(blas.Side, blas.Transpose, float64, blas64.Triangular, blas64.General)) {
	if f.roots == nil {
		return
	}
	across := (rows + solvePiece - 1) / solvePiece
	f.run(f.columns*across, func(_, at int) {
		j, lo := at/across, at%across*solvePiece
		hi := min(lo+solvePiece, rows)
		by(blas.Right, blas.NoTrans, 1, lower(f.roots[j]), blas64.General{Rows: hi - lo, Cols: f.q, Stride: f.q, Data: w[(j*rows+lo)*f.q:]})
	})
}

// row is a row of block (i, j) of a matrix as wide as the dense one.
func (f *fit) row(x []float32, i, j, r int) []float32 {
	return x[(i*f.p+r)*f.in+j*f.q:][:f.q]
}

// grad is block (i, j) of g.
func (f *fit) grad(i, j int) *mat.Dense {
	m := mat.NewDense(f.p, f.q, nil)
	for r := range f.p {
		to := m.RawRowView(r)
		for c, v := range f.row(f.g, i, j, r) {
			to[c] = float64(v)
		}
	}
	return m
}

// change adds to block (i, j) of hat, whose columns settle passes on.
func (f *fit) change(i, j int, by *mat.Dense) {
	for r := range f.p {
		hat, d := f.row(f.hat, i, j, r), f.d[(i*f.p+r)*f.q:][:f.q]
		for c, v := range by.RawRowView(r) {
			was := hat[c]
			hat[c] += float32(v)
			d[c] = was - hat[c]
		}
	}
}

// settle makes g what it is after changes of block j of all rows.
func (f *fit) settle(j int) {
	if f.ctx.Err() != nil {
		return
	}
	if f.by != nil {
		f.by[j].Forward(f.g, f.d, f.g, f.rows*f.p, nil, f.spaces[0])
		return
	}
	for r := range f.rows * f.p {
		g, d := f.g[r*f.in+j*f.q:][:f.q], f.d[r*f.q:][:f.q]
		for c, v := range d {
			g[c] += v
		}
	}
}

// fill computes hat and g from the factors.
func (f *fit) fill() {
	clear(f.g)
	for j := range f.columns {
		f.run(f.rows, func(worker, i int) {
			product := f.product(worker, i, j)
			for r := range f.p {
				hat, d, dense := f.row(f.hat, i, j, r), f.d[(i*f.p+r)*f.q:][:f.q], f.row(f.dense, i, j, r)
				for c, v := range product.RawRowView(r) {
					hat[c] = float32(v)
					d[c] = dense[c] - hat[c]
				}
			}
		})
		f.settle(j)
	}
}

// lost is the squared error.
func (f *fit) lost() float64 {
	sums := make([]float64, f.rows*f.p)
	f.pieces(len(sums), tileRows, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			for at := r * f.in; at < (r+1)*f.in; at++ {
				sums[r] += float64(f.g[at]) * (float64(f.dense[at]) - float64(f.hat[at]))
			}
		}
	})
	return sum(sums)
}

// sweep solves all factors once.
func (f *fit) sweep() {
	if f.middle != nil {
		for j := range f.columns {
			f.run(f.rows, func(worker, i int) { f.solveMiddle(worker, i, j) })
			f.settle(j)
		}
		for j := range f.columns {
			f.solveFirst(j)
			f.settle(j)
		}
	} else {
		for j := range f.columns {
			f.run(f.rows, func(worker, i int) { f.solvePair(worker, i, j) })
			f.settle(j)
		}
	}
	f.run(f.rows, f.solveLast)
}

// solvePair solves what a block of a chain of two has of the last factor, and then what it
// has of the first: a step towards the decomposition of what it should be beside the others.
func (f *fit) solvePair(worker, i, j int) {
	links := f.of(i, j)
	if len(links) == 0 {
		f.change(i, j, mat.NewDense(f.p, f.q, nil))
		return
	}
	goal := f.grad(i, j) // and what the block is
	for r := range f.p {
		to := goal.RawRowView(r)
		for c, v := range f.row(f.hat, i, j, r) {
			to[c] += float64(v)
		}
	}
	right := f.right(i, j)
	left := mat.DenseCopyOf(f.solve(worker, f.mul(worker, right, right.T()), f.mul(worker, right, goal.T())).T())
	right = f.solve(worker, f.mul(worker, left.T(), left), f.mul(worker, left.T(), goal))
	f.put(i, j, right, left)
	product := f.mul(worker, left, right)
	for r := range f.p {
		row := product.RawRowView(r)
		for c, v := range f.row(f.hat, i, j, r) {
			row[c] -= float64(v)
		}
	}
	f.change(i, j, product)
}

// solveMiddle solves the weights of the middle factor that block (i, j) has.
func (f *fit) solveMiddle(worker, i, j int) {
	links := f.of(i, j)
	if len(links) == 0 {
		f.change(i, j, mat.NewDense(f.p, f.q, nil))
		return
	}
	left, right := f.left(i, j, false), f.right(i, j)
	toward := f.mul(worker, f.grad(i, j), right.T()) // [p, links]
	n := len(links)
	b := mat.NewDense(n, 1, nil)
	for r := range f.p {
		l, t := left.RawRowView(r), toward.RawRowView(r)
		for s := range n {
			b.Set(s, 0, b.At(s, 0)+l[s]*t[s])
		}
	}
	g := f.mul(worker, left.T(), left)
	g.MulElem(g, f.mul(worker, right, right.T()))
	step := f.solve(worker, g, b)
	for s, at := range links {
		f.factors[1][at.weight] += step.At(s, 0)
		floats.Scale(step.At(s, 0), right.RawRowView(s))
	}
	f.change(i, j, f.mul(worker, left, right))
}

// solveFirst solves block j of the first factor, of a chain of three.
func (f *fit) solveFirst(j int) {
	g, b := mat.NewDense(f.first.Out, f.first.Out, nil), mat.NewDense(f.first.Out, f.q, nil)
	grams, towards := make([]*mat.Dense, f.rows), make([]*mat.Dense, f.rows)
	f.run(f.rows, func(worker, i int) {
		if len(f.of(i, j)) > 0 {
			left := f.left(i, j, true)
			grams[i], towards[i] = f.mul(worker, left.T(), left), f.mul(worker, left.T(), f.grad(i, j))
		}
	})
	if f.ctx.Err() != nil {
		return
	}
	for i := range f.rows {
		links := f.of(i, j)
		for s, x := range links {
			floats.Add(b.RawRowView(x.c), towards[i].RawRowView(s))
			to, from := g.RawRowView(x.c), grams[i].RawRowView(s)
			for t, y := range links {
				to[y.c] += from[t]
			}
		}
	}
	step := f.solve(0, g, b)
	first := f.firstBlock(j)
	first.Add(first, step)
	f.run(f.rows, func(worker, i int) {
		links := f.of(i, j)
		by := mat.NewDense(f.p, f.q, nil)
		if len(links) > 0 {
			steps := mat.NewDense(len(links), f.q, nil)
			for s, x := range links {
				copy(steps.RawRowView(s), step.RawRowView(x.c))
			}
			by = f.mul(worker, f.left(i, j, true), steps)
		}
		f.change(i, j, by)
	})
}

// solveLast solves block i of the last factor, beside all columns: with N = M_i first
// [last.In, in], the step is (N K N^T)^-1 N g^T, [last.In, p].
func (f *fit) solveLast(worker, i int) {
	n := f.last.In
	nk, b, g := mat.NewDense(n, f.in, nil), mat.NewDense(n, f.p, nil), mat.NewDense(n, n, nil)
	inner, to := make([]*mat.Dense, f.columns), make([][]int, f.columns)
	for j := range f.columns {
		if inner[j], to[j] = f.inner(i, j); len(to[j]) == 0 {
			continue
		}
		if f.ctx.Err() != nil {
			return
		}
		toward := f.mul(worker, inner[j], f.grad(i, j).T())
		for s, a := range to[j] {
			floats.Add(b.RawRowView(a), toward.RawRowView(s))
		}
		if f.by == nil {
			for s, a := range to[j] {
				copy(nk.RawRowView(a)[j*f.q:], inner[j].RawRowView(s))
			}
			continue
		}
		y := make([]float32, len(to[j])*f.in)
		f.by[j].Forward(y, narrow32(inner[j]), nil, len(to[j]), nil, f.spaces[worker])
		for s, a := range to[j] {
			row := nk.RawRowView(a)
			for c, v := range y[s*f.in : (s+1)*f.in] {
				row[c] += float64(v)
			}
		}
	}
	for j := range f.columns {
		if len(to[j]) == 0 {
			continue
		}
		part := f.mul(worker, nk.Slice(0, n, j*f.q, (j+1)*f.q).(*mat.Dense), inner[j].T())
		for a := range n {
			row := g.RawRowView(a)
			for s, v := range part.RawRowView(a) {
				row[to[j][s]] += v
			}
		}
	}
	if f.ctx.Err() != nil {
		return
	}
	step := f.solve(worker, g, b)
	last := f.lastBlock(i)
	last.Add(last, step.T())
	lost := f.mul(worker, step.T(), nk)
	for j := range f.columns {
		var by *mat.Dense
		if len(to[j]) > 0 {
			rows := mat.NewDense(len(to[j]), f.p, nil)
			for s, a := range to[j] {
				copy(rows.RawRowView(s), step.RawRowView(a))
			}
			by = f.mul(worker, rows.T(), inner[j])
		}
		for r := range f.p {
			g := f.row(f.g, i, j, r)
			for c, v := range lost.RawRowView(r)[j*f.q:][:f.q] {
				g[c] -= float32(v)
			}
			if by == nil {
				continue
			}
			hat := f.row(f.hat, i, j, r)
			for c, v := range by.RawRowView(r) {
				hat[c] += float32(v)
			}
		}
	}
}

// inner is M_ij first_j, the rows of it that are not 0, and which they are: [rows, q].
func (f *fit) inner(i, j int) (inner *mat.Dense, to []int) {
	first, at := f.firstBlock(j), map[int]int{}
	for _, x := range f.of(i, j) {
		if _, ok := at[x.a]; !ok {
			at[x.a] = len(to)
			to = append(to, x.a)
		}
	}
	if len(to) == 0 {
		return nil, nil
	}
	inner = mat.NewDense(len(to), f.q, nil)
	for _, x := range f.of(i, j) {
		floats.AddScaled(inner.RawRowView(at[x.a]), f.weight(x), first.RawRowView(x.c))
	}
	return inner, to
}

// even gives all rows of the first factor one length, and all columns of the last, as
// they have after a decomposition; the middle factor takes what that changes. The
// product stays.
func (t *task) even() {
	var rows, columns [][]float64 // their lengths, by block
	var a, b float64
	for j := range t.columns {
		first := t.firstBlock(j)
		rows = append(rows, make([]float64, t.first.Out))
		for c := range rows[j] {
			rows[j][c] = floats.Norm(first.RawRowView(c), 2)
		}
		a += floats.Sum(rows[j]) / float64(t.first.Out*t.columns)
	}
	for i := range t.rows {
		last := t.lastBlock(i)
		columns = append(columns, make([]float64, t.last.In))
		for s := range columns[i] {
			columns[i][s] = mat.Norm(last.ColView(s), 2)
		}
		b += floats.Sum(columns[i]) / float64(t.last.In*t.rows)
	}
	// What is 0 stays.
	scale := func(to, from float64) float64 {
		if to == 0 || from == 0 {
			return 1
		}
		return to / from
	}
	for i := range t.rows {
		for j := range t.columns {
			for _, at := range t.of(i, j) {
				t.factors[1][at.weight] /= scale(a, rows[j][at.c]) * scale(b, columns[i][at.a])
			}
		}
	}
	for j := range t.columns {
		first := t.firstBlock(j)
		for c, n := range rows[j] {
			floats.Scale(scale(a, n), first.RawRowView(c))
		}
	}
	for i := range t.rows {
		last := t.lastBlock(i)
		for r := range t.p {
			row := last.RawRowView(r)
			for s, n := range columns[i] {
				row[s] *= scale(b, n)
			}
		}
	}
}

func sum(x []float64) (s float64) {
	for _, v := range x {
		s += v
	}
	return s
}
