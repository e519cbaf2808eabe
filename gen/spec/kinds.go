package spec

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Kind names the structure of a linear layer.
type Kind string

// The kinds. See [Linear.Chain] for what each one is.
const (
	Dense        Kind = "dense"
	LowRank      Kind = "lowrank"
	BlockDense   Kind = "blockdense"
	BlockShuffle Kind = "blockshuffle"
	// BTT is Qiu et al. 2024, "Compute Better Spent" (arXiv 2406.06248).
	BTT Kind = "btt"
	// BLAST is Lee et al. 2024 (arXiv 2410.21262).
	BLAST Kind = "blast"
)

// kind is a row of the table of kinds: a structure is its chain, and everything
// else follows from that.
type kind struct {
	name Kind
	// chain are the factors of a valid layer.
	chain func(l Linear) []Factor
	// rank says what a rank must be for a layer, nil for kinds that have none; divided names the widths that the number of blocks divides,
	// nil for kinds without blocks.
	rank    func(c *checker, l Linear) bool
	divided func(dims map[string]int, rank int) []string
	// splits says that the kind chooses how each width is cut.
	splits bool
	// initialiser says what the first weights are.
	initialiser Initialiser
	// rates are the factors' learning rates, as multiples of the run's; nil where
	// all are 1, as in the paper.
	rates func(l Linear, chain []Factor) []float64
	// cpuOnly says that there are no GPU kernels yet.
	cpuOnly bool
}

// Initialiser is what becomes of a layer's Gaussian draws (paper, appendix).
type Initialiser string

// The initialisers: the draws as they are, the singular vectors of a dense draw,
// orthogonal blocks, and draws whose deviation is each factor's own, sqrt(min(in,
// out)) / in of a block, with a last factor of zeros where the layer closes a
// residual branch (Qiu et al. 2024).
const (
	Drawn    Initialiser = ""
	SVD      Initialiser = "svd"
	Ortho    Initialiser = "ortho"
	Spectral Initialiser = "spectral"
)

// spectralRates are the learning rates that go with Spectral: in / (in of a block *
// factors), relative to the dense layer's (Qiu et al. 2024).
func spectralRates(l Linear, chain []Factor) (rates []float64) {
	for _, f := range chain {
		rates = append(rates, float64(l.In)/float64(f.In*len(chain)))
	}
	return rates
}

