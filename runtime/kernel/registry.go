package kernel

import (
	"maps"
	"slices"
	"sync"
)

// Info describes one registered matrix-product kernel. Its name carries the
// same facts; gen/plan documents the grammar.
type Info struct {
	Name     string
	ISA      ISA
	MR, NR   int
	Epilogue Epilogue
	// Strip kernels read A packed as [k][MR].
	Strip bool
	// Shape is what a specialised kernel is compiled for; nil for the
	// any-shape kernels.
	Shape *Shape
	Func  Func
}

// Shape holds the constants of a specialised kernel, in the units of [Args].
type Shape struct {
	LDA, KStep, LDC int
	Segs            []Segment
}

// K is the number of products in each of the kernel's sums.
func (s *Shape) K() int {
	k := 0
	for _, seg := range s.Segs {
		k += seg.Len
	}
	return k
}

var registry struct {
	sync.RWMutex
	byName map[string]Info
}

// Register adds kernels to the table that dispatch, tests and benchmarks
// read. Several packages may bring the same kernel: the first one stays.
func Register(infos ...Info) {
	registry.Lock()
	defer registry.Unlock()
	if registry.byName == nil {
		registry.byName = map[string]Info{}
	}
	for _, k := range infos {
		if _, ok := registry.byName[k.Name]; !ok {
			registry.byName[k.Name] = k
		}
	}
}

// Lookup finds a kernel by name.
func Lookup(name string) (Info, bool) {
	registry.RLock()
	defer registry.RUnlock()
	k, ok := registry.byName[name]
	return k, ok
}

// Registered lists every kernel, sorted by name.
func Registered() []Info {
	registry.RLock()
	defer registry.RUnlock()
	return slices.SortedFunc(maps.Values(registry.byName), func(a, b Info) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
}
