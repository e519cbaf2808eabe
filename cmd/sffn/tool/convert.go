package tool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/convert"
	"github.com/structuredffn/sffn/model/data"
	"github.com/structuredffn/sffn/model/eval"
	rt "github.com/structuredffn/sffn/runtime"
)

// conversion is what convert is asked to do.
type conversion struct {
	machine
	c          convert.Conversion
	kind       string
	model, out string
	data       []string
	evalTokens int
	// calibrate is a folder of data, and tokens how many of its training split.
	calibrate string
	tokens    int
	whiten    bool
	uniform   bool
	baselines bool
}

func newConvert() *cobra.Command {
	var c conversion
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "convert",
		Short: "Make a structured model of a dense one",
		Long: `Make a structured model of a dense one: the feed-forward networks of a run become
those of a kind, each matrix by the projection that is nearest to its weights.
With --calibrate it is the nearest in what the matrix gives on text, layer after layer:
each is fitted to the inputs that it has behind the layers that were converted before.
This takes memory for the tokens, eight bytes times the hidden width for each;
--whiten=false takes the weights' projections all the same, and reports the outputs.
The budget is shared out by what each layer's structure costs, measured as the loss
with all other layers dense; --uniform gives all layers one rank.

--budget is the share of the weights of all feed-forward networks that is kept: it
chooses the rank, or the number of blocks of kinds without one. Layers of
--dense-layers stay as they are, and the budget pays for them. --kind dense makes
networks of fewer hidden units.

The run has one checkpoint, step-00000000, of weights alone: eval, generate and
logits read it, and train --resume refuses it. The table has each layer's relative
errors, and the losses before and after, on the validation splits of --calibrate and
of each --data. --baselines converts again, into folders beside --out that are removed
afterwards, and adds the losses with equal ranks, by the weights alone, and of the
narrower dense network of as many weights.`,
		Example: `  sffn convert --model dense --kind lowrank --budget 0.63 --calibrate data --data other --out run
  sffn convert --model dense --kind blast --rank 96 --blocks 4 --out run`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cli.Require(cmd, "model", "kind", "out"); err != nil {
				return err
			}
			if err := c.check(); err != nil {
				return err
			}
			// What gonum computes takes as many threads as Go has.
			if threads := cmp.Or(c.threads, rt.DefaultThreads()); threads > 0 {
				defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(min(runtime.GOMAXPROCS(0), threads)))
			}
			if err := c.open(); err != nil {
				return err
			}
			defer c.close()
			res, err := c.run(cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if asJSON {
				err = term.JSON(out, res)
			} else {
				err = res.print(out)
			}
			if err != nil {
				return err
			}
			return eval.CheckFinite(res.Models)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&c.model, "model", "", "folder of a run or checkpoint of a dense model")
	fl.StringVar(&c.kind, "kind", "", "what the networks become: "+spec.Names(spec.Kinds(), "or"))
	fl.Float64Var(&c.c.Aim.Budget, "budget", 0, "share of the networks' weights to keep, such as 0.63")
	fl.IntVar(&c.c.Aim.Rank, "rank", 0, "rank, of "+spec.Names(spec.Ranked(), "or")+", instead of a budget")
	fl.IntVar(&c.c.Aim.Blocks, "blocks", 0, "blocks, of "+spec.Names(spec.Blocked(), "or")+" (default with a rank: 2)")
	fl.IntSliceVar(&c.c.Aim.Keep, "dense-layers", nil, "layers that stay dense, such as 0,11")
	fl.StringVar(&c.calibrate, "calibrate", "", "folder that sffn prepare made, whose text the outputs are fitted on")
	fl.IntVar(&c.tokens, "tokens", 1<<16, "training tokens to calibrate on, at most")
	fl.BoolVar(&c.whiten, "whiten", true, "fit outputs; false fits weights, and only measures outputs")
	fl.BoolVar(&c.uniform, "uniform", false, "one rank for all layers, where a budget and text to calibrate on would give each its own")
	fl.BoolVar(&c.baselines, "baselines", false, "also measure equal ranks, weights alone and a narrower dense network")
	fl.StringArrayVar(&c.data, "data", nil, "folder that sffn prepare made, to measure losses on; may come several times")
	fl.IntVar(&c.evalTokens, "eval-tokens", 1<<16, "validation tokens to measure losses on, at most")
	fl.StringVar(&c.out, "out", "", "folder of the new run")
	fl.BoolVar(&asJSON, "json", false, "print one JSON object")
	cli.Complete(cmd, "kind", spec.Kinds()...)
	c.flag(cmd)
	return cmd
}

func (c *conversion) check() error {
	c.c.Aim.Kind = spec.Kind(c.kind)
	if c.evalTokens < 1 {
		return cli.Usagef("--eval-tokens: %d is out of range, want 1 or more", c.evalTokens)
	}
	if c.tokens < 1 {
		return cli.Usagef("--tokens: %d is out of range, want 1 or more", c.tokens)
	}
	if c.baselines && c.calibrate == "" && len(c.data) == 0 {
		return cli.Usagef("--baselines measures losses: want --calibrate or --data")
	}
	if err := flagError(c.c.Aim.Check()); err != nil {
		return &cli.UsageError{Err: err}
	}
	return nil
}

// flagError calls fields by the flags that set them.
func flagError(err error) error {
	if field := (*spec.FieldError)(nil); errors.As(err, &field) {
		return fmt.Errorf("--%s: %s", field.Field, field.Msg)
	}
	return err
}

// converted is what convert prints with --json.
type converted struct {
	*convert.Report
	// Baselines are other ways to as many weights.
	Baselines []baseline `json:"baselines,omitempty"`
	// EvalTokens is the number of tokens of the losses, at most; of models, the dense
	// one comes first, then what it has become.
	EvalTokens int           `json:"eval_tokens,omitempty"`
	Models     []eval.Result `json:"models,omitempty"`
}

