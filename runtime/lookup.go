package runtime

import (
	"fmt"

	"github.com/structuredffn/sffn/gen/plan"
	_ "github.com/structuredffn/sffn/generated/anyshape" // registers the any-shape kernels
	"github.com/structuredffn/sffn/runtime/kernel"
)

// lookup finds an any-shape kernel, which must exist.
func lookup(k plan.Kernel) (kernel.Func, error) {
	info, ok := kernel.Lookup(k.Name())
	if !ok {
		return nil, fmt.Errorf("runtime: no kernel %s in this build; regenerate generated/anyshape with `make generate`", k.Name())
	}
	return info.Func, nil
}
