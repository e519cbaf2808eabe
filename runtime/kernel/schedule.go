package kernel

import (
	"errors"
	"fmt"
)

// Schedule holds every size that a target's speed depends on and its results do
// not: the same layer on another schedule has the same bits.
type Schedule struct {
	// Tiles are the heights of tiles, by [Width].
	Tiles [NumWidths]Tile `json:"tiles"`
	// Across is the tile of kernels whose lanes run across blocks.
	Across AcrossTile `json:"across"`
	// Unroll is the number of k of one round of a kernel's loop.
	Unroll int `json:"unroll"`
	// PrefetchC makes kernels ask for the lines that they will store to.
	PrefetchC bool `json:"prefetch_c"`
	// AheadColumns is the number of a tile's columns for which it asks for one
	// cache line of the next panels every four k, 0 for never; tiles of AheadRows
	// or fewer, which wait for their own, ask for nothing.
	AheadColumns int `json:"ahead_columns"`
	AheadRows    int `json:"ahead_rows"`

	// LoneRows is the number of rows up to which panels run one by one, where one stream of
	// the weights that they wait for comes faster than two.
	LoneRows int `json:"lone_rows"`
	// PairTall lets pairs of panels run as one tile where there are more rows than
	// the tallest tile over one panel has.
	PairTall bool `json:"pair_tall"`
	// ShallowBytes of a panel stay in the L1 cache from one row tile to the next,
	// where a pair would not.
	ShallowBytes int `json:"shallow_bytes"`
	// SetBytes is the distance of addresses that share a set of the L1 cache.
	SetBytes int `json:"set_bytes"`

	// PanelBytes of panels stay in the L2 cache while rows pass; up to FewRows rows
	// pass over two panels while the next two arrive.
	PanelBytes int `json:"panel_bytes"`
	FewRows    int `json:"few_rows"`

	// RowTiles is the unit of chunks of rows, which pass through all stages of a
	// call together: MinRowChunk are worth a chunk of their own, MaxRowChunk rows of
	// activations and one group of panels share the L2 cache, and ChunksPerThread
	// keep the last ones short.
	RowTiles        int `json:"row_tiles"`
	MinRowChunk     int `json:"min_row_chunk"`
	MaxRowChunk     int `json:"max_row_chunk"`
	ChunksPerThread int `json:"chunks_per_thread"`
	// ChunkBytes bounds the rows of a chunk where those between the factors are wide:
	// they stay near while the next factor reads them.
	ChunkBytes int `json:"chunk_bytes"`
	// UnitsPerThread is the number of shares of columns a thread, where these are
	// handed out.
	UnitsPerThread int `json:"units_per_thread"`
	// InlineFlops is the work below which a dispatch costs more than it saves.
	InlineFlops int `json:"inline_flops"`

	// Int8Rows and Int4Rows are the heights of the tallest tiles of formats of integers.
	Int8Rows int `json:"int8_rows"`
	Int4Rows int `json:"int4_rows"`

	// StripRows is the number of dY's columns that backward-weight packs side by
	// side; LeftStrips strips are packed at once: together they are whole cache
	// lines of dY's rows.
	StripRows  int `json:"strip_rows"`
	LeftStrips int `json:"left_strips"`
	// GradientBytes of packed inputs stay in the L2 cache while strips pass.
	GradientBytes int `json:"gradient_bytes"`
	// WeightUnitsPerThread is the number of units of gradient work a thread;
	// SmallUnit weights' gradients stay in the L2 cache from one block of rows to the
	// next.
	WeightUnitsPerThread int `json:"weight_units_per_thread"`
	SmallUnit            int `json:"small_unit"`
	// BiasColumns is the width of a unit of bias gradient, ColumnRows the rows of one
	// call that sums columns.
	BiasColumns int `json:"bias_columns"`
	ColumnRows  int `json:"column_rows"`
	// MergeRows is the number of rows of the identity that pass at a time when
	// factors are merged.
	MergeRows int `json:"merge_rows"`
}

// Tile says how tall the tiles of one width are.
type Tile struct {
	// Max is the height of the tallest tile with kernels, 0 where there is none of
	// this width; every smaller height has one too. Main is the height of the tile
	// that runs where there are rows enough.
	Max  int `json:"max"`
	Main int `json:"main"`
	// Sweeps is the number of groups of columns in which a tile is computed, one
	// after the other.
	Sweeps int `json:"sweeps"`
}

