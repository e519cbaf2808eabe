// Package scaling fits and extrapolates scaling laws: the loss of a model from
// its parameters and training tokens, over-trained runs included, and its
// downstream error from its loss (Gadre et al. 2024, "Language models scale
// reliably with over-training and on downstream tasks", arXiv 2403.08540).
//
// N is the number of parameters with embeddings, D that of training tokens,
// M = D/N the tokens a parameter and C = 6 N D the training compute in FLOPs.
// Losses are in nats a token.
//
// Every law is linear in all of its coefficients but one. That one is searched
// for on a line, with a linear least-squares problem in the others inside
// (variable projection), so that there are no starting points to choose.
package scaling

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Law names a law.
type Law string

// The laws. Joint and Compute are one law in two forms, with
// eta = -b/2 and a = alpha 6^eta; Irreducible is what it comes to at one M.
const (
	// Joint is L(N, D) = alpha N^b + beta 6^(b/2) D^b + E (the paper's equation
	// 4 with M N for D).
	Joint Law = "joint"
	// Compute is L(C, M) = E + (a M^eta + beta M^-eta) C^-eta.
	Compute Law = "compute"
	// Power is L(C) = lam C^exponent, fitted on logarithms.
	Power Law = "power"
	// Irreducible is L(C) = lam C^exponent + E.
	Irreducible Law = "irreducible"
	// Error is Err(L) = epsilon - k exp(-gamma L).
	Error Law = "error"
)

// Laws lists the laws.
var Laws = []Law{Joint, Compute, Power, Irreducible, Error}

// form is what a law looks like.
type form struct {
	// names are the coefficients: those of the terms, the constant, and the
	// one that the law is not linear in.
	names   []string
	formula string
}

var forms = map[Law]form{
	Joint:       {[]string{"alpha", "beta", "E", "b"}, "L = alpha N^b + beta 6^(b/2) D^b + E"},
	Compute:     {[]string{"a", "beta", "E", "eta"}, "L = E + (a M^eta + beta M^-eta) C^-eta"},
	Power:       {[]string{"lam", "exponent"}, "L = lam C^exponent"},
	Irreducible: {[]string{"lam", "E", "exponent"}, "L = lam C^exponent + E"},
	Error:       {[]string{"k", "epsilon", "gamma"}, "Err = epsilon - k exp(-gamma L)"},
}

// Coefficients lists the names of the law's coefficients.
func (l Law) Coefficients() []string { return slices.Clone(forms[l].names) }

// Formula writes the law down.
func (l Law) Formula() string { return forms[l].formula }

// Valid reports whether there is such a law.
func (l Law) Valid() bool { _, ok := forms[l]; return ok }

// Run is one trained model. A law reads only what it is about.
type Run struct {
	Name string `json:"name"`
	// N parameters, D training tokens, C FLOPs.
	N float64 `json:"N"`
	D float64 `json:"D"`
	C float64 `json:"C"`
	// Loss in nats a token, Err between 0 and 1.
	Loss float64 `json:"loss"`
	Err  float64 `json:"err,omitempty"`
	// Weight multiplies the squared residual.
	Weight float64 `json:"weight"`
}

// M is the number of tokens a parameter.
func (r Run) M() float64 { return r.D / r.N }

// Fit is a law with coefficients.
type Fit struct {
	Law          Law                `json:"law"`
	Formula      string             `json:"formula"`
	Coefficients map[string]float64 `json:"coefficients"`
	// Derived has the coefficients of the joint law in its other forms.
	Derived map[string]map[string]float64 `json:"derived_forms,omitempty"`
	// Floor is the loss that was subtracted before a power law was fitted.
	Floor float64 `json:"floor,omitempty"`
	// RSS is the weighted sum of squared residuals, for the power law those of
	// log10 of the loss. DOF is the number of runs less that of coefficients.
	RSS float64 `json:"rss"`
	DOF int     `json:"degrees_of_freedom"`
	// LackOfFit is nil where no size comes twice.
	LackOfFit *LackOfFit `json:"lack_of_fit,omitempty"`
	// Points are the runs that were fitted.
	Points   []Point  `json:"points"`
	Warnings []string `json:"warnings,omitempty"`
}

// Point is a run that was fitted. The residual is measured minus fitted.
type Point struct {
	Run
	Fitted   float64 `json:"fitted"`
	Residual float64 `json:"residual"`
}

// Options are what a fit can be told.
type Options struct {
	// Floor is subtracted from the losses before a power law is fitted.
	Floor float64
}

