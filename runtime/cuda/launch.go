package cuda

import (
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// maxGrid is the most blocks of a launch in each direction.
var maxGrid = [3]int{math.MaxInt32, math.MaxUint16, math.MaxUint16}

// checkCounts refuses counts that no parameter of a kernel can hold.
func checkCounts(k *Kernel, c table.Counts) error {
	for _, name := range slices.Sorted(maps.Keys(c)) {
		if n := c[name]; n < 0 || uint64(n) > math.MaxUint32 {
			return fmt.Errorf("cuda: %s: %s is %d, want 0 to %d", k.Name, name, n, uint32(math.MaxUint32))
		}
	}
	return nil
}

// grid is a launch's blocks, none of which may be cut off to fit.
func grid(k *Kernel, c table.Counts) (g [3]uint32, err error) {
	for i, n := range k.Blocks(c) {
		most := maxGrid[i]
		if n < 1 || n > most {
			return g, fmt.Errorf("cuda: %s: a grid of %d blocks in direction %c for %v, want 1 to %d", k.Name, n, "xyz"[i], c, most)
		}
		g[i] = uint32(n)
	}
	return g, nil
}