// AcrossTile are the sizes of kernels whose lanes run across blocks.
type AcrossTile struct {
	// Rows and Columns are the largest tile with kernels, in vectors of [LaneGroup]
	// blocks; every smaller one has kernels, too.
	Rows    int `json:"rows"`
	Columns int `json:"columns"`
	// Depth is the number of rows of both operands that a weight gradient passes over
	// at a time, so that they stay in the L1 cache from one tile to the next.
	Depth int `json:"depth"`
	// Ahead is the number of cache lines beyond each vector at which another one is
	// asked for: that of a group of lanes to come.
	Ahead int `json:"ahead"`
}

// MaxMR is the height of the tallest tile that there may be, MaxAcross the number of
// columns of the widest one across blocks.
const (
	MaxMR     = 15
	MaxAcross = 5
)

// Validate says what would make a schedule run out of room or not end.
func (s Schedule) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	within := func(name string, v, lo, hi int) {
		if v < lo || v > hi {
			fail("%s: %d is out of range, want %d to %d", name, v, lo, hi)
		}
	}
	for w, t := range s.Tiles {
		name := fmt.Sprintf("tiles[%d]", w)
		if Width(w) == Pair && t == (Tile{}) {
			continue
		}
		within(name+".max", t.Max, 1, MaxMR)
		within(name+".main", t.Main, 1, t.Max)
		within(name+".sweeps", t.Sweeps, 1, 3)
	}
	// Products that pass through scratch have tiles of one height over all panels.
	if s.Tiles[Half].Max < s.Tiles[Full].Max || s.Tiles[Full].Max < s.Tiles[Long].Max {
		fail("tiles: the tallest of width %d, %d and %d are %d, %d and %d rows; want none taller than a narrower one", Widths[Half], Widths[Full], Widths[Long],
			s.Tiles[Half].Max, s.Tiles[Full].Max, s.Tiles[Long].Max)
	}
	for _, f := range []struct {
		name      string
		v, lo, hi int
	}{
		{"across.rows", s.Across.Rows, 1, MaxMR}, {"across.columns", s.Across.Columns, 1, MaxAcross}, {"across.depth", s.Across.Depth, 1, RowBlock}, {"across.ahead", s.Across.Ahead, 0, 64},
		{"unroll", s.Unroll, 1, 16}, {"ahead_columns", s.AheadColumns, 0, 2 * Panel}, {"ahead_rows", s.AheadRows, 0, MaxMR},
		{"lone_rows", s.LoneRows, 0, MaxMR}, {"shallow_bytes", s.ShallowBytes, 0, 1 << 30}, {"set_bytes", s.SetBytes, 64, 1 << 20},
		{"panel_bytes", s.PanelBytes, 1, 1 << 30}, {"few_rows", s.FewRows, 0, 1 << 20},
		{"row_tiles", s.RowTiles, 1, MaxMR}, {"min_row_chunk", s.MinRowChunk, s.RowTiles, 1 << 20}, {"max_row_chunk", s.MaxRowChunk, s.MinRowChunk, 1 << 20},
		{"chunks_per_thread", s.ChunksPerThread, 1, 64}, {"chunk_bytes", s.ChunkBytes, 1, 1 << 30}, {"units_per_thread", s.UnitsPerThread, 1, 64}, {"inline_flops", s.InlineFlops, 0, 1 << 30},
		{"int8_rows", s.Int8Rows, 1, MaxMR}, {"int4_rows", s.Int4Rows, 1, MaxMR},
		{"strip_rows", s.StripRows, 1, MaxMR}, {"left_strips", s.LeftStrips, 1, 64}, {"gradient_bytes", s.GradientBytes, 1, 1 << 30},
		{"weight_units_per_thread", s.WeightUnitsPerThread, 1, 64}, {"small_unit", s.SmallUnit, 1, 1 << 30},
		{"bias_columns", s.BiasColumns, 1, 1 << 20}, {"column_rows", s.ColumnRows, 1, 1 << 20}, {"merge_rows", s.MergeRows, 1, 1 << 20},
	} {
		within(f.name, f.v, f.lo, f.hi)
	}
	if s.MaxRowChunk%max(1, s.RowTiles) != 0 {
		fail("max_row_chunk: %d is no multiple of row_tiles, %d", s.MaxRowChunk, s.RowTiles)
	}
	return errors.Join(errs...)
}

