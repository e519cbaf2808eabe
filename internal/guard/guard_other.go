//go:build !unix

package guard

import (
	"math"
	"testing"
)

var nan = float32(math.NaN())

func floats(_ testing.TB, n int) []float32 { return make([]float32, n) }
