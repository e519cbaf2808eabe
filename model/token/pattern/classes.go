package pattern

import (
	"slices"
	"unicode"
	"unicode/utf8"
)

// classes maps characters to classes, the characters of which no set of an
// expression tells apart.
type classes struct {
	n      int // the class of the edge of the text is n
	ascii  [utf8.RuneSelf]uint16
	blocks [(unicode.MaxRune + 1) / blockSize]uint16 // of every 64 characters, a block of table
	table  []uint16
}

// blockSize is what the last byte of UTF-8 tells apart.
const blockSize = 64

// of returns the class of a character behind ASCII.
func (c *classes) of(r rune) uint16 {
	return c.table[int(c.blocks[uint32(r)/blockSize])*blockSize+int(uint32(r)%blockSize)]
}

// class returns the class of any character.
func (c *classes) class(r rune) uint16 {
	if r < utf8.RuneSelf {
		return c.ascii[r]
	}
	return c.of(r)
}

// partition makes the classes for sets of characters, and says which classes
// each set has.
func partition(sets []set) (c *classes, members [][]bool) {
	bounds := []rune{0, unicode.MaxRune + 1}
	for _, s := range sets {
		for _, r := range s {
			bounds = append(bounds, r.lo, r.hi+1)
		}
	}
	slices.Sort(bounds)
	bounds = slices.Compact(bounds)
	ids := make([]int, len(bounds)-1) // of each interval between bounds
	// stretches calls f for each interval of a set.
	stretches := func(s set, f func(i int)) {
		for _, r := range s {
			i, _ := slices.BinarySearch(bounds, r.lo)
			for ; bounds[i] <= r.hi; i++ {
				f(i)
			}
		}
	}
	// Each set takes intervals out of the classes that there are, to new ones.
	taken := make([]struct{ by, to int }, 1)
	for by, s := range sets {
		stretches(s, func(i int) {
			if t := &taken[ids[i]]; t.to == 0 || t.by != by {
				t.by, t.to = by, len(taken)
				taken = append(taken, struct{ by, to int }{})
			}
			ids[i] = taken[ids[i]].to
		})
	}
	c = &classes{}
	dense := map[int]int{}
	for i, id := range ids {
		if _, ok := dense[id]; !ok {
			dense[id] = len(dense)
		}
		ids[i] = dense[id]
	}
	c.n = len(dense)
	for _, s := range sets {
		m := make([]bool, c.n+1)
		stretches(s, func(i int) { m[ids[i]] = true })
		members = append(members, m)
	}
	c.fill(bounds, ids)
	return c, members
}

// fill makes the tables; equal blocks are kept once.
func (c *classes) fill(bounds []rune, ids []int) {
	known := map[[blockSize]uint16]uint16{}
	uniform := map[int]uint16{} // blocks of one class
	add := func(block *[blockSize]uint16) uint16 {
		index, ok := known[*block]
		if !ok {
			index = uint16(len(c.table) / blockSize)
			known[*block] = index
			c.table = append(c.table, block[:]...)
		}
		return index
	}
	var block [blockSize]uint16
	at := 0
	for r := rune(0); r <= unicode.MaxRune; r += blockSize {
		for bounds[at+1] <= r {
			at++
		}
		whole := bounds[at+1] >= r+blockSize
		index, ok := uniform[ids[at]]
		if !whole || !ok {
			for i, at := 0, at; i < blockSize; i++ {
				for bounds[at+1] <= r+rune(i) {
					at++
				}
				block[i] = uint16(ids[at])
			}
			if index = add(&block); whole {
				uniform[ids[at]] = index
			}
		}
		c.blocks[r/blockSize] = index
	}
	for r := range c.ascii {
		c.ascii[r] = c.of(rune(r))
	}
}