// baseline is a conversion to compare with; its folder is gone.
type baseline struct {
	Name string `json:"name"`
	*convert.Report
}

func (r *converted) print(w io.Writer) error {
	if err := term.Table(w, r.Table()); err != nil {
		return err
	}
	if len(r.Models) > 0 {
		if err := term.Table(w, eval.Table(r.Models)); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%s: %s of the networks' weights of %s\n", r.Out, term.Percent(r.Share), r.From)
	return err
}

func (c *conversion) run(log io.Writer) (*converted, error) {
	ctx, stop := cli.Interrupts()
	defer stop()
	var err error
	if c.c.From, err = openModel(c.model); err != nil {
		return nil, err
	}
	c.c.Options = c.Options
	var sets []eval.Set
	open := func(flag, dir string) error {
		set, err := data.Open(dir)
		if err != nil {
			return fmt.Errorf("--%s: %w", flag, err)
		}
		sets = append(sets, eval.Set{Name: dir, Set: set})
		if tok, first := set.Tokenizer, sets[0].Tokenizer; tok.Hash() != first.Hash() {
			return fmt.Errorf("--%s: %s was prepared with the tokenizer %s, %s with %s: a model knows one of them", flag, dir, tok.Name(), sets[0].Name, first.Name())
		}
		return sets[len(sets)-1].Fits(c.c.From, c.model)
	}
	defer func() {
		for _, s := range sets {
			s.Close()
		}
	}()
	if c.calibrate != "" {
		if err := open("calibrate", c.calibrate); err != nil {
			return nil, err
		}
		seq := c.c.From.Config.Train.Seq
		ids, _, err := sets[0].Train.Windows(max(1, c.tokens/seq), seq)
		if err != nil {
			return nil, fmt.Errorf("--calibrate: %s: %w", c.calibrate, err)
		}
		c.c.Calibration = &convert.Calibration{IDs: ids, Seq: seq, Whiten: c.whiten, Allot: !c.uniform}
	}
	for _, dir := range c.data {
		if err := open("data", dir); err != nil {
			return nil, err
		}
	}
	of, err := c.c.Begin(c.out)
	if err != nil {
		return nil, flagError(err)
	}
	res := &converted{}
	res.Report, err = c.convert(ctx, log, "steps", &c.c, of)
	if err != nil {
		return nil, err
	}
	if len(sets) == 0 {
		return res, nil
	}
	res.EvalTokens = c.evalTokens
	if err := c.measure(ctx, log, sets, res); err != nil && ctx.Err() != nil {
		return nil, cli.CutBy(ctx, "interrupted while losses were measured: %s is whole", res.Out)
	} else if err != nil {
		return nil, err
	}
	return res, nil
}

// measure adds the losses before and after.
func (c *conversion) measure(ctx context.Context, log io.Writer, sets []eval.Set, res *converted) error {
	for _, name := range []string{c.model, c.out} {
		rs, err := c.losses(ctx, log, name, sets)
		if err != nil {
			return err
		}
		res.Models = append(res.Models, rs...)
	}
	if c.baselines {
		return c.compare(ctx, log, sets, res)
	}
	return nil
}

// convert runs a conversion that has begun.
func (c *conversion) convert(ctx context.Context, log io.Writer, name string, to *convert.Conversion, of int) (*convert.Report, error) {
	done := term.NewCounter(log, name, of)
	defer done.Close()
	to.Progress = done.Set
	r, err := to.Run(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, cli.CutBy(ctx, "%s: interrupted: nothing was written", name)
	}
	return r, err
}

// compare converts by other ways, and measures what comes of it.
func (c *conversion) compare(ctx context.Context, log io.Writer, sets []eval.Set, res *converted) error {
	tmp, err := os.MkdirTemp(filepath.Dir(filepath.Clean(c.out)), ".sffn-baselines-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	var ways []baselineWay
	if cal := c.c.Calibration; cal != nil {
		if equal := *cal; len(res.Effects) > 0 {
			equal.Allot = false
			ways = append(ways, baselineWay{"equal ranks", c.c.Aim, &equal})
		}
		if cal.Whiten && c.c.Aim.Kind != spec.Dense {
			ways = append(ways, baselineWay{"weights alone", c.c.Aim, nil})
		}
	}
	if c.c.Aim.Kind != spec.Dense && res.Share <= 1 {
		ways = append(ways, baselineWay{"narrower", convert.Aim{Kind: spec.Dense, Budget: res.Share}, c.c.Calibration})
	}
	for _, way := range ways {
		to := convert.Conversion{From: c.c.From, Aim: way.aim, Calibration: way.calibration, Options: c.Options}
		run := filepath.Join(tmp, "run")
		of, err := to.Begin(run)
		if err != nil {
			return err
		}
		r, err := c.convert(ctx, log, way.name, &to, of)
		if err != nil {
			return err
		}
		rs, err := c.losses(ctx, log, run, sets)
		if err != nil {
			return err
		}
		for i := range rs {
			rs[i].Model += ", " + way.name
		}
		res.Models = append(res.Models, rs...)
		r.Out = ""
		res.Baselines = append(res.Baselines, baseline{way.name, r})
		if err := os.RemoveAll(run); err != nil {
			return err
		}
	}
	return nil
}

// baselineWay is another way to a small model.
type baselineWay struct {
	name        string
	aim         convert.Aim
	calibration *convert.Calibration
}

// losses measures a model on all sets.
func (c *conversion) losses(ctx context.Context, log io.Writer, name string, sets []eval.Set) ([]eval.Result, error) {
	return losses(ctx, log, name, sets, c.evalTokens, c.Options)
}
