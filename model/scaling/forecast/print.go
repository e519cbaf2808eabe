package forecast

import (
	"fmt"
	"io"

	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/scaling"
)

// Print writes the law with the runs that it was fitted to.
func (f *Fitted) Print(w io.Writer) error {
	fmt.Fprintf(w, "%s%s, fitted to %d runs\n\n", prefix(f.Group), f.Formula, len(f.Points))
	heading := []string{"coefficient", "value"}
	if f.Bootstrap != nil {
		heading = append(heading, fmt.Sprintf("%g %% bootstrap", 100*f.Bootstrap.Level))
	}
	if f.WithoutOne != nil {
		heading = append(heading, "without one run")
	}
	rows := [][]string{heading}
	for _, name := range f.Law.Coefficients() {
		row := []string{name, fmt.Sprintf("%.6g", f.Coefficients[name])}
		if f.Bootstrap != nil {
			row = append(row, span(f.Bootstrap.Intervals[name]))
		}
		if f.WithoutOne != nil {
			row = append(row, span(f.WithoutOne.Intervals[name]))
		}
		rows = append(rows, row)
	}
	if err := term.Table(w, rows); err != nil {
		return err
	}
	measured, x := f.LossColumn, func(p scaling.Point) float64 { return p.Loss }
	if f.Law == scaling.Error {
		measured, x = f.ErrColumn, func(p scaling.Point) float64 { return p.Err }
	}
	heading = []string{"run", "N", "D", "M", "C", measured, "fitted", "error"}
	if f.WithoutOne != nil {
		heading = append(heading, "without it")
	}
	rows = [][]string{heading}
	for i, p := range f.Points {
		row := []string{p.Name, num(p.N), num(p.D), num(p.M()), num(p.C), fmt.Sprintf("%.4f", x(p)), fmt.Sprintf("%.4f", p.Fitted), percentOf(scaling.RelErr(p.Fitted, x(p)))}
		if f.WithoutOne != nil {
			if l := f.WithoutOne.Runs[i]; l.Why == "" {
				row = append(row, fmt.Sprintf("%.4f, %s", l.Predicted, percentOf(l.RelErr)))
			} else {
				row = append(row, "no law")
			}
		}
		rows = append(rows, row)
	}
	fmt.Fprintln(w)
	if err := term.Table(w, rows); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nsum of squared residuals %.6g, %d degrees of freedom\n", f.RSS, f.DOF)
	if f.LackOfFit != nil {
		fmt.Fprintf(w, "lack of fit: %s\n", f.LackOfFit)
	}
	for _, s := range f.Warnings {
		fmt.Fprintln(w, "warning:", s)
	}
	if f.Bootstrap != nil && f.Bootstrap.Failed > 0 {
		fmt.Fprintf(w, "warning: %d of %d resamples do not determine the law and are left out\n", f.Bootstrap.Failed, f.Bootstrap.Replicates)
	}
	if f.WithoutOne != nil {
		for _, l := range f.WithoutOne.Runs {
			if l.Why != "" {
				fmt.Fprintf(w, "without %s: %s\n", l.Name, l.Why)
			}
		}
	}
	return nil
}

func four(x float64) string      { return fmt.Sprintf("%.4f", x) }
func percentOf(x float64) string { return four(100*x) + " %" }

// Warn writes what has to be known about a law that is not shown itself.
func (f *Fitted) Warn(w io.Writer) {
	for _, s := range f.Warnings {
		fmt.Fprintf(w, "warning: %s%s\n", prefix(f.Group), s)
	}
}

// Print writes a table of predictions.
func Print(w io.Writer, ps []Prediction) error {
	lines := [][]string{{"kind", "run", "N", "D", "M", "C", "interval", "loss", "interval", "measured", "off by",
		"error", "interval", "measured", "off by", "from measured loss", "off by"}}
	size := func(x float64) string {
		if x == 0 {
			return ""
		}
		return num(x)
	}
	given := func(x *float64, text func(float64) string) string {
		if x == nil {
			return ""
		}
		return text(*x)
	}
	value := func(x *float64) string { return given(x, four) }
	share := func(x *float64) string { return given(x, percentOf) }
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
	if err := term.Table(w, term.DropEmpty(lines)); err != nil {
		return err
	}
	if fitted {
		fmt.Fprintln(w, "\n* the law of the loss was fitted to it")
	}
	return nil
}

// prefix names a group where there are several.
func prefix(group string) string {
	if group == "" {
		return ""
	}
	return group + ": "
}

// num writes a number of any size.
func num(x float64) string { return fmt.Sprintf("%.4g", x) }

// span writes an interval.
func span(i scaling.Interval) string { return fmt.Sprintf("%s to %s", num(i.Low), num(i.High)) }
