package gpu

import (
	"math"
	"testing"
)

// near compares in the norm: after n roundings to bf16, each of which moves a
// vector by 2^-8/sqrt(3) of its length at most, and tanh.approx.
func near(t *testing.T, what string, got, want []float32, n int) {
	t.Helper()
	tol := math.Sqrt(float64(n)/3)/256 + 1.0/1024
	var diff, norm float64
	for i, w := range want {
		diff += float64(got[i]-w) * float64(got[i]-w)
		norm += float64(w) * float64(w)
	}
	if rel := math.Sqrt(diff / norm); !(rel <= tol) {
		t.Errorf("%s: relative error %.2e, want at most %.2e", what, rel, tol)
	}
}
