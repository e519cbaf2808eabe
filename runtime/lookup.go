package runtime

import (
	"fmt"
	"sync"

	"github.com/structuredffn/sffn/gen/plan"
	_ "github.com/structuredffn/sffn/generated/anyshape" // registers the any-shape kernels
	"github.com/structuredffn/sffn/runtime/kernel"
)

// tiles holds a kernel for each width class and height of a tile.
type tiles [len(widths)][16]kernel.Func

// family names the any-shape kernels of one epilogue, or those of strips.
type family struct {
	isa      kernel.ISA
	epilogue kernel.Epilogue
	strip    bool
}

// families keeps the tables that were made: every product of every layer needs
// one of a few.
var families sync.Map

// anyShape lists the any-shape kernels of a family, which must exist.
func anyShape(t plan.Target, f family) (*tiles, error) {
	f.isa = t.ISA
	if known, ok := families.Load(f); ok {
		return known.(*tiles), nil
	}
	all := &tiles{}
	for _, k := range t.Any() {
		if k.Epilogue != f.epilogue || k.Strip != f.strip {
			continue
		}
		info, ok := kernel.Lookup(k.Name())
		if !ok {
			return nil, fmt.Errorf("runtime: no kernel %s in this build; regenerate generated/anyshape with `make generate`", k.Name())
		}
		for w, nr := range widths {
			if nr == k.NR {
				all[w][k.MR] = info.Func
			}
		}
	}
	families.Store(f, all)
	return all, nil
}
