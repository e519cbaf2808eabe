package convert

import (
	"math"
	"math/rand/v2"
	"slices"

	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/mat"

	"github.com/structuredffn/sffn/model/initial"
)

// damp is added to the diagonals of least squares, relative to their mean: where a
// problem is singular, what does not matter stays as it is.
const damp = 1e-10

// alternate solves a chain of three factors: factor by factor, each a problem of
// least squares while the others stay. Every step is an addition to the factor,
// damped, so that none raises the error.
func (t *task) alternate() {
	t.start()
	t.measure()
	before := t.copies()
	reach := 1.0
	for range sweeps {
		t.pool.Run(t.rows, func(_, i int) { t.solveLast(i) })
		t.pool.Run(t.rows, func(_, i int) { t.solveMiddle(i) })
		if t.moments == nil {
			t.pool.Run(t.columns, func(_, j int) { t.solveFirst(j) })
		} else {
			for j := range t.columns {
				t.solveFirst(j) // changes what the others see
			}
		}
		reach, before = t.extrapolate(before, reach), t.copies()
	}
	t.even()
}

func (t *task) copies() (factors [][]float64) {
	for _, f := range t.factors {
		factors = append(factors, slices.Clone(f))
	}
	return factors
}

// extrapolate goes on in the direction that a sweep has taken from the factors before,
// by reach times as much, where the error is lower there. Steps in turn creep where
// factors depend on each other, and this is several times faster (Harshman 1970).
func (t *task) extrapolate(before [][]float64, reach float64) (next float64) {
	now, rest, error := t.copies(), mat.DenseCopyOf(t.rest), t.lost()
	for i, f := range t.factors {
		for n := range f {
			f[n] += reach * (f[n] - before[i][n])
		}
	}
	t.measure()
	if t.lost() < error {
		return 1.5 * reach
	}
	for i, f := range t.factors {
		copy(f, now[i])
	}
	t.rest = rest
	return max(1, reach/3)
}

// lost is the squared error that is minimised.
func (t *task) lost() float64 {
	r := t.result()
	if t.moments != nil {
		return r.LostOutput
	}
	return r.Lost
}

// start is the truncated decomposition of the whole matrix, where the middle factor is
// all ones; what is wider than that begins with random numbers of the same size.
func (t *task) start() {
	w := mat.DenseCopyOf(t.w)
	rows, _ := w.Dims()
	k := min(t.first.Out, t.last.In, rows, t.in)
	var whole *mat.TriDense
	if t.moments != nil {
		if roots, err := t.moments.roots(1); err == nil { // blocks of it are positive definite, so is it but for rounding
			whole = roots[0]
			var white mat.Dense
			white.Mul(w, whole)
			w = &white
		}
	}
	right, left, _ := initial.LowRank(w.RawMatrix().Data, rows, t.in, k)
	if whole != nil {
		r := mat.NewDense(k, t.in, right)
		var plain mat.Dense
		_ = plain.Solve(whole.T(), r.T()) // positive definite
		for s := range k {
			for d := range t.in {
				right[s*t.in+d] = plain.At(d, s)
			}
		}
		balance(right, left, t.in, k)
	}
	rng := rand.New(rand.NewPCG(1, 1))
	size := func(x []float64) float64 { return floats.Norm(x, 2) / math.Sqrt(float64(len(x))) }
	a, b := size(right), size(left)
	for j := range t.columns {
		first := t.firstBlock(j)
		for c := range t.first.Out {
			if c < k {
				copy(first.RawRowView(c), right[c*t.in+j*t.q:])
				continue
			}
			for d := range t.q {
				first.Set(c, d, a*rng.NormFloat64())
			}
		}
	}
	for i := range t.rows {
		last := t.lastBlock(i)
		for r := range t.p {
			for s := range t.last.In {
				if s < k {
					last.Set(r, s, left[(i*t.p+r)*k+s])
				} else {
					last.Set(r, s, b*rng.NormFloat64())
				}
			}
		}
	}
	for i := range t.factors[1] {
		t.factors[1][i] = 1
	}
}

// measure computes what the factors lack.
func (t *task) measure() {
	t.pool.Run(t.rows, func(_, i int) {
		var product mat.Dense
		product.Mul(t.lastBlock(i), t.inner(i))
		t.strip(t.rest, i).Sub(t.strip(t.w, i), &product)
	})
}

// weight is the entry of M_ij.
func (t *task) weight(at link) float64 {
	if at.weight < 0 {
		return 1
	}
	return t.factors[1][at.weight]
}

// inner is M_ij first_j of all blocks j of a row, [last.In, in].
func (t *task) inner(i int) *mat.Dense {
	n := mat.NewDense(t.last.In, t.in, nil)
	for j := range t.columns {
		first := t.firstBlock(j)
		for _, at := range t.of(i, j) {
			floats.AddScaled(n.RawRowView(at.a)[j*t.q:(j+1)*t.q], t.weight(at), first.RawRowView(at.c))
		}
	}
	return n
}

// outer is last_i M_ij, [p, first.Out].
func (t *task) outer(i, j int) *mat.Dense {
	k, last := mat.NewDense(t.p, t.first.Out, nil), t.lastBlock(i)
	for r := range t.p {
		to, from := k.RawRowView(r), last.RawRowView(r)
		for _, at := range t.of(i, j) {
			to[at.c] += from[at.a] * t.weight(at)
		}
	}
	return k
}

