// Package draw draws specs of every kind for tests, from the table of kinds alone.
package draw

import (
	"slices"

	"github.com/structuredffn/sffn/gen/spec"
)

// Structure draws one of any kind that is valid for a network of the given widths.
// pick returns one of n numbers from 0 on.
func Structure(pick func(n int) int, hidden, ffn int, act spec.Act) spec.Structure {
	return Of(spec.Kinds()[pick(len(spec.Kinds()))], pick, hidden, ffn, act)
}

// Of draws a structure of one kind. Every kind takes a rank of 1 and a single
// block, which is what remains where nothing else that was drawn is valid.
func Of(kind spec.Kind, pick func(n int) int, hidden, ffn int, act spec.Act) spec.Structure {
	const tries = 20
	for i := tries; ; i-- {
		s := spec.Structure{Kind: kind}
		if slices.Contains(spec.Ranked(), kind) {
			s.Rank = 1
			if i > 0 {
				s.Rank += pick(24)
			}
		}
		if slices.Contains(spec.Blocked(), kind) {
			s.Blocks = 1
			if i > 0 {
				s.Blocks += pick(7)
			}
		}
		if slices.Contains(spec.Split(), kind) && i > 0 && pick(2) == 0 {
			s.HiddenSplit, s.FFNSplit = split(pick, hidden), split(pick, ffn)
		}
		if s.Network(hidden, ffn, act).Validate() == nil || i == 0 {
			return s
		}
	}
}

// split is a divisor of n, or 0 for the kind's rule.
func split(pick func(n int) int, n int) int {
	divisors := []int{0}
	for d := 1; d <= n; d++ {
		if n%d == 0 {
			divisors = append(divisors, d)
		}
	}
	return divisors[pick(len(divisors))]
}

// Linear is the first linear of a structure's network: as many inputs and outputs
// as hidden and ffn say.
func Linear(s spec.Structure, in, out int, bias bool) spec.Linear {
	f := s.Network(in, out, spec.GELU)
	f.Bias = bias
	return f.FC1()
}
