package forecast

import (
	"math"

	"github.com/structuredffn/sffn/model/scaling"
	"github.com/structuredffn/sffn/model/scaling/runs"
)

// Prediction is what laws say of one model. Where it was measured, the
// relative errors are |predicted - measured| / measured.
type Prediction struct {
	Group string `json:"group,omitempty"`
	Name  string `json:"name,omitempty"`
	// Zero where the law does not know them.
	N float64 `json:"N,omitempty"`
	D float64 `json:"D,omitempty"`
	M float64 `json:"M,omitempty"`
	C float64 `json:"C,omitempty"`
	// CInterval is that of the compute that reaches a loss; null where some
	// resamples never reach it.
	CInterval *scaling.Interval `json:"C_interval,omitempty"`

	Loss         *float64          `json:"loss_pred,omitempty"`
	LossInterval *scaling.Interval `json:"loss_interval,omitempty"`
	LossTrue     *float64          `json:"loss_true,omitempty"`
	LossRelErr   *float64          `json:"loss_rel_err,omitempty"`
	InLossFit    bool              `json:"in_loss_fit,omitempty"`

	// Err follows from the predicted loss, ErrFromTrue from the measured one.
	Err            *float64          `json:"err_pred,omitempty"`
	ErrInterval    *scaling.Interval `json:"err_interval,omitempty"`
	ErrTrue        *float64          `json:"err_true,omitempty"`
	ErrRelErr      *float64          `json:"err_rel_err,omitempty"`
	ErrFromTrue    *float64          `json:"err_pred_from_true_loss,omitempty"`
	ErrFromTrueRel *float64          `json:"err_rel_err_from_true_loss,omitempty"`
	InErrFit       bool              `json:"in_error_fit,omitempty"`
}

// Pair is the law of the loss and that of the error, of one group; one of
// them may be nil.
type Pair struct {
	Group     string
	Loss, Err *Fitted
}

// Pairs joins the laws of each group. Where there is no law of the error of a
// group, its pair has none.
func Pairs(losses, errs []*Fitted) (ps []Pair) {
	if len(losses) == 0 {
		for _, e := range errs {
			ps = append(ps, Pair{e.Group, nil, e})
		}
	}
	for _, l := range losses {
		ps = append(ps, Pair{l.Group, l, ByGroup(errs, l.Group)})
	}
	return ps
}

// Sizes are all combinations of the lists, of which those that are not given are
// empty: of two of N, D, M and C, or of C alone, which leaves N and D 0.
func Sizes(n, d, m, c []float64) ([]scaling.Run, error) {
	or := func(xs []float64) []float64 {
		if len(xs) == 0 {
			return []float64{0}
		}
		return xs
	}
	var rs []scaling.Run
	for _, n := range or(n) {
		for _, d := range or(d) {
			for _, m := range or(m) {
				for _, c := range or(c) {
					if n == 0 && d == 0 && m == 0 {
						rs = append(rs, scaling.Run{C: c, Weight: 1})
						continue
					}
					r, err := scaling.Size(n, d, m, c)
					if err != nil {
						return nil, err
					}
					rs = append(rs, r)
				}
			}
		}
	}
	return rs, nil
}

// describe starts a prediction for a run.
func (p Pair) describe(r scaling.Run) Prediction {
	x := Prediction{Group: p.Group, Name: r.Name, N: r.N, D: r.D, C: r.C}
	if r.N > 0 {
		x.M = r.M()
	}
	return x
}

// At predicts the loss of a run, and from it the error. There has to be a law of
// the loss.
func (p Pair) At(r scaling.Run, level float64) Prediction {
	x := p.describe(r)
	loss := p.Loss.At(r)
	x.Loss, x.LossInterval = &loss, p.Loss.Interval(level, func(f *scaling.Fit) float64 { return f.At(r) })
	if p.Err == nil {
		return x
	}
	e := p.Err.At(scaling.Run{Loss: loss})
	x.Err = &e
	if losses, errs := p.Loss.sample, p.Err.sample; losses != nil && errs != nil {
		var es []float64
		for i := range min(len(losses.Fits), len(errs.Fits)) {
			es = append(es, errs.Fits[i].At(scaling.Run{Loss: losses.Fits[i].At(r)}))
		}
		i := scaling.Quantiles(level, es)
		x.ErrInterval = &i
	}
	return x
}

// fromLoss predicts the error at a loss.
func (p Pair) fromLoss(x *Prediction, loss, level float64) {
	if p.Err == nil {
		return
	}
	at := func(f *scaling.Fit) float64 { return f.At(scaling.Run{Loss: loss}) }
	e := at(p.Err.Fit)
	x.Err, x.ErrInterval = &e, p.Err.Interval(level, at)
}

// Reach finds what reaches losses, with each number of tokens a parameter, or,
// where there is none, with the least compute.
func (p Pair) Reach(losses, ms []float64, level float64) ([]Prediction, error) {
	if len(ms) == 0 {
		ms = []float64{0}
	}
	var ps []Prediction
	for _, loss := range losses {
		for _, m := range ms {
			x := Prediction{Group: p.Group}
			if p.Loss != nil {
				r, err := p.Loss.Reach(loss, m)
				if err != nil {
					return nil, err
				}
				x = p.describe(r)
				x.CInterval = p.Loss.Interval(level, func(f *scaling.Fit) float64 {
					r, err := f.Reach(loss, m)
					if err != nil {
						return math.Inf(1)
					}
					return r.C
				})
				if i := x.CInterval; i != nil && (math.IsInf(i.High, 1) || math.IsNaN(i.High)) {
					x.CInterval = nil
				}
			}
			x.Loss = &loss
			p.fromLoss(&x, loss, level)
			ps = append(ps, x)
		}
	}
	return ps, nil
}

// Compare predicts runs of the pair's group that were measured.
func (p Pair) Compare(t *runs.Table, by string, c runs.Columns, level float64) ([]Prediction, error) {
	if p.Err == nil {
		c.Err = ""
	}
	c.Weight = ""
	rs, err := Runs(t, by, p.Group, c)
	if err != nil {
		return nil, err
	}
	var ps []Prediction
	for _, r := range rs {
		ps = append(ps, p.measured(r, c.Err != "", level))
	}
	return ps, nil
}

func (p Pair) measured(r scaling.Run, withErr bool, level float64) Prediction {
	x := p.describe(r)
	if p.Loss != nil {
		x = p.At(r, level)
		rel := scaling.RelErr(*x.Loss, r.Loss)
		x.LossRelErr, x.InLossFit = &rel, p.Loss.has(r)
	}
	x.LossTrue = &r.Loss
	if !withErr {
		return x
	}
	from := p.Err.At(r)
	fromRel := scaling.RelErr(from, r.Err)
	x.ErrTrue, x.ErrFromTrue, x.ErrFromTrueRel, x.InErrFit = &r.Err, &from, &fromRel, p.Err.has(r)
	if x.Err != nil {
		rel := scaling.RelErr(*x.Err, r.Err)
		x.ErrRelErr = &rel
	}
	return x
}
