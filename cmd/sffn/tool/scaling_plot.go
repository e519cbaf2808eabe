package tool

import (
	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/scaling"
	"github.com/structuredffn/sffn/model/scaling/chart"
	"github.com/structuredffn/sffn/model/scaling/forecast"
)

func newScalingPlot() *cobra.Command {
	var s lawSource
	var r resampling
	var compare []string
	var out, title string
	cmd := &cobra.Command{
		Use:   "plot",
		Short: "Draw a law and the runs it was fitted to",
		Long: `Draw a law that is fitted to runs first: reducible loss against compute with a
curve for each number of tokens a parameter, or with --law error the error
against the loss. Several kinds are several curves, with their slopes.

Runs that were fitted are filled; those of --compare, which the law predicts,
hollow. --out ends in .png or .svg.`,
		Example: `  sffn scaling plot --data testbed.csv --where 'dataset=rpj' --where 'M=20,N<1e9 or M=320,N<2e7' --compare dataset=rpj --out loss.png
  sffn scaling plot --data experiments --law irreducible --bootstrap 1000 --out kinds.svg`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cli.Require(cmd, "out"); err != nil {
				return err
			}
			format, err := chart.Format(out)
			if err != nil {
				return cli.Usagef("--out: %w", err)
			}
			fs, err := s.fitFlagged(cmd.ErrOrStderr(), r)
			if err != nil {
				return err
			}
			for _, f := range fs {
				f.Warn(cmd.ErrOrStderr())
			}
			var series []chart.Series
			for _, f := range fs {
				x, err := s.series(f, r, compare)
				if err != nil {
					return forecast.Of(f.Group, err)
				}
				series = append(series, x)
			}
			if title == "" {
				title = fs[0].Formula + ", " + fs[0].LossColumn
				if fs[0].Law == scaling.Error {
					title += ", " + fs[0].ErrColumn
				}
			}
			f, err := disk.New(out)
			if err != nil {
				return err
			}
			defer f.Close()
			if err := chart.Draw(f, format, title, series); err != nil {
				return err
			}
			return f.Commit()
		},
	}
	s.flags(cmd)
	r.flags(cmd)
	fl := cmd.Flags()
	fl.StringArrayVar(&compare, "compare", nil, "runs of --data to draw beside those fitted; a filter as --where")
	fl.StringVar(&out, "out", "", "file to write, .png or .svg")
	fl.StringVar(&title, "title", "", "title (default: the law and the column)")
	return cmd
}

// series is what to draw of one law.
func (s *lawSource) series(f *forecast.Fitted, r resampling, compare []string) (chart.Series, error) {
	x := chart.Series{Name: f.Group, Fit: f.Fit}
	if err := f.Resample(r.Resampling); err != nil {
		return x, err
	}
	x.Slope = f.Interval(r.Level, (*scaling.Fit).Exponent)
	if len(compare) == 0 {
		return x, nil
	}
	t, err := s.filter("compare", compare)
	if err != nil {
		return x, err
	}
	c := s.columns
	if f.Law != scaling.Error {
		c.Err = ""
	}
	c.Weight = ""
	x.Other, err = forecast.Runs(t, s.by, f.Group, c)
	return x, err
}
