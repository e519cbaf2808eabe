package project

import (
	"github.com/structuredffn/sffn/gen/spec"
)

// blocks are how a chain of two or three factors cuts the dense matrix that it
// amounts to: into a block for each block of the last factor, which has its rows, and
// each of the first factor, which has its columns. What lies between the two connects
// some columns of the last factor's block with some rows of the first's, so that the
// block is a product of these,
//
//	W_ij = last_i M_ij first_j
//
// where M_ij [last.In, first.Out] has an entry for each link: 1 of chains of two
// factors, and a weight of the factor in the middle of chains of three. No link
// belongs to two blocks: of two factors each block is any matrix of a rank up to the
// number of its links, whatever the others are.
type blocks struct {
	first, last   spec.Factor
	middle        *spec.Factor
	rows, columns int      // blocks
	p, q          int      // rows and columns of one
	links         [][]link // of block i*columns + j
	// place is where each row of the matrix lies in the outputs.
	place []int
}

// link is an entry of M_ij. weight is the index of the middle factor's weight, -1
// where there is none.
type link struct{ a, c, weight int }

// newBlocks cuts a valid layer of two or three factors.
func newBlocks(l spec.Linear) *blocks {
	chain := l.Chain()
	b := &blocks{first: chain[0], last: chain[len(chain)-1]}
	b.rows, b.columns, b.p, b.q = b.last.Blocks, b.first.Blocks, b.last.Out, b.first.In
	b.links = make([][]link, b.rows*b.columns)
	for o := range b.rows * b.p {
		b.place = append(b.place, b.last.Shuffled(o))
	}
	connect := func(j, c, to, weight int) {
		i := to / b.last.In * b.columns
		b.links[i+j] = append(b.links[i+j], link{to % b.last.In, c, weight})
	}
	if len(chain) == 3 {
		b.middle = &chain[1]
	}
	for z := range b.first.Blocks * b.first.Out {
		j, c, to := z/b.first.Out, z%b.first.Out, b.first.Shuffled(z)
		if b.middle == nil {
			connect(j, c, to, -1)
			continue
		}
		block, u := to/b.middle.In, to%b.middle.In
		for v := range b.middle.Out {
			z := block*b.middle.Out + v
			connect(j, c, b.middle.Shuffled(z), z*b.middle.In+u)
		}
	}
	return b
}

// of are the links of block (i, j).
func (b *blocks) of(i, j int) []link { return b.links[i*b.columns+j] }
