package tool

import (
	"fmt"
	"io"
	"math"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/model/scaling"
	"github.com/structuredffn/sffn/model/scaling/runs"
)

// prediction is what predict says of one model. Where it was measured, the
// relative errors are |predicted - measured| / measured.
type prediction struct {
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

// lawPair is the law of the loss and that of the error, of one group; one of
// them may be nil.
type lawPair struct {
	group     string
	loss, err *fitted
}

// target is what a user asks for.
type target struct {
	n, d, m, c, loss, err []float64
	overTraining          []float64
	compare               []string
}

// chinchilla is the number of tokens a parameter that over-training is counted
// from, as the paper does.
const chinchilla = 20

func newScalingPredict() *cobra.Command {
	var s lawSource
	var r resampling
	var t target
	var files []string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "predict",
		Short: "Predict loss and error of a model, or the size that reaches a loss",
		Long: `Predict from laws that fit --json wrote (--fit, up to one of the loss and one
of the error), or that are fitted to --data first: with --error-column also the
error law, on --error-where.

Two of --N, --D, --M, --C give a model and its training; each takes a list, and
all combinations are predicted. --over-training 32 is --M 640. --compare selects
runs of --data and shows predicted beside measured.
--loss is the other way round: the N and D that reach it with the least
compute, or at --M. --error does the same for an error.`,
		Example: `  sffn scaling predict --fit loss.json --fit error.json --N 1.4e9,7e9 --M 20,640
  sffn scaling predict --data testbed.csv --where 'dataset=rpj' --where 'M=20,N<1e9 or M=320,N<2e7' --compare 'dataset=rpj,N>1e9'
  sffn scaling predict --fit loss.json --loss 2.5 --M 640`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := r.check(); err != nil {
				return err
			}
			if err := t.check(s.given); err != nil {
				return err
			}
			pairs, err := s.pairs(cmd.ErrOrStderr(), files, len(t.compare) > 0)
			if err != nil {
				return err
			}
			var ps []prediction
			for i := range pairs {
				p := &pairs[i]
				for _, f := range []*fitted{p.loss, p.err} {
					if f == nil {
						continue
					}
					if err := r.bootstrap(f); err != nil {
						return fmt.Errorf("%s%w", prefix(p.group), err)
					}
					warn(cmd.ErrOrStderr(), f)
				}
				more, err := s.predict(*p, t, r.Level)
				if err != nil {
					return fmt.Errorf("%s%w", prefix(p.group), err)
				}
				ps = append(ps, more...)
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), struct {
					Predictions []prediction `json:"predictions"`
				}{ps})
			}
			return printPredictions(cmd.OutOrStdout(), ps)
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&files, "fit", nil, "file that fit --json wrote; may come twice, for loss and error")
	fl.Float64SliceVar(&t.n, "N", nil, "parameters, embeddings included")
	fl.Float64SliceVar(&t.d, "D", nil, "training tokens")
	fl.Float64SliceVar(&t.m, "M", nil, "training tokens a parameter")
	fl.Float64SliceVar(&t.c, "C", nil, "training FLOPs, 6 N D")
	fl.Float64SliceVar(&t.overTraining, "over-training", nil, "--M as a multiple of 20")
	fl.Float64SliceVar(&t.loss, "loss", nil, "losses to reach")
	fl.Float64SliceVar(&t.err, "error", nil, "errors to reach")
	fl.StringArrayVar(&t.compare, "compare", nil, "runs of --data to predict and compare; a filter as --where")
	fl.BoolVar(&asJSON, "json", false, "print one JSON object")
	s.flags(cmd)
	fl.StringArrayVar(&s.errWhere, "error-where", nil, "runs to fit the error law to (default: those of --where)")
	r.flags(cmd)
	return cmd
}