var kinds = []kind{
	{name: Dense, chain: func(l Linear) []Factor { return []Factor{flat("weight", l.In, l.Out)} }},
	{name: LowRank, initialiser: SVD,
		chain: func(l Linear) []Factor { return []Factor{flat("lr1", l.In, l.Rank), flat("lr2", l.Rank, l.Out)} },
		rank:  func(c *checker, l Linear) bool { return c.rank(l, min(l.In, l.Out)) }},
	{name: BlockDense, initialiser: Ortho,
		chain: func(l Linear) []Factor {
			return []Factor{blocked("blkdiag", l.Blocks, l.In/l.Blocks, l.Rank/l.Blocks, Shuffle{}), flat("lr", l.Rank, l.Out)}
		},
		rank: func(c *checker, l Linear) bool { return c.rank(l, MaxWidth) },
		// The inputs of both layers of a network, and the rank.
		divided: func(dims map[string]int, rank int) []string {
			dims["rank"] = rank
			names := []string{"rank"}
			for n := range dims {
				if n == "in" || n == "hidden" || n == "ffn" {
					names = append(names, n)
				}
			}
			return names
		}},
	{name: BlockShuffle, initialiser: Ortho,
		chain: func(l Linear) []Factor {
			b, q := l.Blocks, l.Out/l.Blocks
			if l.In < l.Out {
				q = l.In / b
			}
			return []Factor{blocked("blkdiag1", b, l.In/b, q, Deal(b, q)), blocked("blkdiag2", b, q, l.Out/b, Riffle(b, l.Out/b))}
		},
		divided: func(dims map[string]int, _ int) []string { return slices.Collect(maps.Keys(dims)) }},
	{name: BTT, splits: true, initialiser: Spectral, rates: spectralRates, cpuOnly: true,
		chain: func(l Linear) []Factor {
			m0, n0 := first(l.InSplit, l.In), first(l.OutSplit, l.Out)
			m1, n1 := l.In/m0, l.Out/n0
			return []Factor{blocked("blkdiag1", m1, m0, n0*l.Rank, Shuffle{m1, n0, l.Rank}), blocked("blkdiag2", n0, m1*l.Rank, n1, Shuffle{})}
		},
		// What lies between the factors is rank * m1 * n0 wide.
		rank: func(c *checker, l Linear) bool {
			return c.rank(l, MaxWidth/(l.In/first(l.InSplit, l.In)*first(l.OutSplit, l.Out)))
		}},
	// A split is the number of blocks of that width, where it is not Blocks.
	{name: BLAST, splits: true, initialiser: Spectral, rates: spectralRates, cpuOnly: true,
		chain: func(l Linear) []Factor {
			rows, cols, r := cmp.Or(l.OutSplit, l.Blocks), cmp.Or(l.InSplit, l.Blocks), l.Rank
			return []Factor{blocked("blkdiag1", cols, l.In/cols, r, Riffle(cols, r)), blocked("blkdiag2", r, cols, rows, Riffle(r, rows)),
				blocked("blkdiag3", rows, r, l.Out/rows, Shuffle{})}
		},
		// What lies between the factors is rank * blocks wide.
		rank: func(c *checker, l Linear) bool {
			return c.rank(l, MaxWidth/max(1, l.Blocks, l.InSplit, l.OutSplit))
		},
		divided: func(dims map[string]int, _ int) []string { return slices.Collect(maps.Keys(dims)) }},
}

// first is the first number of a split of a width in two: the given one, or by the
// rule of BTT, whose primes, in rising order, go one by one to the smaller of two
// numbers; the smaller of these.
func first(split, width int) int {
	if split > 0 {
		return split
	}
	a, b := 1, 1
	for p := 2; width > 1; p++ {
		if p*p > width {
			p = width
		}
		for ; width%p == 0; width /= p {
			if a <= b {
				a *= p
			} else {
				b *= p
			}
		}
	}
	return min(a, b)
}

// flat is a factor of one block, whose weight has no axis for it.
func flat(name string, in, out int) Factor {
	return Factor{Param: name, Shape: []int{out, in}, Blocks: 1, In: in, Out: out}
}

func blocked(name string, b, in, out int, then Shuffle) Factor {
	return Factor{Param: name, Shape: []int{b, out, in}, Blocks: b, In: in, Out: out, Then: then}
}

func (k Kind) row() (row kind, ok bool) {
	i := slices.IndexFunc(kinds, func(r kind) bool { return r.name == k })
	if i < 0 {
		return row, false
	}
	return kinds[i], true
}

// Kinds lists the kinds.
func Kinds() (names []Kind) {
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return names
}

// Ranked, Blocked and Split list the kinds that take a rank, those that take a
// number of blocks, and those that take a split of each width.
func Ranked() []Kind  { return having(func(k kind) bool { return k.rank != nil }) }
func Blocked() []Kind { return having(func(k kind) bool { return k.divided != nil }) }
func Split() []Kind   { return having(func(k kind) bool { return k.splits }) }

// Rated lists the kinds whose factors have learning rates of their own.
func Rated() []Kind { return having(func(k kind) bool { return k.rates != nil }) }

func having(has func(kind) bool) (names []Kind) {
	for _, k := range kinds {
		if has(k) {
			names = append(names, k.name)
		}
	}
	return names
}

// OnGPU reports whether there are GPU kernels of the kind.
func (k Kind) OnGPU() bool {
	row, ok := k.row()
	return ok && !row.cpuOnly
}

// Initialiser is the second stage of a kind's first weights.
func (k Kind) Initialiser() Initialiser {
	row, _ := k.row()
	return row.initialiser
}

