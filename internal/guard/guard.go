// Package guard gives tests buffers that fault when anything reads or writes
// past their ends.
package guard

import "testing"

// Floats returns n entries whose end borders on memory that faults on any
// access. They are filled with NaN.
func Floats(t testing.TB, n int) []float32 {
	t.Helper()
	x := floats(t, n)
	for i := range x {
		x[i] = nan
	}
	return x
}
