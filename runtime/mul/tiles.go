package mul

import (
	"fmt"
	"slices"
	"sync"

	"github.com/structuredffn/sffn/gen/plan/cpu"
	_ "github.com/structuredffn/sffn/generated/anyshape" // registers the any-shape kernels
	"github.com/structuredffn/sffn/runtime/kernel"
)

// tiles holds a kernel for each width and height of a tile.
type tiles [kernel.NumWidths][kernel.MaxMR + 1]tileKernel

// tileKernel is a kernel, and how many lines of what comes next it asks for every
// four k.
type tileKernel struct {
	run    kernel.Func
	ahead  int
	shaped bool // made for a shape
}

func (t *tiles) put(k kernel.Info) {
	ahead := k.Ahead
	if k.Format.Quantized() {
		ahead = 0 // of its own panel, not of what comes next
	}
	t[slices.Index(kernel.Widths[:], k.NR)][k.MR] = tileKernel{k.Func, ahead, k.Shape != nil}
}

// wrapped is the table with what wrap makes of each kernel.
func (t *tiles) wrapped(wrap func(kernel.Func) kernel.Func) *tiles {
	c := *t
	for w := range c {
		for mr := range c[w] {
			if k := &c[w][mr]; k.run != nil {
				k.run = wrap(k.run)
			}
		}
	}
	return &c
}

// lookup finds an any-shape kernel.
func lookup(k kernel.Row) (kernel.Info, error) {
	info, ok := kernel.Lookup(k.Name())
	if !ok {
		return info, fmt.Errorf("mul: no kernel %s in this build; regenerate generated/anyshape with `make generate`", k.Name())
	}
	return info, nil
}

// family names the any-shape kernels of one epilogue, or those of strips.
type family struct {
	target   kernel.Target
	format   kernel.FormatName
	epilogue kernel.Epilogue
	strip    bool
}

// families keeps the tables that were made: every product of every layer needs
// one of a few.
var families sync.Map

// anyShape lists the any-shape kernels of a family, which must exist.
func anyShape(t *kernel.Target, f family) (*tiles, error) {
	f.target = *t
	if f.format == "" {
		f.format = kernel.F32
	}
	if known, ok := families.Load(f); ok {
		return known.(*tiles), nil
	}
	all := &tiles{}
	for _, k := range cpu.Any(*t) {
		if k.Format != f.format || k.Epilogue != f.epilogue || k.Strip != f.strip || k.Across || !k.Chosen() {
			continue
		}
		info, err := lookup(k)
		if err != nil {
			return nil, err
		}
		all.put(info)
	}
	families.Store(f, all)
	return all, nil
}