// toward is (E C)_j of rows of E; the moments of weights alone are the identity.
func (t *task) toward(rest *mat.Dense, j int) *mat.Dense {
	rows, _ := rest.Dims()
	if t.moments == nil {
		return rest.Slice(0, rows, j*t.q, (j+1)*t.q).(*mat.Dense)
	}
	var e mat.Dense
	e.Mul(rest, t.moments.columns(j, t.q))
	return &e
}

// solve returns (g + damping)^-1 b, of a symmetric g.
func solve(g *mat.Dense, b mat.Matrix) *mat.Dense {
	n, _ := g.Dims()
	s := mat.NewSymDense(n, nil)
	small := damp * mat.Trace(g) / float64(n)
	if small == 0 {
		small = 1
	}
	var x mat.Dense
	for range 16 { // rounding may leave g indefinite by more than the damping
		for i := range n {
			for j := i; j < n; j++ {
				s.SetSym(i, j, g.At(i, j))
			}
			s.SetSym(i, i, g.At(i, i)+small)
		}
		var chol mat.Cholesky
		if chol.Factorize(s) {
			_ = chol.SolveTo(&x, b) // warns of a bad condition, which the damping bounds
			return &x
		}
		small *= 10
	}
	_, columns := b.Dims()
	return mat.NewDense(n, columns, nil) // no step is better than a wild one
}

// solveLast solves block i of the last factor.
func (t *task) solveLast(i int) {
	n, rest := t.inner(i), t.strip(t.rest, i)
	weighted := n
	if t.moments != nil {
		weighted = &mat.Dense{}
		weighted.Mul(n, t.moments.c)
	}
	var g, b, product mat.Dense
	g.Mul(weighted, n.T())
	b.Mul(weighted, rest.T())
	step := solve(&g, &b) // [last.In, p]
	last := t.lastBlock(i)
	last.Add(last, step.T())
	product.Mul(step.T(), n)
	rest.Sub(rest, &product)
}

// solveMiddle solves the weights of the middle factor that row i of blocks has, block
// by block.
func (t *task) solveMiddle(i int) {
	last := t.lastBlock(i)
	var left mat.Dense
	left.Mul(last.T(), last)
	for j := range t.columns {
		links, first := t.of(i, j), t.firstBlock(j)
		if len(links) == 0 {
			continue
		}
		weighted := first
		if t.moments != nil {
			weighted = &mat.Dense{}
			weighted.Mul(first, t.moments.own(j, t.q))
		}
		var right, b, ef mat.Dense
		right.Mul(weighted, first.T())
		ef.Mul(t.toward(t.strip(t.rest, i), j), first.T())
		b.Mul(last.T(), &ef)
		g, rhs := mat.NewDense(len(links), len(links), nil), mat.NewDense(len(links), 1, nil)
		for m, x := range links {
			rhs.Set(m, 0, b.At(x.a, x.c))
			row, lrow, rrow := g.RawRowView(m), left.RawRowView(x.a), right.RawRowView(x.c)
			for n, y := range links {
				row[n] = lrow[y.a] * rrow[y.c]
			}
		}
		step := solve(g, rhs)
		// What the step adds to the block: last_i dM first_j.
		dm := mat.NewDense(t.last.In, t.q, nil)
		for m, x := range links {
			t.factors[1][x.weight] += step.At(m, 0)
			floats.AddScaled(dm.RawRowView(x.a), step.At(m, 0), first.RawRowView(x.c))
		}
		var product mat.Dense
		product.Mul(last, dm)
		rest := t.block(t.rest, i, j)
		rest.Sub(rest, &product)
	}
}

// solveFirst solves block j of the first factor.
func (t *task) solveFirst(j int) {
	g, b := mat.NewDense(t.first.Out, t.first.Out, nil), mat.NewDense(t.first.Out, t.q, nil)
	e := t.toward(t.rest, j)
	for i := range t.rows {
		k := t.outer(i, j)
		var part mat.Dense
		part.Mul(k.T(), k)
		g.Add(g, &part)
		var toward mat.Dense
		toward.Mul(k.T(), e.Slice(i*t.p, (i+1)*t.p, 0, t.q))
		b.Add(b, &toward)
	}
	step := solve(g, b)
	if t.moments != nil {
		// The step is C_jj^-1 away from weights.
		var white mat.Dense
		white.Mul(step, inverse(t.roots[j]))
		step = &white
	}
	first := t.firstBlock(j)
	first.Add(first, step)
	for i := range t.rows {
		var product mat.Dense
		product.Mul(t.outer(i, j), step)
		rest := t.block(t.rest, i, j)
		rest.Sub(rest, &product)
	}
}

// inverse is (L L^T)^-1.
func inverse(root *mat.TriDense) *mat.Dense {
	n, _ := root.Dims()
	eye := mat.NewDense(n, n, nil)
	for i := range n {
		eye.Set(i, i, 1)
	}
	var half, inv mat.Dense
	_ = half.Solve(root, eye) // positive definite
	inv.Mul(half.T(), &half)
	return &inv
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
