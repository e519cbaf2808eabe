//go:build peers

package peer

// #cgo LDFLAGS: -lopenblas
// #include <cblas.h>
import "C"

import (
	"fmt"
	"os"
	"time"
)

// tagged are the libraries that are linked with the build tag peers.
var tagged = []Library{openBLAS{}, &libxsmm{}}

// openBLAS is OpenBLAS with kernels of its own choice.
type openBLAS struct{}

func (openBLAS) Name() string    { return "openblas" }
func (openBLAS) MaxThreads() int { return 0 }
func (openBLAS) Version() string { return C.GoString(C.openblas_get_config()) }

// check refuses to run with kernels or block sizes that are not OpenBLAS's
// own choice: it would be slower than it is.
func (openBLAS) check() error {
	for _, v := range []string{"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"} {
		if s, ok := os.LookupEnv(v); ok {
			return fmt.Errorf("%s=%s is set, OpenBLAS would not run its best kernels: unset %s", v, s, v)
		}
	}
	return nil
}

// idle is longer than OpenBLAS's threads spin when they have nothing to do:
// 2^28 ticks of the time-stamp counter, a tenth of a second.
const idle = 200 * time.Millisecond

// Use waits at the end until OpenBLAS's threads no longer take a processor.
func (openBLAS) Use(threads int) (restore func()) {
	C.openblas_set_num_threads(C.int(threads))
	return func() {
		if threads > 1 {
			time.Sleep(idle)
		}
	}
}

func (openBLAS) Forward(p *Product) func(i int)        { return sgemm(openSgemm).forward(p) }
func (openBLAS) BackwardData(p *Product) func(i int)   { return sgemm(openSgemm).backwardData(p) }
func (openBLAS) BackwardWeight(p *Product) func(i int) { return sgemm(openSgemm).backwardWeight(p) }

func openSgemm(transA, transB bool, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int) {
	t := func(yes bool) C.enum_CBLAS_TRANSPOSE {
		if yes {
			return C.CblasTrans
		}
		return C.CblasNoTrans
	}
	C.cblas_sgemm(C.CblasRowMajor, t(transA), t(transB), C.blasint(m), C.blasint(n), C.blasint(k),
		1, (*C.float)(&a[0]), C.blasint(lda), (*C.float)(&b[0]), C.blasint(ldb), 0, (*C.float)(&c[0]), C.blasint(ldc))
}
