package tool

import (
	"fmt"
	"io"
	"math"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/scaling"
	"github.com/structuredffn/sffn/model/scaling/forecast"
)

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
			var ps []forecast.Prediction
			for _, p := range pairs {
				for _, f := range []*forecast.Fitted{p.Loss, p.Err} {
					if f == nil {
						continue
					}
					if err := f.Resample(r.Resampling); err != nil {
						return forecast.Of(p.Group, err)
					}
					f.Warn(cmd.ErrOrStderr())
				}
				more, err := s.predict(p, t, r.Level)
				if err != nil {
					return forecast.Of(p.Group, err)
				}
				ps = append(ps, more...)
			}
			if asJSON {
				return term.JSON(cmd.OutOrStdout(), struct {
					Predictions []forecast.Prediction `json:"predictions"`
				}{ps})
			}
			return forecast.Print(cmd.OutOrStdout(), ps)
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
func (s *lawSource) pairs(log io.Writer, files []string, compare bool) ([]forecast.Pair, error) {
	var losses, errs []*forecast.Fitted
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
		fs, err := forecast.Read(name)
		if err != nil {
			return nil, fmt.Errorf("--fit: %w", err)
		}
		for _, f := range fs {
			list := &losses
			if f.Law == scaling.Error {
				list = &errs
			}
			if forecast.ByGroup(*list, f.Group) != nil {
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
func (s *lawSource) adopt(fs []*forecast.Fitted) {
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
func pair(losses, errs []*forecast.Fitted) ([]forecast.Pair, error) {
	ps := forecast.Pairs(losses, errs)
	for _, p := range ps {
		if p.Err == nil && len(errs) > 0 {
			return nil, cli.Usagef("no error law%s; there is one of its loss", of(p.Group))
		}
	}
	return ps, nil
}

// predict answers for one group.
func (s *lawSource) predict(p forecast.Pair, t target, level float64) (ps []forecast.Prediction, err error) {
	if len(t.compare) > 0 {
		measured, err := s.filter("compare", t.compare)
		if err != nil {
			return nil, err
		}
		if ps, err = p.Compare(measured, s.by, s.columns, level); err != nil {
			return nil, err
		}
	}
	if len(t.loss)+len(t.err) > 0 {
		losses := t.loss
		for _, e := range t.err {
			if p.Err == nil {
				return nil, cli.Usagef("--error: there is no error law; give its --fit, or --error-column")
			}
			loss, err := p.Err.LossFor(e)
			if err != nil {
				return nil, fmt.Errorf("--error: %w", err)
			}
			losses = append(losses, loss)
		}
		more, err := p.Reach(losses, t.m, level)
		if err != nil {
			return nil, fmt.Errorf("--loss: %w", err)
		}
		return append(ps, more...), nil
	}
	sized := len(t.n) + len(t.d) + len(t.c)
	if sized == 0 && (len(t.m) == 0 || len(t.compare) > 0) {
		return ps, nil
	}
	sizes, err := forecast.Sizes(t.n, t.d, t.m, t.c)
	if err != nil {
		return nil, err
	}
	for _, r := range sizes {
		if p.Loss == nil {
			return nil, cli.Usagef("the error law alone predicts from --loss; want a law of the loss too")
		}
		if r.N == 0 && p.Loss.Law != scaling.Power && p.Loss.Law != scaling.Irreducible {
			return nil, cli.Usagef("--C alone: the %s law needs one of --N, --D, --M too", p.Loss.Law)
		}
		ps = append(ps, p.At(r, level))
	}
	return ps, nil
}
