package scaling

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"

	"gonum.org/v1/gonum/stat"
)

// Resampling says what a bootstrap draws.
type Resampling string

const (
	// Residuals keeps the sizes of the runs and draws what was left of their
	// losses, scaled up by (runs / degrees of freedom)^1/2: for the few chosen
	// runs that a law is usually fitted to.
	Residuals Resampling = "residuals"
	// Cases draws whole runs: for many runs, with errors that differ.
	Cases Resampling = "runs"
)

// Sample are fits of one law to changed data.
type Sample struct {
	Fits []*Fit
	// Failed counts the data that did not determine the law.
	Failed int
}

// Interval is a range of a number.
type Interval struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// Interval is the range of what of computes from each fit, that leaves out
// (1 - level)/2 of them at both ends: level 1 is from the smallest to the
// largest.
func (s *Sample) Interval(level float64, of func(*Fit) float64) Interval {
	var xs []float64
	for _, f := range s.Fits {
		xs = append(xs, of(f))
	}
	return Quantiles(level, xs)
}

// Quantiles is the interval that holds the share level of numbers; it sorts
// them.
func Quantiles(level float64, xs []float64) Interval {
	slices.Sort(xs)
	q := func(p float64) float64 { return stat.Quantile(p, stat.LinInterp, xs, nil) }
	return Interval{q((1 - level) / 2), q((1 + level) / 2)}
}

// Bootstrap fits the law n times to resampled data. Draw i depends on the seed
// and i alone, not on the number of processors.
func (f *Fit) Bootstrap(n int, seed uint64, how Resampling) (*Sample, error) {
	var draw func(*rand.Rand) []Run
	switch how {
	case Residuals:
		if f.DOF < 1 {
			return nil, fmt.Errorf("bootstrap: %d runs leave no residuals of %d coefficients to draw from; want more runs", len(f.Points), len(f.Coefficients))
		}
		draw = f.drawResiduals
	case Cases:
		draw = f.drawCases
	default:
		return nil, fmt.Errorf("unknown resampling %q; valid are %s, %s", how, Residuals, Cases)
	}
	// A law of the loss and one of the error draw apart from each other.
	stream := uint64(0)
	if f.Law == Error {
		stream = 1 << 63
	}
	fits := make([]*Fit, n)
	var wg sync.WaitGroup
	workers := min(n, runtime.GOMAXPROCS(0))
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				fits[i], _ = f.refit(draw(rand.New(rand.NewPCG(seed, stream|uint64(i)))), how == Cases)
			}
		})
	}
	wg.Wait()
	s := newSample(fits)
	if len(s.Fits) == 0 {
		return nil, fmt.Errorf("bootstrap: none of %d resamples determines the law", n)
	}
	return s, nil
}

func newSample(fits []*Fit) *Sample {
	good := slices.DeleteFunc(slices.Clone(fits), func(f *Fit) bool { return f == nil })
	return &Sample{good, len(fits) - len(good)}
}

// refit finds coefficients for other runs; the result has no points.
func (f *Fit) refit(runs []Run, check bool) (*Fit, error) {
	g := &Fit{Law: f.Law, Floor: f.Floor}
	if err := g.solve(runs, check); err != nil {
		return nil, err
	}
	g.derive()
	return g, nil
}

func (f *Fit) drawResiduals(r *rand.Rand) []Run {
	inflate := math.Sqrt(float64(len(f.Points)) / float64(f.DOF))
	runs := make([]Run, len(f.Points))
	for i, p := range f.Points {
		from := f.Points[r.IntN(len(f.Points))]
		scale := inflate * math.Sqrt(from.Weight/p.Weight)
		runs[i] = p.Run
		switch f.Law {
		case Error:
			runs[i].Err = p.Fitted + scale*from.Residual
		case Power: // fitted on logarithms
			residual := math.Log((from.Loss - f.Floor) / (from.Fitted - f.Floor))
			runs[i].Loss = f.Floor + (p.Fitted-f.Floor)*math.Exp(scale*residual)
		default:
			runs[i].Loss = p.Fitted + scale*from.Residual
		}
	}
	return runs
}

func (f *Fit) drawCases(r *rand.Rand) []Run {
	runs := make([]Run, len(f.Points))
	for i := range runs {
		runs[i] = f.Points[r.IntN(len(f.Points))].Run
	}
	return runs
}

// LeftOut is what a fit without one run says.
type LeftOut struct {
	Name         string             `json:"name"`
	Coefficients map[string]float64 `json:"coefficients,omitempty"`
	// Predicted is what that fit predicts for the run.
	Predicted float64 `json:"predicted,omitempty"`
	RelErr    float64 `json:"rel_err,omitempty"`
	// Why says what is not identifiable without the run.
	Why string `json:"not_identifiable,omitempty"`
}

// LeaveOneOut fits the law without each run in turn. The sample's interval of
// level 1 shows what hangs on a single run.
func (f *Fit) LeaveOneOut() (*Sample, []LeftOut, error) {
	if f.DOF < 1 {
		return nil, nil, fmt.Errorf("leaving one run out: %d runs are as many as the law has coefficients; want more", len(f.Points))
	}
	fits, left := make([]*Fit, len(f.Points)), make([]LeftOut, len(f.Points))
	for i, p := range f.Points {
		var runs []Run
		for j, q := range f.Points {
			if j != i {
				runs = append(runs, q.Run)
			}
		}
		left[i].Name = p.Name
		g, err := f.refit(runs, true)
		if e := (*DegenerateError)(nil); errors.As(err, &e) {
			left[i].Why = e.Error()
			continue
		} else if err != nil {
			return nil, nil, err
		}
		fits[i] = g
		left[i].Coefficients = g.Coefficients
		left[i].Predicted = g.At(p.Run)
		left[i].RelErr = RelErr(left[i].Predicted, target(f.Law, p.Run))
	}
	s := newSample(fits)
	if len(s.Fits) == 0 {
		return nil, nil, errors.New("leaving one run out: the law is not identifiable without any of them")
	}
	return s, left, nil
}

// RelErr is the relative error of a prediction.
func RelErr(predicted, measured float64) float64 { return math.Abs(predicted-measured) / measured }
