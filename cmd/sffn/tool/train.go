package tool

import (
	"fmt"
	"io"
	"math"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/ram"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/internal/trainlog"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/data"
	"github.com/structuredffn/sffn/model/train"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

func newTrain() *cobra.Command {
	var m machine
	var dev device
	var config, dataDir string
	var steps int
	var profile bool
	var run train.Run
	cmd := &cobra.Command{
		Use:   "train",
		Short: "Train a model",
		Long: `Train a model on a folder that sffn prepare made.

The run's folder holds checkpoints, metrics.jsonl (one object a step) and, at
the end, loss.png. An interrupt (SIGINT, SIGTERM, SIGHUP) ends the micro-batch
at work and saves the last whole step, with exit code 130, 143 or 129; a second
one ends at once. In the first step there is nothing to save. --resume continues
with the same bits as if nothing had happened; a run that is finished says so, or
goes on where --steps gives it more. One process at a time may train in a folder.

--init begins with the weights of another run, or of an imported model, instead of
random ones. The file of --config may then leave out model:, and without --config
the run has all of the checkpoint's configuration. A guided configuration may begin
with the dense model of its widths: the feed-forward matrices of that are its guides,
and their projections its factors. --guides names the dense model of a run that begins
with what sffn convert has made of it.
More steps change the learning rate of those that follow: a cosine is that of all
steps from there, wsd stays at its peak longer.`,
		Example: `  sffn train --config demo --data data --out run
  sffn train --init gpt2 --config tune.yaml --data data --out tuned
  sffn train --init converted --guides dense --config guided.yaml --data data --out tuned
  sffn train --data data --out run --resume`,
		Args: cli.NoArgs,
		RunE: inRanks(func(cmd *cobra.Command, r ranks) error {
			out, log := cmd.OutOrStdout(), cmd.ErrOrStderr()
			prepare := func() error {
				if err := cli.Require(cmd, "data", "out"); err != nil {
					return err
				}
				if err := dev.check(); err != nil {
					return err
				}
				if profile && dev.mustGPU() {
					return cli.Usagef("--profile times the parts of the CPU's steps, want --device cpu")
				}
				if cmd.Flags().Changed("steps") && steps < 1 {
					return cli.Usagef("--steps: %d is out of range, want 1 or more", steps)
				}
				if run.Init != "" && run.Resume {
					return cli.Usagef("--init begins a run, --resume goes on with one: want one of them")
				}
				if run.Guides != "" && run.Init == "" {
					return cli.Usagef("--guides are those of a run that begins with a converted model: want --init; a run that resumes has them")
				}
				if config == "" && !run.Resume && run.Init == "" {
					return cli.Usagef("--config is missing: YAML file or preset")
				}
				err := run.Configure(config, steps)
				if err != nil {
					return err
				}
				if run.Keep < 1 {
					return cli.Usagef("--keep: %d is out of range, want 1 or more", run.Keep)
				}
				if run.SaveEvery < 0 {
					return cli.Usagef("--save-every: %v is out of range, want 0 (at the end only) or more", run.SaveEvery)
				}
				if run.Data, err = data.Open(dataDir); err != nil {
					return err
				}
				return r.open(&m, log)
			}
			defer func() {
				if run.Data != nil {
					run.Data.Close()
				}
				if m.Pool != nil {
					m.close()
				}
			}()
			if err := r.together(prepare()); err != nil {
				return err
			}
			run.Group, run.Options = r, m.Options
			if res, err := run.Finished(); err != nil {
				return err
			} else if res != nil {
				_, err := fmt.Fprintf(out, "%s is finished: %s\n", run.Dir, trained(res, run.Dir))
				return err
			}
			if run.Init != "" {
				config = "" // which may lack the model, and the run has a checkpoint
			}
			gpu, err := dev.train(log, &run, linked(config, run.Dir))
			if err != nil {
				return err
			}
			peak := 0.0 // not known of a device
			if gpu != nil {
				defer gpu.Close()
				describe(log, run.Config, gpu.Name)
			} else {
				if err := r.together(checkMemory(run.Config, m.Pool.Threads(), r)); err != nil {
					return err
				}
				describe(log, run.Config, fmt.Sprintf("%s on %d threads%s", m.ISA, m.Pool.Threads(), r.of()))
				advise(log, run.Config, m.ISA, config, run.Dir)
				peak = rt.Peak(m.Pool, m.ISA, train.Format(run.Config.Train)) * float64(r.Size())
			}
			progress := trainlog.New(log, run.Config.Course().Steps, peak)
			progress.Follow()
			run.OnStep, run.OnBatch, run.OnNote = progress.Step, progress.Batch, progress.Note
			ctx, stop := cli.Interrupts()
			defer stop()
			res, err := run.Train(ctx)
			progress.Close()
			if err != nil {
				return err
			}
			if profile && gpu == nil {
				if err := term.Table(out, res.Profile.Table()); err != nil {
					return err
				}
			}
			if res.Interrupted && res.Checkpoint == "" {
				return r.interrupted(ctx, "interrupted in the first of %d steps, before there was anything to save; the same command begins again", res.Steps)
			}
			if res.Interrupted {
				return r.interrupted(ctx, "interrupted after step %d of %d, which %s holds; continue with --resume", res.Step, res.Steps, res.Checkpoint)
			}
			_, err = fmt.Fprintln(out, trained(res, run.Dir))
			return err
		}),
	}
	fl := cmd.Flags()
	fl.StringVar(&config, "config", "", "YAML file or preset; with --resume the run's own is the default, with --init the checkpoint's")
	fl.StringVar(&run.Init, "init", "", "run or checkpoint, trained or imported, whose weights the run begins with")
	fl.StringVar(&run.Guides, "guides", "", "run or checkpoint of a dense model whose matrices are the guides of a guided run with --init")
	fl.StringVar(&dataDir, "data", "", "folder that sffn prepare made")
	fl.StringVar(&run.Dir, "out", "", "folder of the run")
	fl.IntVar(&steps, "steps", 0, "optimizer steps instead of the configuration's; a run that resumes may have more than it began with")
	fl.BoolVar(&run.Resume, "resume", false, "continue from the newest checkpoint in --out")
	fl.DurationVar(&run.SaveEvery, "save-every", 5*time.Minute, "time between checkpoints, 0 for one at the end only")
	fl.IntVar(&run.Keep, "keep", 2, "checkpoints to keep")
	fl.BoolVar(&profile, "profile", false, "print where the time went")
	cli.CompleteConfig(cmd, "config")
	m.flag(cmd)
	dev.flag(cmd)
	return cmd
}

// trained says how a run has ended.
func trained(res *train.Result, dir string) string {
	bits := ""
	if !math.IsNaN(res.ValBits) {
		bits = fmt.Sprintf(", %.4f bits per byte", res.ValBits)
	}
	return fmt.Sprintf("trained %d steps, validation loss %.4f nats per token%s; %s, %s",
		res.Steps, res.ValLoss, bits, res.Checkpoint, filepath.Join(dir, train.CurveFile))
}

// checkMemory refuses what cannot fit.
func checkMemory(c *config.Config, threads int, r ranks) error {
	need := train.NewCost(c, threads, r.Size()).TrainMemory * int64(r.here())
	free, ok := ram.Available()
	if !ok || need <= free {
		return nil
	}
	advice := "set recompute: true, lower batch or seq, or take a smaller model"
	if c.Train.Recompute {
		advice = "lower batch or seq, or take a smaller model"
	}
	return fmt.Errorf("training %s needs about %s bytes%s, %s are available; %s", c.Model.Name, term.Count(float64(need)), r.onThis(), term.Count(float64(free)), advice)
}

// describe says what is about to be trained, and where.
func describe(w io.Writer, c *config.Config, where string) {
	n := c.Model.Count()
	fmt.Fprintf(w, "%s: %s parameters, %s of them in feed-forward weights; %s\n",
		c.Model.Name, term.Count(float64(n.Total)), term.Count(float64(n.MLPWeights)), where)
	for _, warning := range c.Model.Warnings() {
		fmt.Fprintln(w, "warning:", warning)
	}
}

// advise says in a line that layers have no specialised kernels in this program,
// with the command that makes one which has them; info lists them. config is
// empty for a run in dir that resumes with its own.
func advise(w io.Writer, c *config.Config, isa kernel.ISA, config, dir string) {
	have, wanted := 0, 0
	for _, k := range model.Kernels(c.Model, isa) {
		have, wanted = have+k.Linked, wanted+k.Wanted
	}
	if have < wanted {
		fmt.Fprintf(w, "%d of %d specialised kernels are linked, any-shape ones do the rest: the same bits, slower; for all: sffn build %s -o BIN\n",
			have, wanted, linked(config, dir))
	}
}

// linked is how sffn build is told of a model: by the configuration, or by the
// run in dir that has its own.
func linked(config, dir string) string {
	if config == "" {
		return "--model " + dir
	}
	return "--config " + config
}