// New fits a law to runs by least squares. Coefficients that are amounts
// (alpha, beta, a, lam, k, E, epsilon) are not negative. Runs that do not
// determine all coefficients are a *DegenerateError.
func New(law Law, runs []Run, o Options) (*Fit, error) {
	if err := check(law, runs, o); err != nil {
		return nil, err
	}
	f := &Fit{Law: law, Formula: law.Formula(), Floor: o.Floor, DOF: len(runs) - len(forms[law].names)}
	if err := f.solve(runs, true); err != nil {
		return nil, err
	}
	for _, r := range runs {
		p := Point{Run: r, Fitted: f.At(r)}
		p.Residual = target(law, r) - p.Fitted
		f.Points = append(f.Points, p)
	}
	f.derive()
	if f.testFit(); f.LackOfFit.Rejects() {
		f.Warnings = append(f.Warnings, fmt.Sprintf("the runs reject this law (lack of fit, %s): its intervals take for noise by how much it is wrong, and are not valid", f.LackOfFit))
	}
	if f.DOF == 0 {
		f.Warnings = append(f.Warnings, fmt.Sprintf("as many coefficients as runs (%d): the residuals say nothing about the errors", len(runs)))
	}
	return f, nil
}

// target is what the law is about.
func target(law Law, r Run) float64 {
	if law == Error {
		return r.Err
	}
	return r.Loss
}

// testFit tests the law on the scale that it was fitted on. What it depends on
// is a run's size.
func (f *Fit) testFit() {
	var sizes [][2]float64
	var residuals, weights []float64
	for _, p := range f.Points {
		size, residual := [2]float64{p.C}, p.Residual
		switch f.Law {
		case Joint:
			size = [2]float64{p.N, p.D}
		case Compute:
			size = [2]float64{p.C, p.M()}
		case Error:
			size = [2]float64{p.Loss}
		case Power:
			residual = math.Log10((p.Loss - f.Floor) / (p.Fitted - f.Floor))
		}
		sizes, residuals, weights = append(sizes, size), append(residuals, residual), append(weights, p.Weight)
	}
	f.LackOfFit = NewLackOfFit(sizes, residuals, weights, len(forms[f.Law].names))
}

// solve finds the coefficients. Where check is false the runs are known to
// determine them.
func (f *Fit) solve(runs []Run, check bool) error {
	if f.Law == Power {
		return f.solvePower(runs)
	}
	p := newProblem(f.Law, runs)
	if check {
		if names, most := p.ambiguous(forms[f.Law].names); len(names) > 0 {
			return degenerate(f.Law, runs, names, most)
		}
	}
	t, err := p.minimise()
	if err != nil {
		e := degenerate(f.Law, runs, []string{last(forms[f.Law].names)}, false)
		e.Why = err.Error()
		return e
	}
	f.RSS = p.profile(t)
	f.take(p, t)
	return nil
}

// take translates the solution of the inner problem.
func (f *Fit) take(p *problem, t float64) {
	names := forms[f.Law].names
	c := map[string]float64{}
	for j := range p.terms {
		c[names[j]] = p.c[j] * math.Exp(t*p.shift[j])
	}
	constant := names[len(p.terms)]
	c[constant] = last(p.c)
	switch f.Law {
	case Joint:
		c["b"] = -t
		c["beta"] *= math.Pow(6, t/2)
	case Compute:
		c["eta"] = t / 2
	case Irreducible:
		c["exponent"] = -t
	case Error:
		c["gamma"] = t
	}
	f.Coefficients = c
	for _, n := range names[:len(p.terms)+1] {
		if c[n] == 0 {
			f.Warnings = append(f.Warnings, fmt.Sprintf("%s lies on its bound 0: the runs would rather have it negative, and do not tell its size", n))
		}
	}
}

// derive writes the joint law in its other forms.
func (f *Fit) derive() {
	c := f.Coefficients
	var alpha, beta, eta float64
	switch f.Law {
	case Joint:
		alpha, beta, eta = c["alpha"], c["beta"], -c["b"]/2
	case Compute:
		alpha, beta, eta = c["a"]*math.Pow(6, -c["eta"]), c["beta"], c["eta"]
	default:
		return
	}
	f.Derived = map[string]map[string]float64{
		"N_M_form": {"alpha": alpha, "beta": beta, "b": -2 * eta, "E": c["E"]},
		"N_D_form": {"A": alpha, "B": beta * math.Pow(6, -eta), "exponent": 2 * eta, "E": c["E"]},
		"C_M_form": {"a": alpha * math.Pow(6, eta), "b": beta, "eta": eta, "E": c["E"]},
	}
}

