package tool

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/model/scaling"
	"github.com/structuredffn/sffn/model/scaling/forecast"
	"github.com/structuredffn/sffn/model/scaling/runs"
)

func newScaling() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "scaling",
		Short: "Fit scaling laws to runs, predict larger ones, and draw them",
		Long: `Fit scaling laws to runs, predict larger ones, and draw them.

Runs come from a CSV file whose first line names the columns, or from folders
that sffn train made. Of the columns N (parameters), D (training tokens), M
(D/N) and C (training FLOPs, 6 N D) two are needed. The laws:

  joint        L = alpha N^b + beta 6^(b/2) D^b + E
  compute      the same as L = E + (a M^eta + beta M^-eta) C^-eta
  power        L = lam C^exponent
  irreducible  L = lam C^exponent + E
  error        Err = epsilon - k exp(-gamma L)

docs/scaling.md leads from five cheap runs to a prediction.`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cli.Usagef("say what to do: sffn scaling fit, predict, plot or runs")
		},
	}
	cmd.AddCommand(newScalingFit(), newScalingPredict(), newScalingPlot(), newScalingRuns())
	return cmd
}

// lawSource is where runs and laws come from: the flags that the scaling
// commands share.
type lawSource struct {
	data, where, errWhere []string
	columns               runs.Columns
	by                    string
	law                   string
	floor                 float64

	table *runs.Table
	// given tells flags from defaults.
	given func(flag string) bool
}

func (s *lawSource) dataFlags(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringArrayVar(&s.data, "data", nil, "CSV file, run, or folder of runs; may come several times")
	fl.StringArrayVar(&s.where, "where", nil, `runs to take, such as "dataset=rpj,M=20 or dataset=rpj,N<1e8"; all of several hold`)
}

func (s *lawSource) flags(cmd *cobra.Command) {
	s.dataFlags(cmd)
	fl := cmd.Flags()
	s.given = fl.Changed
	fl.StringVar(&s.law, "law", string(scaling.Joint), "joint, compute, power, irreducible or error")
	var laws []string
	for _, l := range scaling.Laws {
		laws = append(laws, string(l))
	}
	cli.Complete(cmd, "law", laws...)
	fl.StringVar(&s.columns.Loss, "loss-column", "", "column of the loss (default: loss, loss_c4_val, or the only loss_*)")
	fl.StringVar(&s.columns.Err, "error-column", "", "column of the error (default: err, or the only err_*)")
	fl.StringVar(&s.columns.Compute, "compute-column", "", "column of the FLOPs (default: C, or 6 N D)")
	fl.StringVar(&s.columns.Weight, "weight-column", "", "column of the weights of squared residuals (default: all 1)")
	fl.StringVar(&s.by, "by", "", "column whose values are fitted apart (default: kind, where it has several)")
	fl.Float64Var(&s.floor, "floor", 0, "loss to subtract before a power law is fitted")
}

// read reads the data.
func (s *lawSource) read(log io.Writer) error {
	if len(s.data) == 0 {
		return cli.Usagef("--data is missing: CSV file, run, or folder of runs")
	}
	var tables []*runs.Table
	for _, name := range s.data {
		t, notes, err := runs.Read(name)
		if err != nil {
			return fmt.Errorf("--data: %w", err)
		}
		for _, n := range notes {
			fmt.Fprintln(log, n)
		}
		tables = append(tables, t)
	}
	s.table = runs.Join(tables...)
	return nil
}

// open reads the data and settles the columns. withErr says that errors are
// needed.
func (s *lawSource) open(log io.Writer, withErr bool) error {
	if err := s.read(log); err != nil {
		return err
	}
	var err error
	if s.columns.Loss == "" {
		if s.columns.Loss, err = s.table.Pick("loss", "loss_c4_val"); err != nil {
			return cli.Usagef("--loss-column: %w", err)
		}
	}
	if withErr && s.columns.Err == "" {
		if s.columns.Err, err = s.table.Pick("err"); err != nil {
			return cli.Usagef("--error-column: %w", err)
		}
	}
	if s.columns.Compute == "" && s.table.Has("C") {
		s.columns.Compute = "C"
	}
	if s.by == "" && !s.given("by") && s.table.Has("kind") {
		s.by = "kind"
	}
	for _, c := range []struct{ flag, column string }{{"loss-column", s.columns.Loss}, {"error-column", s.columns.Err},
		{"compute-column", s.columns.Compute}, {"weight-column", s.columns.Weight}, {"by", s.by}} {
		if c.column != "" && !s.table.Has(c.column) {
			return cli.Usagef("--%s: %s: no column %q; there are %s", c.flag, s.table.Name, c.column, strings.Join(s.table.Columns, ", "))
		}
	}
	return nil
}

// filter applies filters that all have to hold.
func (s *lawSource) filter(flag string, filters []string) (*runs.Table, error) {
	t := s.table
	for _, f := range filters {
		var err error
		if t, err = t.Where(f); err != nil {
			return nil, cli.Usagef("--%s: %w", flag, err)
		}
	}
	return t, nil
}

// resampling is the flags of how intervals are made.
type resampling struct{ forecast.Resampling }

func (r *resampling) flags(cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.IntVar(&r.Replicates, "bootstrap", 0, "resamples for intervals, such as 1000")
	fl.Uint64Var(&r.Seed, "seed", 1, "seed of the bootstrap")
	fl.Float64Var(&r.Level, "level", 0.95, "share of the resamples that an interval holds")
	fl.StringVar(&r.Resample, "resample", string(scaling.Residuals), "what a bootstrap draws: residuals, or runs")
}

// maxReplicates bounds what a bootstrap keeps in memory.
const maxReplicates = 1 << 20

func (r *resampling) check() error {
	if r.Replicates < 0 || r.Replicates > maxReplicates {
		return cli.Usagef("--bootstrap: %d is out of range, want 0 (none) to %d", r.Replicates, maxReplicates)
	}
	if !(r.Level > 0 && r.Level < 1) {
		return cli.Usagef("--level: %g is out of range, want more than 0 and less than 1", r.Level)
	}
	if how := scaling.Resampling(r.Resample); how != scaling.Residuals && how != scaling.Cases {
		return cli.Usagef("--resample: unknown way %q; valid are %s, %s", r.Resample, scaling.Residuals, scaling.Cases)
	}
	return nil
}

// fit fits a law to each group of the runs that a filter selects.
func (s *lawSource) fit(law scaling.Law, flag string, filters []string) ([]*forecast.Fitted, error) {
	t, err := s.filter(flag, filters)
	if err != nil {
		return nil, err
	}
	o := scaling.Options{}
	if law == scaling.Power {
		o.Floor = s.floor
	}
	return forecast.Fit(law, t, s.by, s.columns, o)
}

// fitFlagged checks the flags, reads the data and fits --law to --where.
func (s *lawSource) fitFlagged(log io.Writer, r resampling) ([]*forecast.Fitted, error) {
	law, err := s.lawFlag()
	if err != nil {
		return nil, err
	}
	if err := r.check(); err != nil {
		return nil, err
	}
	if err := s.open(log, law == scaling.Error); err != nil {
		return nil, err
	}
	return s.fit(law, "where", s.where)
}

// lawFlag reads --law.
func (s *lawSource) lawFlag() (scaling.Law, error) {
	law := scaling.Law(s.law)
	if !law.Valid() {
		return "", cli.Usagef("--law: unknown law %q; valid are %v", s.law, scaling.Laws)
	}
	if s.floor != 0 && law != scaling.Power {
		return "", cli.Usagef("--floor: the %s law finds its own; only power takes one", law)
	}
	return law, nil
}
