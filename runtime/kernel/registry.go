package kernel

import (
	"maps"
	"slices"
	"sync"
)

// Info is a registered matrix-product kernel.
type Info struct {
	Name string
	Row
	Func Func
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
