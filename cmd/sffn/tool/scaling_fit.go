package tool

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/scaling"
	"github.com/structuredffn/sffn/model/scaling/forecast"
)

func newScalingFit() *cobra.Command {
	var s lawSource
	var r resampling
	var leaveOneOut, asJSON bool
	cmd := &cobra.Command{
		Use:   "fit",
		Short: "Fit a law to runs",
		Long: `Fit a law to runs by least squares.

A filter is a list of conditions, such as dataset=rpj,M>=20, which all have to
hold; the word or joins such lists. Runs of several kinds, as sffn train leaves
them, are fitted apart.

Where runs repeat sizes, with other seeds, an F test of the law is printed: its
lack of fit. Runs that reject a law make its intervals worthless.

--bootstrap and --leave-one-out print intervals. The first draws residuals at
fixed sizes, or with --resample runs whole runs. With --json, predict and plot
read what it prints: law, coefficients by name, derived_forms, rss, points, and
where asked for bootstrap and leave_one_out; for several kinds a list "fits".`,
		Example: `  sffn scaling fit --data testbed.csv --where 'dataset=rpj' --where 'M=20,N<1e9 or M=320,N<2e7' --bootstrap 1000
  sffn scaling fit --data experiments --law irreducible --json`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			fs, err := s.fitFlagged(cmd.ErrOrStderr(), r)
			if err != nil {
				return err
			}
			for _, f := range fs {
				err := f.Resample(r.Resampling)
				if err == nil && leaveOneOut {
					err = f.LeaveOneOut()
				}
				if err != nil {
					return forecast.Of(f.Group, err)
				}
			}
			w := cmd.OutOrStdout()
			if asJSON {
				if len(fs) == 1 {
					return term.JSON(w, fs[0])
				}
				return term.JSON(w, struct {
					Fits []*forecast.Fitted `json:"fits"`
				}{fs})
			}
			for i, f := range fs {
				if i > 0 {
					fmt.Fprintln(w)
				}
				if err := printFit(w, f); err != nil {
					return err
				}
			}
			return nil
		},
	}
	s.flags(cmd)
	r.flags(cmd)
	fl := cmd.Flags()
	fl.BoolVar(&leaveOneOut, "leave-one-out", false, "fit without each run in turn")
	fl.BoolVar(&asJSON, "json", false, "print one JSON object")
	return cmd
}

func printFit(w io.Writer, f *forecast.Fitted) error {
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

func percentOf(x float64) string { return fmt.Sprintf("%.4f %%", 100*x) }
