package tool

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/term"
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
				if err := f.Print(w); err != nil {
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
