package peer

import (
	"runtime"
	"runtime/debug"

	"gonum.org/v1/gonum/blas"
	blasgonum "gonum.org/v1/gonum/blas/gonum"
)

// gonum is Gonum's BLAS in Go.
type gonum struct{}

func (gonum) Name() string    { return "gonum" }
func (gonum) MaxThreads() int { return 0 }
func (gonum) check() error    { return nil }

func (gonum) Version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, d := range info.Deps {
			if d.Path == "gonum.org/v1/gonum" {
				return d.Version
			}
		}
	}
	return ""
}

// Use sets GOMAXPROCS, by which Gonum splits its work.
func (gonum) Use(threads int) (restore func()) {
	before := runtime.GOMAXPROCS(threads)
	return func() { runtime.GOMAXPROCS(before) }
}

func (gonum) Forward(p *Product) func(i int)        { return sgemm(gonumSgemm).forward(p) }
func (gonum) BackwardData(p *Product) func(i int)   { return sgemm(gonumSgemm).backwardData(p) }
func (gonum) BackwardWeight(p *Product) func(i int) { return sgemm(gonumSgemm).backwardWeight(p) }

func gonumSgemm(transA, transB bool, m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int) {
	t := func(yes bool) blas.Transpose {
		if yes {
			return blas.Trans
		}
		return blas.NoTrans
	}
	blasgonum.Implementation{}.Sgemm(t(transA), t(transB), m, n, k, 1, a, lda, b, ldb, 0, c, ldc)
}