// Names puts names side by side, with a last word before the last: "dense, lowrank
// or blockdense".
func Names[T ~string](names []T, last string) string {
	var s []string
	for _, n := range names {
		s = append(s, string(n))
	}
	if n := len(s); n > 1 && last != "" {
		return strings.Join(s[:n-1], ", ") + " " + last + " " + s[n-1]
	}
	return strings.Join(s, ", ")
}

// rank reports whether the layer's rank is 1 to limit.
func (c *checker) rank(l Linear, limit int) bool {
	if limit < 1 {
		c.fail("rank", "no rank fits a %d -> %d %s layer: at a rank of 1 there are more than %d entries between its factors; want other splits or blocks", l.In, l.Out, l.Kind, MaxWidth)
		return false
	}
	if l.Rank < 1 || l.Rank > limit {
		c.fail("rank", "%d is out of range for a %d -> %d %s layer, want 1 to %d", l.Rank, l.In, l.Out, l.Kind, limit)
		return false
	}
	return true
}

// cut is a split of a width, by the name of its field, and the widths that it
// cuts.
type cut struct {
	field string
	n     int
	of    []string
}

// structure collects the errors of a structure, of layers whose widths must be
// valid.
func (c *checker) structure(dims map[string]int, cuts []cut, layers ...Linear) {
	kind, rank, blocks := layers[0].Kind, layers[0].Rank, layers[0].Blocks
	row, ok := kind.row()
	if !ok {
		c.fail("kind", "unknown kind %q; valid are %s", kind, Names(Kinds(), ""))
		return
	}
	unused := func(field string, v int) {
		if v != 0 {
			c.fail(field, "a %s layer has none, got %d; leave it out", kind, v)
		}
	}
	faults := len(c.errs)
	divides := func(field string, n int, name string) {
		if d := dims[name]; d > 0 && d%n != 0 {
			c.fail(field, "%d does not divide %s %d; valid are %s", n, name, d, divisors(d))
		}
	}
	var elsewhere []string // widths that a split cuts in place of Blocks
	for _, s := range cuts {
		switch {
		case !row.splits:
			unused(s.field, s.n)
		case s.n < 0:
			c.fail(s.field, "%d is out of range; want a divisor of %s, or 0 for the kind's rule", s.n, s.of[0])
		case s.n > 0:
			for _, name := range s.of {
				divides(s.field, s.n, name)
			}
			elsewhere = append(elsewhere, s.of...)
		}
	}
	if row.rank == nil {
		unused("rank", rank)
	} else if len(c.errs) == faults && slices.ContainsFunc(layers, func(l Linear) bool { return !row.rank(c, l) }) {
		return
	}
	if row.divided == nil {
		unused("blocks", blocks)
		return
	}
	if blocks < 1 {
		c.fail("blocks", "%d is out of range; a %s layer needs at least 1", blocks, kind)
		return
	}
	names := row.divided(dims, rank)
	slices.Sort(names)
	for _, n := range names {
		if !slices.Contains(elsewhere, n) {
			divides("blocks", blocks, n)
		}
	}
}

// Chain returns the factors of a valid layer, the one that reads x first.
// The bias comes after the last factor and its shuffle.
//
//	dense         [1: in -> out]
//	lowrank       [1: in -> r] [1: r -> out]
//	blockdense    [b: in/b -> r/b] [1: r -> out]
//	blockshuffle  [b: in/b -> q] deal [b: q -> out/b] riffle,  q = in/b if in < out, else out/b
//	btt           [m1: m0 -> n0*r] regroup [n0: m1*r -> n1],  in = m0*m1, out = n0*n1
//	blast         [b2: in/b2 -> r] riffle [r: b2 -> b1] riffle [b1: r -> out/b1],  b1 blocks of rows, b2 of columns
func (l Linear) Chain() []Factor {
	row, ok := l.Kind.row()
	if !ok {
		panic(fmt.Sprintf("spec: chain of a layer of invalid kind %q", l.Kind))
	}
	return row.chain(l)
}
