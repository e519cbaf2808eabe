package tool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/experiment"
	"github.com/structuredffn/sffn/runtime/kernel"
)

func newExperiment() *cobra.Command {
	var config, out string
	var reportOnly bool
	opt := experiment.Options{}
	cmd := &cobra.Command{
		Use:   "experiment",
		Short: "Train the runs of a plan and report what they show",
		Long: `Train the runs that a YAML file plans, variants of a model at several sizes and
seeds, and report what they show.

The folder has the tokens (data), an ordinary run's folder for each run (runs),
and the report: report.md, results.csv and plots. An interrupt saves every run
at work, as in train; the same command goes on from there, and leaves finished runs alone.
Under mpirun or srun the ranks share out the runs, in a folder that all of them see.`,
		Example: `  sffn experiment --config experiments/paper/plan.yaml --out build/paper`,
		Args:    cli.NoArgs,
		RunE: inRanks(func(cmd *cobra.Command, r ranks) error {
			var plan *experiment.Plan
			prepare := func() (err error) {
				if err := cli.Require(cmd, "config", "out"); err != nil {
					return err
				}
				if err := cli.Sizes("jobs", 64, opt.Jobs); err != nil {
					return err
				}
				if opt.Threads < 0 || opt.Threads > 4096 {
					return cli.Usagef("--threads: %d is out of range, want 1 to 4096, or 0 for all cores", opt.Threads)
				}
				if plan, err = experiment.Load(config); err != nil {
					return err
				}
				if opt.ISA, err = kernel.Default(); err != nil {
					return &cli.UsageError{Err: err}
				}
				return nil
			}
			if err := r.together(prepare()); err != nil {
				return err
			}
			log := cmd.ErrOrStderr()
			if r.Size() > 1 { // each tells of its own runs
				log = os.Stderr
			}
			opt.Note = func(s string) { fmt.Fprintln(log, s) }
			opt.Group, opt.Threads = r, r.threads(opt.Threads, cmd.ErrOrStderr())
			ctx, stop := cli.Interrupts()
			defer stop()
			var trained error
			if !reportOnly {
				trained = plan.Train(ctx, out, opt)
			}
			var held error // the report is the other process's
			if errors.As(trained, new(*disk.Held)) {
				held = trained
			}
			if err := r.together(held); err != nil {
				return err
			}
			cut := r.interrupted(ctx, "interrupted; %s has what there is, the same command goes on", filepath.Join(out, experiment.ReportFile))
			var reported error
			if r.Rank() == 0 {
				reported = plan.Report(out)
			}
			if err := errors.Join(trained, reported, cut); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "wrote %s\n", filepath.Join(out, experiment.ReportFile))
			return err
		}),
	}
	fl := cmd.Flags()
	fl.StringVar(&config, "config", "", "YAML file of the plan")
	fl.StringVar(&out, "out", "", "folder of the runs and the report")
	fl.BoolVar(&reportOnly, "report", false, "train nothing, write the report of what there is")
	fl.IntVar(&opt.Jobs, "jobs", 1, "runs to train at a time")
	fl.IntVar(&opt.Threads, "threads", 0, "worker threads of each (default: physical cores)")
	fl.DurationVar(&opt.SaveEvery, "save-every", time.Minute, "time between checkpoints of a run")
	return cmd
}