func (t *target) check(given func(string) bool) error {
	for _, x := range []struct {
		flag   string
		values []float64
	}{{"N", t.n}, {"D", t.d}, {"M", t.m}, {"C", t.c}, {"over-training", t.overTraining}, {"loss", t.loss}, {"error", t.err}} {
		for _, v := range x.values {
			if !(v > 0) || math.IsInf(v, 0) {
				return cli.Usagef("--%s: %g is out of range, want a positive number", x.flag, v)
			}
		}
	}
	if len(t.overTraining) > 0 && len(t.m) > 0 {
		return cli.Usagef("give either --M or --over-training, its multiple of %d", chinchilla)
	}
	for _, x := range t.overTraining {
		t.m = append(t.m, chinchilla*x)
	}
	sizes := 0
	for _, v := range [][]float64{t.n, t.d, t.m, t.c} {
		if len(v) > 0 {
			sizes++
		}
	}
	inverse := len(t.loss)+len(t.err) > 0
	switch {
	case inverse && (len(t.n) > 0 || len(t.d) > 0 || len(t.c) > 0):
		return cli.Usagef("--loss and --error look for N and D; beside them only --M or --over-training can be given")
	case !inverse && sizes == 0 && len(t.compare) == 0:
		return cli.Usagef("say what to predict: two of --N, --D, --M, --C, or --compare, --loss or --error")
	case !inverse && sizes != 0 && sizes != 2 && (sizes != 1 || len(t.c) == 0):
		return cli.Usagef("%d of --N, --D, --M, --C are given, want two, or --C alone for a law in C", sizes)
	}
	return nil
}

// pairs reads the laws from files, or fits them. compare says that the data
// are needed beside the files.
func (s *lawSource) pairs(log io.Writer, files []string, compare bool) ([]lawPair, error) {
	var losses, errs []*fitted
	if len(files) == 0 {
		law, err := s.lawFlag()
		if err != nil {
			return nil, err
		}
		withErr := law == scaling.Error || s.given("error-column") || s.given("error-where")
		if err := s.open(log, withErr); err != nil {
			return nil, err
		}
		if law != scaling.Error {
			if losses, err = s.fit(law, "where", s.where); err != nil {
				return nil, err
			}
		}
		if withErr {
			where, flag := s.where, "where"
			if s.given("error-where") {
				where, flag = s.errWhere, "error-where"
			}
			if errs, err = s.fit(scaling.Error, flag, where); err != nil {
				return nil, err
			}
		}
		return pair(losses, errs)
	}
	for _, flag := range []string{"where", "error-where", "law", "floor", "weight-column"} {
		if s.given(flag) {
			return nil, cli.Usagef("--%s: the laws of --fit are fitted already", flag)
		}
	}
	for _, name := range files {
		fs, err := readFits(name)
		if err != nil {
			return nil, fmt.Errorf("--fit: %w", err)
		}
		for _, f := range fs {
			list := &losses
			if f.Law == scaling.Error {
				list = &errs
			}
			if byGroup(*list, f.Group) != nil {
				return nil, cli.Usagef("--fit: %s has a second law of the same thing%s; give one of the loss and one of the error", name, of(f.Group))
			}
			*list = append(*list, f)
		}
	}
	if compare {
		s.adopt(append(losses, errs...))
		if err := s.open(log, len(errs) > 0); err != nil {
			return nil, err
		}
	}
	return pair(losses, errs)
}

func of(group string) string {
	if group == "" {
		return ""
	}
	return " for " + group
}

// adopt takes the columns that laws were fitted to, where no flag says others.
func (s *lawSource) adopt(fs []*fitted) {
	for _, f := range fs {
		for _, x := range []struct {
			to   *string
			from string
		}{{&s.columns.Loss, f.LossColumn}, {&s.columns.Err, f.ErrColumn}, {&s.columns.Compute, f.Compute}} {
			if *x.to == "" {
				*x.to = x.from
			}
		}
		if f.Group == "" && !s.given("by") {
			s.by = ""
		}
	}
}

// pair joins the laws of each group.
func pair(losses, errs []*fitted) ([]lawPair, error) {
	if len(losses) == 0 {
		losses = make([]*fitted, len(errs))
	}
	var ps []lawPair
	for i, l := range losses {
		if l == nil {
			ps = append(ps, lawPair{errs[i].Group, nil, errs[i]})
			continue
		}
		e := byGroup(errs, l.Group)
		if e == nil && len(errs) > 0 {
			return nil, cli.Usagef("no error law%s; there is one of its loss", of(l.Group))
		}
		ps = append(ps, lawPair{l.Group, l, e})
	}
	return ps, nil
}

