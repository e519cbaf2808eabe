package scaling

import (
	"fmt"

	"gonum.org/v1/gonum/stat/distuv"
)

// LackOfFit is an F test of a law on runs that repeat sizes: how far the mean of
// each size lies from the law, measured by how far the runs of one size lie
// from each other. For a law that is not linear it holds for many runs, and
// nearly for few.
type LackOfFit struct {
	F float64 `json:"F"`
	// Freedom is that of the means about the law, and of the runs about their
	// means.
	Freedom [2]int `json:"degrees_of_freedom"`
	// P is the probability of so large an F, or a larger one, where the law holds.
	P float64 `json:"p"`
}

// rejectBelow is the probability below which runs reject a law.
const rejectBelow = 0.05

// NewLackOfFit tests a law of so many coefficients by what it leaves of the
// runs, which have sizes and weights. It is nil where nothing can be tested:
// where no size comes twice, or the law has as many coefficients as there are sizes.
func NewLackOfFit[S comparable](sizes []S, residuals, weights []float64, coefficients int) *LackOfFit {
	type group struct{ weight, mean float64 }
	groups := map[S]*group{}
	for i, s := range sizes {
		if groups[s] == nil {
			groups[s] = &group{}
		}
		g := groups[s]
		g.weight += weights[i]
		g.mean += weights[i] / g.weight * (residuals[i] - g.mean)
	}
	l := &LackOfFit{Freedom: [2]int{len(groups) - coefficients, len(sizes) - len(groups)}}
	if l.Freedom[0] < 1 || l.Freedom[1] < 1 {
		return nil
	}
	lack, pure := 0.0, 0.0
	for i, s := range sizes {
		mean := groups[s].mean
		lack += weights[i] * mean * mean
		pure += weights[i] * (residuals[i] - mean) * (residuals[i] - mean)
	}
	if pure == 0 { // copies of runs
		return nil
	}
	l.F = lack / float64(l.Freedom[0]) / (pure / float64(l.Freedom[1]))
	l.P = distuv.F{D1: float64(l.Freedom[0]), D2: float64(l.Freedom[1])}.Survival(l.F)
	return l
}

// Rejects reports whether the runs reject the law. The intervals of its
// coefficients are not valid then: they take for noise by how much it is wrong.
func (l *LackOfFit) Rejects() bool { return l != nil && l.P < rejectBelow }

func (l *LackOfFit) String() string {
	if l == nil {
		return "-"
	}
	return fmt.Sprintf("F(%d, %d) = %.3g, p = %.2g", l.Freedom[0], l.Freedom[1], l.F, l.P)
}