// RowTile is the height of the next tile of a width when m rows are left: tiles
// of the main height, the last two balanced, or one taller tile where m allows it.
func (s *Schedule) RowTile(m int, w Width) int {
	t := s.Tiles[w]
	return next(m, t.Max, t.Main)
}

// FormatTile is that of a format, whose kernels may have heights of their own.
func (s *Schedule) FormatTile(f *Format, m int, w Width) (mr int) {
	if f.Heights == nil {
		return s.RowTile(m, w)
	}
	for _, h := range f.Heights {
		if h <= min(m, s.Tallest(f.Name)) {
			mr = h
		}
	}
	return mr
}

// Tallest is the height of the tallest tile of a format over one panel.
func (s *Schedule) Tallest(f FormatName) int {
	switch f {
	case Int8:
		return s.Int8Rows
	case Int4:
		return s.Int4Rows
	}
	return s.Tiles[Full].Max
}

// next is how many of m come next, main of them where there are enough, the last two
// times balanced, or all where most allows it.
func next(m, most, main int) int {
	switch {
	case m <= most:
		return m
	case m < 2*main:
		return (m + 1) / 2
	}
	return main
}

// NextRows and NextColumns are the size of the next tile when so many are left.
func (a AcrossTile) NextRows(m int) int    { return next(m, a.Rows, a.Rows) }
func (a AcrossTile) NextColumns(n int) int { return next(n, a.Columns, a.Columns) }

// NextStrip is the height of the next strip when n rows are left.
func (s *Schedule) NextStrip(n int) int {
	if mr := s.StripRows; n >= 2*mr || n == mr {
		return mr
	} else if n > mr {
		return (n + 1) / 2
	}
	return n
}

// Wide reports whether pairs of panels run as one 64-wide tile at m rows that lie
// stride bytes apart. Rows that fit one tall tile over a single panel load less
// there, unless they share the sets of the L1 cache.
func (s *Schedule) Wide(m, stride int) bool {
	wide := s.Tiles[Pair].Max
	return wide > 0 && m > s.LoneRows && (m <= wide || s.PairTall && m > s.Tiles[Full].Max || stride%s.SetBytes == 0)
}

// Shallow reports whether a single panel of so many bytes is better than a pair: it
// stays in the L1 cache, unless rows of stride bytes, which share half of its
// sets, drive it out.
func (s *Schedule) Shallow(panel, stride int) bool {
	return panel <= s.ShallowBytes && stride%(s.SetBytes/2) != 0
}

// AheadLines is the number of cache lines of the next panels that a tile asks
// for every four k. Where several tiles pass over the same panels two of them
// fetch the next ones while they multiply.
func (s *Schedule) AheadLines(mr, nr int) int {
	if mr <= s.AheadRows || s.AheadColumns == 0 {
		return 0
	}
	return nr / s.AheadColumns
}

// PanelGroup is how many panels of so many bytes stay in the L2 cache while so many
// rows pass: even, at least 2.
func (s *Schedule) PanelGroup(panel, rows int) int {
	if rows <= s.FewRows {
		return 2
	}
	return max(2, s.PanelBytes/panel&^1)
}

// GradientPanels is the number of panels of packed right operand that
// backward-weight keeps in the L2 cache.
func (s *Schedule) GradientPanels() int { return max(2, s.GradientBytes/(EntryBytes*Panel*RowBlock)) }

// RowChunk is the number of rows that pass through all stages of a call
// together, or 0 where rows are so few that columns are handed out instead. width is
// the number of entries that each row has between factors.
func (s *Schedule) RowChunk(m, threads, width int) int {
	most := s.MaxRowChunk
	if wide := EntryBytes * width; most*wide > s.ChunkBytes {
		most = max(1, s.ChunkBytes/wide/s.RowTiles) * s.RowTiles
	}
	if threads == 1 {
		// As few chunks as there must be: each reads all weights again.
		chunks := (m + most - 1) / most
		rows := (m + chunks - 1) / chunks
		return (rows + s.RowTiles - 1) / s.RowTiles * s.RowTiles
	}
	if chunk := m / (s.ChunksPerThread * threads) / s.RowTiles * s.RowTiles; chunk >= s.MinRowChunk {
		return min(chunk, most)
	}
	return 0
}