// At evaluates the law for a run: its loss from N and D or from C, or for the
// error law its error from its loss.
func (f *Fit) At(r Run) float64 {
	c := f.Coefficients
	switch f.Law {
	case Joint:
		return c["alpha"]*math.Pow(r.N, c["b"]) + c["beta"]*math.Pow(6, c["b"]/2)*math.Pow(r.D, c["b"]) + c["E"]
	case Compute:
		m := math.Pow(r.M(), c["eta"])
		return c["E"] + (c["a"]*m+c["beta"]/m)*math.Pow(r.C, -c["eta"])
	case Power:
		return c["lam"]*math.Pow(r.C, c["exponent"]) + f.Floor
	case Irreducible:
		return c["lam"]*math.Pow(r.C, c["exponent"]) + c["E"]
	default:
		return c["epsilon"] - c["k"]*math.Exp(-c["gamma"]*r.Loss)
	}
}

// check rejects runs that no fit could read.
func check(law Law, runs []Run, o Options) error {
	if !law.Valid() {
		return fmt.Errorf("unknown law %q; valid are %v", law, Laws)
	}
	if o.Floor != 0 && law != Power {
		return fmt.Errorf("floor %g: only the power law has one; the %s law finds its own", o.Floor, law)
	}
	positive := func(r Run, name string, x float64) error {
		if !(x > 0) || math.IsInf(x, 1) {
			return fmt.Errorf("run %s: %s is %g, want a positive number", r.Name, name, x)
		}
		return nil
	}
	for _, r := range runs {
		err := positive(r, "the weight", r.Weight)
		switch law {
		case Joint:
			err = errors.Join(err, positive(r, "N", r.N), positive(r, "D", r.D))
		case Compute:
			err = errors.Join(err, positive(r, "M", r.M()), positive(r, "C", r.C))
		case Power, Irreducible:
			err = errors.Join(err, positive(r, "C", r.C))
		case Error:
			if !(r.Err >= 0 && r.Err <= 1) {
				err = errors.Join(err, fmt.Errorf("run %s: the error is %g, want 0 to 1", r.Name, r.Err))
			}
		}
		if law == Power && !(r.Loss > o.Floor) {
			err = errors.Join(err, fmt.Errorf("run %s: the loss %g is not above the floor %g", r.Name, r.Loss, o.Floor))
		}
		if err = errors.Join(err, positive(r, "the loss", r.Loss)); err != nil {
			return err
		}
	}
	if want := len(forms[law].names); len(runs) < want {
		return &DegenerateError{Law: law, Runs: len(runs), Coefficients: law.Coefficients(),
			Why: fmt.Sprintf("the %s law has %d coefficients (%s) and needs as many different runs at least", law, want, strings.Join(forms[law].names, ", "))}
	}
	return nil
}

// DegenerateError says that runs do not determine a law.
type DegenerateError struct {
	Law  Law
	Runs int
	// Coefficients are those that are not determined.
	Coefficients []string
	Why          string
}

func (e *DegenerateError) Error() string {
	are := "are"
	if len(e.Coefficients) == 1 {
		are = "is"
	}
	return fmt.Sprintf("%s %s not identifiable from %d runs: %s", enumerate(e.Coefficients), are, e.Runs, e.Why)
}

// enumerate writes names as a sentence does.
func enumerate(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	return strings.Join(names[:len(names)-1], ", ") + " and " + last(names)
}

// degenerate explains why the runs do not tell coefficients apart.
func degenerate(law Law, runs []Run, names []string, most bool) *DegenerateError {
	e := &DegenerateError{Law: law, Runs: len(runs), Coefficients: names}
	same := func(of func(Run) float64) bool {
		lo, hi := math.Inf(1), 0.0
		for _, r := range runs {
			lo, hi = min(lo, of(r)), max(hi, of(r))
		}
		return hi/lo-1 < sameWithin
	}
	r := runs[0]
	joint := law == Joint || law == Compute
	switch {
	case law == Error && same(func(r Run) float64 { return r.Loss }):
		e.Why = fmt.Sprintf("every run has the loss %.4g", r.Loss)
	case law == Irreducible || law == Power || most:
		e.Why = fmt.Sprintf("too few of the runs differ; want at least %d sizes", len(names))
	case joint && same(Run.M):
		e.Why = fmt.Sprintf("every run has M = %.4g tokens a parameter, so N and D grow together; add a run with another M, or fit the irreducible law, which one M determines", r.M())
	case joint && same(func(r Run) float64 { return r.N }):
		e.Why = fmt.Sprintf("every run has N = %.4g parameters; add runs of other sizes", r.N)
	case joint && same(func(r Run) float64 { return r.D }):
		e.Why = fmt.Sprintf("every run has D = %.4g tokens; add runs with other numbers", r.D)
	default:
		e.Why = "too few of the runs differ in what the law depends on"
	}
	return e
}

func last[T any](s []T) T { return s[len(s)-1] }