// predict answers for one group.
func (s *lawSource) predict(p lawPair, t target, level float64) ([]prediction, error) {
	var ps []prediction
	if len(t.compare) > 0 {
		more, err := s.compare(p, t.compare, level)
		if err != nil {
			return nil, err
		}
		ps = append(ps, more...)
	}
	if len(t.loss)+len(t.err) > 0 {
		more, err := p.reach(t, level)
		if err != nil {
			return nil, err
		}
		return append(ps, more...), nil
	}
	sizes, err := t.sizes()
	if err != nil {
		return nil, err
	}
	for _, r := range sizes {
		if p.loss == nil {
			return nil, cli.Usagef("the error law alone predicts from --loss; want a law of the loss too")
		}
		if r.N == 0 && p.loss.Law != scaling.Power && p.loss.Law != scaling.Irreducible {
			return nil, cli.Usagef("--C alone: the %s law needs one of --N, --D, --M too", p.loss.Law)
		}
		ps = append(ps, p.forward(r, level))
	}
	return ps, nil
}

// sizes are all combinations of the lists.
func (t *target) sizes() ([]scaling.Run, error) {
	or := func(xs []float64) []float64 {
		if len(xs) == 0 {
			return []float64{0}
		}
		return xs
	}
	if len(t.n)+len(t.d)+len(t.m)+len(t.c) == 0 || len(t.compare) > 0 && len(t.n)+len(t.d)+len(t.c) == 0 {
		return nil, nil
	}
	var rs []scaling.Run
	for _, n := range or(t.n) {
		for _, d := range or(t.d) {
			for _, m := range or(t.m) {
				for _, c := range or(t.c) {
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
func (p lawPair) describe(r scaling.Run) prediction {
	x := prediction{Group: p.group, Name: r.Name, N: r.N, D: r.D, C: r.C}
	if r.N > 0 {
		x.M = r.M()
	}
	return x
}

// forward predicts the loss of a run, and from it the error.
func (p lawPair) forward(r scaling.Run, level float64) prediction {
	x := p.describe(r)
	loss := p.loss.At(r)
	x.Loss = &loss
	if s := p.loss.sample; s != nil {
		i := s.Interval(level, func(f *scaling.Fit) float64 { return f.At(r) })
		x.LossInterval = &i
	}
	if p.err == nil {
		return x
	}
	e := p.err.At(scaling.Run{Loss: loss})
	x.Err = &e
	if p.loss.sample != nil && p.err.sample != nil {
		var es []float64
		for i := range min(len(p.loss.sample.Fits), len(p.err.sample.Fits)) {
			es = append(es, p.err.sample.Fits[i].At(scaling.Run{Loss: p.loss.sample.Fits[i].At(r)}))
		}
		i := scaling.Quantiles(level, es)
		x.ErrInterval = &i
	}
	return x
}

// fromLoss predicts the error at a loss.
func (p lawPair) fromLoss(x *prediction, loss, level float64) {
	if p.err == nil {
		return
	}
	e := p.err.At(scaling.Run{Loss: loss})
	x.Err = &e
	if s := p.err.sample; s != nil {
		i := s.Interval(level, func(f *scaling.Fit) float64 { return f.At(scaling.Run{Loss: loss}) })
		x.ErrInterval = &i
	}
}

// reach finds what reaches losses and errors.
func (p lawPair) reach(t target, level float64) ([]prediction, error) {
	losses := t.loss
	for _, e := range t.err {
		if p.err == nil {
			return nil, cli.Usagef("--error: there is no error law; give its --fit, or --error-column")
		}
		loss, err := p.err.LossFor(e)
		if err != nil {
			return nil, fmt.Errorf("--error: %w", err)
		}
		losses = append(losses, loss)
	}
	ms := t.m
	if len(ms) == 0 {
		ms = []float64{0}
	}
	var ps []prediction
	for _, loss := range losses {
		for _, m := range ms {
			x := prediction{Group: p.group, Loss: &loss}
			if p.loss != nil {
				r, err := p.loss.Reach(loss, m)
				if err != nil {
					return nil, fmt.Errorf("--loss: %w", err)
				}
				x = p.describe(r)
				x.Loss = &loss
				if s := p.loss.sample; s != nil {
					i := s.Interval(level, func(f *scaling.Fit) float64 {
						r, err := f.Reach(loss, m)
						if err != nil {
							return math.Inf(1)
						}
						return r.C
					})
					if !math.IsInf(i.High, 1) && !math.IsNaN(i.High) {
						x.CInterval = &i
					}
				}
			}
			p.fromLoss(&x, loss, level)
			ps = append(ps, x)
		}
	}
	return ps, nil
}

// compare predicts runs that were measured.
func (s *lawSource) compare(p lawPair, filters []string, level float64) ([]prediction, error) {
	gs, err := s.groups("compare", filters)
	if err != nil {
		return nil, err
	}
	c := s.columns
	if p.err == nil {
		c.Err = ""
	}
	c.Weight = ""
	var ps []prediction
	for _, g := range gs {
		if g.Value != p.group {
			continue
		}
		rs, err := g.Runs(c)
		if err != nil {
			return nil, err
		}
		for _, r := range rs {
			ps = append(ps, p.measured(r, c, level))
		}
	}
	return ps, nil
}

func (p lawPair) measured(r scaling.Run, c runs.Columns, level float64) prediction {
	x := p.describe(r)
	if p.loss != nil {
		x = p.forward(r, level)
		rel := scaling.RelErr(*x.Loss, r.Loss)
		x.LossRelErr, x.InLossFit = &rel, p.loss.has(r)
	}
	x.LossTrue = &r.Loss
	if c.Err == "" {
		return x
	}
	from := p.err.At(r)
	fromRel := scaling.RelErr(from, r.Err)
	x.ErrTrue, x.ErrFromTrue, x.ErrFromTrueRel, x.InErrFit = &r.Err, &from, &fromRel, p.err.has(r)
	if x.Err != nil {
		rel := scaling.RelErr(*x.Err, r.Err)
		x.ErrRelErr = &rel
	}
	return x
}

// has reports whether a law was fitted to a run.
func (f *fitted) has(r scaling.Run) bool {
	for _, p := range f.Points {
		if p.Name == r.Name && p.N == r.N && p.D == r.D {
			return true
		}
	}
	return false
}

func printPredictions(w io.Writer, ps []prediction) error {
	lines := [][]string{{"kind", "run", "N", "D", "M", "C", "interval", "loss", "interval", "measured", "off by",
		"error", "interval", "measured", "off by", "from measured loss", "off by"}}
	size := func(x float64) string {
		if x == 0 {
			return ""
		}
		return num(x)
	}
	value := func(x *float64) string {
		if x == nil {
			return ""
		}
		return fmt.Sprintf("%.4f", *x)
	}
	share := func(x *float64) string {
		if x == nil {
			return ""
		}
		return percentOf(*x)
	}
	interval := func(i *scaling.Interval, format string) string {
		if i == nil {
			return ""
		}
		return fmt.Sprintf(format+" to "+format, i.Low, i.High)
	}
	fitted := false
	for _, p := range ps {
		name := p.Name
		if p.InLossFit || p.InErrFit && p.Err == nil {
			name, fitted = name+" *", true
		}
		lines = append(lines, []string{p.Group, name, size(p.N), size(p.D), size(p.M), size(p.C), interval(p.CInterval, "%.3g"),
			value(p.Loss), interval(p.LossInterval, "%.4f"), value(p.LossTrue), share(p.LossRelErr),
			value(p.Err), interval(p.ErrInterval, "%.4f"), value(p.ErrTrue), share(p.ErrRelErr), value(p.ErrFromTrue), share(p.ErrFromTrueRel)})
	}
	if err := table(w, dropEmpty(lines)); err != nil {
		return err
	}
	if fitted {
		fmt.Fprintln(w, "\n* the law of the loss was fitted to it")
	}
	return nil
}
