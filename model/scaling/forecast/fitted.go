// Package forecast fits scaling laws to groups of runs, and predicts models from
// pairs of them: of the loss, and of the error that follows from it.
package forecast

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/scaling"
	"github.com/structuredffn/sffn/model/scaling/runs"
)

// Fitted is a law with what it was fitted to, as sffn scaling fit --json prints
// it.
type Fitted struct {
	*scaling.Fit
	Group        string          `json:"group,omitempty"` // value of the column of groups
	LossColumn   string          `json:"loss_column,omitempty"`
	ErrColumn    string          `json:"error_column,omitempty"`
	Compute      string          `json:"compute_column,omitempty"`
	WeightColumn string          `json:"weight_column,omitempty"`
	Bootstrap    *Bootstrapped   `json:"bootstrap,omitempty"`
	WithoutOne   *WithoutOne     `json:"leave_one_out,omitempty"`
	sample       *scaling.Sample // of the bootstrap
}

// Bootstrapped are the intervals of a bootstrap.
type Bootstrapped struct {
	Resampling
	Failed    int                         `json:"failed"` // resamples that do not determine the law
	Intervals map[string]scaling.Interval `json:"intervals"`
}

// WithoutOne are the ranges of the fits without one run each.
type WithoutOne struct {
	Failed    int                         `json:"failed"`
	Intervals map[string]scaling.Interval `json:"intervals"`
	Runs      []scaling.LeftOut           `json:"runs"`
}

// Resampling is how intervals are made: from no resamples there are none.
type Resampling struct {
	Replicates int     `json:"replicates"`
	Seed       uint64  `json:"seed"`
	Level      float64 `json:"level"`
	Resample   string  `json:"resample"` // a scaling.Resampling
}

// Runs are those of a table whose group is that one, which is all of them where by
// is empty.
func Runs(t *runs.Table, by, group string, c runs.Columns) ([]scaling.Run, error) {
	gs, err := groups(t, by)
	if err != nil {
		return nil, err
	}
	for _, g := range gs {
		if g.Value == group {
			return g.Runs(c)
		}
	}
	return nil, nil
}

func groups(t *runs.Table, by string) ([]runs.Group, error) {
	if by == "" {
		return []runs.Group{{Table: t}}, nil
	}
	return t.Groups(by)
}

// Fit fits a law to each group of runs: those that are alike in the column by, or
// all of them where that is empty.
func Fit(law scaling.Law, t *runs.Table, by string, c runs.Columns, o scaling.Options) ([]*Fitted, error) {
	gs, err := groups(t, by)
	if err != nil {
		return nil, err
	}
	if law != scaling.Error {
		c.Err = ""
	}
	var fs []*Fitted
	for _, g := range gs {
		rs, err := g.Runs(c)
		if err != nil {
			return nil, err
		}
		f, err := scaling.New(law, rs, o)
		if err != nil {
			return nil, Of(g.Value, fmt.Errorf("%s law: %w", law, err))
		}
		fs = append(fs, &Fitted{Fit: f, Group: g.Value, LossColumn: c.Loss, ErrColumn: c.Err, Compute: c.Compute, WeightColumn: c.Weight})
	}
	return fs, nil
}

// Of puts the name of a group before an error, where there are several.
func Of(group string, err error) error {
	return fmt.Errorf("%s%w", prefix(group), err)
}

// ByGroup finds the law of a group, nil where there is none.
func ByGroup(fs []*Fitted, group string) *Fitted {
	if i := slices.IndexFunc(fs, func(f *Fitted) bool { return f.Group == group }); i >= 0 {
		return fs[i]
	}
	return nil
}

// Resample draws the resamples of a fit, from which its predictions have intervals
// then.
func (f *Fitted) Resample(r Resampling) error {
	if r.Replicates == 0 {
		return nil
	}
	if len(f.Points) == 0 {
		return fmt.Errorf("bootstrap: the %s law comes without the runs that it was fitted to", f.Law)
	}
	s, err := f.Fit.Bootstrap(r.Replicates, r.Seed, scaling.Resampling(r.Resample))
	if err != nil {
		return err
	}
	f.sample = s
	f.Bootstrap = &Bootstrapped{Resampling: r, Failed: s.Failed, Intervals: f.intervals(s, r.Level)}
	return nil
}

// LeaveOneOut fits without each run in turn.
func (f *Fitted) LeaveOneOut() error {
	s, left, err := f.Fit.LeaveOneOut()
	if err != nil {
		return err
	}
	f.WithoutOne = &WithoutOne{s.Failed, f.intervals(s, 1), left}
	return nil
}

// Interval is that of a number that follows from the law; nil without resamples.
func (f *Fitted) Interval(level float64, of func(*scaling.Fit) float64) *scaling.Interval {
	if f.sample == nil {
		return nil
	}
	i := f.sample.Interval(level, of)
	return &i
}

// intervals are those of all coefficients.
func (f *Fitted) intervals(s *scaling.Sample, level float64) map[string]scaling.Interval {
	all := map[string]scaling.Interval{}
	for _, name := range f.Law.Coefficients() {
		all[name] = s.Interval(level, func(f *scaling.Fit) float64 { return f.Coefficients[name] })
	}
	return all
}

// has reports whether a law was fitted to a run.
func (f *Fitted) has(r scaling.Run) bool {
	return slices.ContainsFunc(f.Points, func(p scaling.Point) bool { return p.Name == r.Name && p.N == r.N && p.D == r.D })
}

// maxFitFile bounds the files of Read: one of ten thousand runs is shorter.
const maxFitFile = 4 << 20

// Read reads what sffn scaling fit --json wrote.
func Read(name string) ([]*Fitted, error) {
	text, err := disk.ReadText(name, maxFitFile, " for a fit")
	if err != nil {
		return nil, err
	}
	return parse(name, text)
}

// parse reads the text of such a file.
func parse(name string, text []byte) ([]*Fitted, error) {
	var one struct {
		Fitted
		Fits []*Fitted `json:"fits"`
	}
	one.Fit = &scaling.Fit{}
	if err := json.Unmarshal(text, &one); err != nil {
		return nil, fmt.Errorf("%s: want what sffn scaling fit --json prints: %w", name, jsonPlace(text, err))
	}
	fs := one.Fits
	if fs == nil {
		fs = []*Fitted{&one.Fitted}
	}
	for _, f := range fs {
		if f == nil || f.Fit == nil {
			return nil, fmt.Errorf("%s: law: missing in one of the fits", name)
		}
		if err := f.Restore(); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	return fs, nil
}

// jsonPlace puts line and column before an error of package json.
func jsonPlace(text []byte, err error) error {
	at := int64(-1)
	if e := (*json.SyntaxError)(nil); errors.As(err, &e) {
		at = e.Offset
	}
	if e := (*json.UnmarshalTypeError)(nil); errors.As(err, &e) {
		at = e.Offset
	}
	if at < 0 || at > int64(len(text)) {
		return err
	}
	return fmt.Errorf("%s: %w", disk.Place(text, int(at)), err)
}
