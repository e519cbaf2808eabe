package cuda

import (
	"fmt"
	"maps"
	"math"
	"math/bits"
	"slices"

	"github.com/structuredffn/sffn/gen/plan/gpu"
)

// maxGrid is the most blocks of a launch in each direction.
var maxGrid = [3]uint64{math.MaxInt32, math.MaxUint16, math.MaxUint16}

// checkCounts refuses counts that no parameter of a kernel can hold.
func checkCounts(k *Kernel, c gpu.Counts) error {
	for _, name := range slices.Sorted(maps.Keys(c)) {
		if n := c[name]; n < 0 || uint64(n) > math.MaxUint32 {
			return fmt.Errorf("cuda: %s: %s is %d, want 0 to %d", k.Name, name, n, uint32(math.MaxUint32))
		}
	}
	return nil
}

// extent is what e comes to for counts that checkCounts has seen, or the most
// that 64 bits hold. It is the plan's GPUExtent.In, which may overflow.
func extent(e gpu.Extent, c gpu.Counts) uint64 {
	n := uint64(e.N)
	if e.Of != "" {
		each := uint64(max(1, e.Each))
		n = times(n, (uint64(c[e.Of])+each-1)/each)
	}
	if e.Times != "" {
		n = times(n, uint64(c[e.Times]))
	}
	if n > math.MaxUint64-uint64(e.Plus) {
		return math.MaxUint64
	}
	return n + uint64(e.Plus)
}

// times is a product, or the most that 64 bits hold.
func times(a, b uint64) uint64 {
	if hi, lo := bits.Mul64(a, b); hi == 0 {
		return lo
	}
	return math.MaxUint64
}

// grid is a launch's blocks, none of which may be cut off to fit.
func grid(k *Kernel, c gpu.Counts) (g [3]uint32, err error) {
	for i, most := range maxGrid {
		n := extent(k.Grid[i], c)
		if n < 1 || n > most {
			return g, fmt.Errorf("cuda: %s: a grid of %d blocks in direction %c for %v, want 1 to %d", k.Name, n, "xyz"[i], c, most)
		}
		g[i] = uint32(n)
	}
	return g, nil
}
