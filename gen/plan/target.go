// Package plan makes every decision that the generator and the runtime follow,
// as plain data that can be printed and compared: where each entry of a
// vector is stored, how a factor falls into products, tiles, panels and
// blocks of k, and which kernel runs each of them.
//
// Plans are pure functions of the spec and of a fixed description of the
// target, never of the machine that makes them.
package plan

import "github.com/structuredffn/sffn/runtime/kernel"

// Target is the fixed description of the machine that a plan is made for.
type Target struct {
	ISA kernel.ISA
	// MaxMR is the height of the tallest tile of each width that has kernels;
	// every smaller height has one too.
	MaxMR map[int]int
	// MainMR is the height of the tile that runs where there are rows enough.
	MainMR map[int]int
	// L2 is the level-2 cache of one core, in bytes.
	L2 int
}

// Panels are 32 columns wide. The last one of a product whose columns leave 16
// over is 48 wide, or 16 where there are no more.
const (
	Panel     = 32
	HalfPanel = 16
	LongPanel = 48
)

// PanelWidth is the width of the panels that a tile of nr columns reads: a
// 64-wide tile takes two.
func PanelWidth(nr int) int {
	if nr == 2*Panel {
		return Panel
	}
	return nr
}

// StripMR is the number of rows that backward-weight packs side by side.
func (t Target) StripMR() int { return t.MainMR[Panel] }

// StripRows is the height of the next strip when n rows are left.
func (t Target) StripRows(n int) int {
	if mr := t.StripMR(); n >= 2*mr || n == mr {
		return mr
	} else if n > mr {
		return (n + 1) / 2
	}
	return n
}

var targets = map[kernel.ISA]Target{
	// 6x64 and 12x32 keep 24 accumulators, the loaded panel rows and one
	// broadcast in 32 registers; 14x32 serves up to 14 rows in one pass.
	// Tiles of 6 rows stay within the ways of the L1 cache where rows lie a
	// multiple of 4096 bytes apart.
	kernel.AVX512: {
		ISA:    kernel.AVX512,
		MaxMR:  map[int]int{64: 6, 48: 8, 32: 14, 16: 14},
		MainMR: map[int]int{64: 6, 48: 6, 32: 12, 16: 12},
		L2:     1 << 20,
	},
	// 6x16 keeps 12 accumulators in 16 registers; a 32-wide panel is swept in
	// two halves, a 48-wide one in three.
	kernel.AVX2: {
		ISA:    kernel.AVX2,
		MaxMR:  map[int]int{48: 6, 32: 6, 16: 6},
		MainMR: map[int]int{48: 6, 32: 6, 16: 6},
		L2:     256 << 10,
	},
	// The portable kernel takes any tile; small ones stay in the L1 cache.
	kernel.Portable: {
		ISA:    kernel.Portable,
		MaxMR:  map[int]int{48: 6, 32: 6, 16: 6},
		MainMR: map[int]int{48: 6, 32: 6, 16: 6},
		L2:     256 << 10,
	},
}

// For returns the target of an instruction set.
func For(isa kernel.ISA) Target { return targets[isa] }

// Rows splits m rows into tiles of the given width: tiles of MainMR, the last
// two balanced, or one taller tile where m allows it.
func (t Target) Rows(m, width int) (heights []int) {
	for m > 0 {
		h := t.RowTile(m, width)
		heights = append(heights, h)
		m -= h
	}
	return heights
}

// RowTile is the height of the next tile when m rows are left.
func (t Target) RowTile(m, width int) int {
	main := t.MainMR[width]
	switch {
	case m <= t.MaxMR[width]:
		return m
	case m < 2*main:
		return (m + 1) / 2
	}
	return main
}

// Wide reports whether pairs of panels run as one 64-wide tile at m rows that
// lie stride bytes apart. One or two rows wait for the weights, and one stream
// of them comes faster than two. From 7 to 14 rows one tall tile over a single
// panel loads less, unless its rows share the sets of the L1 cache.
func (t Target) Wide(m, stride int) bool {
	wide := t.MaxMR[2*Panel]
	return wide > 0 && m > 2 && (m <= wide || m > t.MaxMR[Panel] || stride%4096 == 0)
}

// Pairs reports whether the product's panels run in pairs. A single panel of
// a shallow product stays in the L1 cache from one row tile to the next, where
// a pair would not; rows that lie a multiple of 2048 bytes apart would drive it
// out again.
func (t Target) Pairs(p Product) bool {
	shallow := len(p.KBlocks) > 0 && 4*Panel*p.KBlocks[0] <= shallowBytes
	return t.MaxMR[2*Panel] > 0 && !(shallow && 4*p.SrcWidth%2048 != 0)
}

// shallowBytes of a panel stay in the L1 cache.
const shallowBytes = 32 << 10

// AheadLines is the number of cache lines of the next panels that a tile asks
// for every four k: half of what it reads. Where several tiles pass over the
// same panels two of them fetch the next ones while they multiply; the lowest
// tiles, which wait for their own, ask for nothing.
func (t Target) AheadLines(mr, nr int) int {
	if mr <= 2 {
		return 0
	}
	return nr / 8
}

// fewRows is the number of rows whose inputs leave room in the L2 cache for
// panels to come.
const fewRows = 64

// PanelGroup is how many panels of depth kc stay in half of the L2 cache
// while so many rows pass: even, at least 2. Few rows pass over two panels while
// the next two arrive.
func (t Target) PanelGroup(kc, rows int) int {
	if rows <= fewRows {
		return 2
	}
	return max(2, t.L2/2/(4*Panel*kc)&^1)
}

// maxKC bounds the depth of a block of k. Deeper tiles overflow the L1 cache.
const maxKC = 768

// KBlocks splits k products into ceil(k/768) blocks of near-equal depth,
// multiples of 4 but for the last. It depends on k alone: the sums of every
// kernel on every target break at the same places.
func KBlocks(k int) []int {
	n := (k + maxKC - 1) / maxKC
	if n == 0 {
		return nil
	}
	kc := ((k+n-1)/n + 3) &^ 3
	var blocks []int
	for k > 0 {
		b := min(kc, k)
		blocks = append(blocks, b)
		k -= b
	}
	return blocks
}

// RowBlock is the number of rows that backward-weight sums in one chain.
const RowBlock = 256
