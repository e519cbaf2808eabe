package scaling

import (
	"fmt"
	"math"
	"slices"
)

// Size completes a model and its training from two of N, D, M and C; what is
// not given is 0.
func Size(n, d, m, c float64) (Run, error) {
	given := 0
	for _, x := range []float64{n, d, m, c} {
		if x < 0 || math.IsNaN(x) || math.IsInf(x, 0) {
			return Run{}, fmt.Errorf("%g is out of range, want a positive number", x)
		}
		if x > 0 {
			given++
		}
	}
	if given != 2 {
		return Run{}, fmt.Errorf("%d of N, D, M and C are given, want two", given)
	}
	switch {
	case n > 0 && d > 0:
	case n > 0 && m > 0:
		d = n * m
	case n > 0:
		d = c / 6 / n
	case d > 0 && m > 0:
		n = d / m
	case d > 0:
		n = c / 6 / d
	default:
		n, d = math.Sqrt(c/6/m), math.Sqrt(c/6*m)
	}
	return Run{N: n, D: d, C: 6 * n * d, Weight: 1}, nil
}

// Limit is the loss that a law tends to.
func (f *Fit) Limit() float64 {
	if f.Law == Power {
		return f.Floor
	}
	return f.Coefficients["E"]
}

// Reach finds the model and training that reach a loss: with m tokens a
// parameter, or with the least compute where m is 0. Laws in C alone know N and
// D from m only, and leave them 0 without it.
func (f *Fit) Reach(loss, m float64) (Run, error) {
	if f.Law == Error {
		return Run{}, fmt.Errorf("the error law knows no sizes; want a law of the loss")
	}
	rest := loss - f.Limit()
	if !(rest > 0) {
		return Run{}, fmt.Errorf("loss %.4g: not above the irreducible loss %.4g, so no amount of compute reaches it", loss, f.Limit())
	}
	if f.Law == Power || f.Law == Irreducible {
		c := math.Pow(rest/f.Coefficients["lam"], 1/f.Coefficients["exponent"])
		if m == 0 {
			return Run{C: c, Loss: loss, Weight: 1}, nil
		}
		r, err := Size(0, 0, m, c)
		r.Loss = loss
		return r, err
	}
	if m == 0 {
		var err error
		if m, err = f.BestM(); err != nil {
			return Run{}, err
		}
	}
	d := f.Derived["N_D_form"]
	n := math.Pow(rest/(d["A"]+d["B"]*math.Pow(m, -d["exponent"])), -1/d["exponent"])
	r, err := Size(n, 0, m, 0)
	r.Loss = loss
	return r, err
}

// BestM is the number of tokens a parameter that reaches any loss with the
// least compute, (B/A)^(1/p) in L = A N^-p + B D^-p + E: at fixed N D the two
// terms, whose product is fixed, are then equal.
func (f *Fit) BestM() (float64, error) {
	d := f.Derived["N_D_form"]
	if d == nil || d["A"] == 0 || d["B"] == 0 {
		return 0, fmt.Errorf("the fit knows no best number of tokens a parameter; give one")
	}
	return math.Pow(d["B"]/d["A"], 1/d["exponent"]), nil
}

// LossFor is the loss at which the error law gives an error.
func (f *Fit) LossFor(e float64) (float64, error) {
	c := f.Coefficients
	if f.Law != Error {
		return 0, fmt.Errorf("the %s law knows no errors; want the error law", f.Law)
	}
	loss := -math.Log((c["epsilon"]-e)/c["k"]) / c["gamma"]
	if !(loss > 0) || math.IsInf(loss, 0) {
		return 0, fmt.Errorf("error %.4g: out of range, want one between %.4g (loss 0) and %.4g (no skill)", e, c["epsilon"]-c["k"], c["epsilon"])
	}
	return loss, nil
}

// Restore checks a fit that was read from a file, and completes it.
func (f *Fit) Restore() error {
	if !f.Law.Valid() {
		return fmt.Errorf("law: unknown law %q; valid are %v", f.Law, Laws)
	}
	names := forms[f.Law].names
	for _, n := range names {
		x, ok := f.Coefficients[n]
		if !ok {
			return fmt.Errorf("coefficients: %s is missing; the %s law has %v", n, f.Law, names)
		}
		falls := n == "b" || n == "exponent"
		if math.IsNaN(x) || math.IsInf(x, 0) || falls && x >= 0 || !falls && x < 0 || (n == "eta" || n == "gamma") && x == 0 {
			return fmt.Errorf("coefficients: %s is %g, which no fit gives: b and exponent are negative, all others are not", n, x)
		}
	}
	for n := range f.Coefficients {
		if !slices.Contains(names, n) {
			return fmt.Errorf("coefficients: unknown coefficient %q; the %s law has %v", n, f.Law, names)
		}
	}
	f.Formula, f.DOF = f.Law.Formula(), len(f.Points)-len(names)
	f.derive()
	var runs []Run
	for i, p := range f.Points {
		runs = append(runs, p.Run)
		f.Points[i].Fitted = f.At(p.Run)
		f.Points[i].Residual = target(f.Law, p.Run) - f.Points[i].Fitted
	}
	// A law may come without its runs, which only resampling needs.
	if len(runs) == 0 {
		return nil
	}
	return check(f.Law, runs, Options{Floor: f.Floor})
}

// Exponent is the slope of the reducible loss in compute at one M, on
// logarithmic axes; negative. For the error law it is -gamma.
func (f *Fit) Exponent() float64 {
	switch f.Law {
	case Joint:
		return f.Coefficients["b"] / 2
	case Compute:
		return -f.Coefficients["eta"]
	case Error:
		return -f.Coefficients["gamma"]
	default:
		return f.Coefficients["exponent"]
	}
}
