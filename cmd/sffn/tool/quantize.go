package tool

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/calibrate"
	"github.com/structuredffn/sffn/model/convert"
	"github.com/structuredffn/sffn/model/data"
	"github.com/structuredffn/sffn/model/eval"
	"github.com/structuredffn/sffn/model/quantize"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// quantization is what quantize is asked to do.
type quantization struct {
	machine
	model, out string
	to         string
	format     kernel.FormatName
	data       []string
	evalTokens int
	// calibrate is a folder of data, and tokens how many of its training split.
	calibrate string
	tokens    int
}

func newQuantize() *cobra.Command {
	var q quantization
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "quantize",
		Short: "Make a smaller model of few bits, to run",
		Long: `Make a smaller model of few bits, to run. With bf16 all matrices become bfloat16, half
the size. With int8 the large ones become integers with a scale for each output, with int4
with a scale for each 32 inputs of one; with int4 the embedding and the head are int8, and
matrices whose blocks have fewer than 64 inputs or outputs are bfloat16. Factors whose lanes
run across blocks (blast's middle one), biases, norms and embeddings of positions stay float32.

With --calibrate integers are chosen so that what the matrices give on text errs least,
in place of the nearest ones: the inputs of a matrix that are still to be rounded make up
for the errors of those that were. bf16 has no such choice: it is rounded to nearest.

The run has one checkpoint, step-00000000, that states its format: generate, eval, logits
and info read it, train refuses it. --format of generate and eval does the same
without a file, with the nearest numbers. The table has the format, the size and the
relative errors of each matrix: of its weights, and of its outputs with the nearest integers
and with those that were chosen; below are why some have more bits than was asked for, the
sizes by format, and the losses before and after, on the validation splits of --calibrate and
of each --data.`,
		Example: `  sffn quantize --model run --format bf16 --out run16
  sffn quantize --model run --format int8 --out run8
  sffn quantize --model run --format int4 --calibrate data --out run4`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cli.Require(cmd, "model", "format", "out"); err != nil {
				return err
			}
			f, err := quantize.Parse(q.to)
			if err != nil {
				return cli.Usagef("--format: %v", err)
			}
			if q.format = f; q.calibrate != "" && !f.Quantized() {
				return cli.Usagef("--calibrate is for integers: %s is rounded to the nearest number, which text would not change", f)
			}
			if q.tokens < 1 {
				return cli.Usagef("--tokens: %d is out of range, want 1 or more", q.tokens)
			}
			if q.evalTokens < 1 {
				return cli.Usagef("--eval-tokens: %d is out of range, want 1 or more", q.evalTokens)
			}
			if err := q.open(); err != nil {
				return err
			}
			defer q.close()
			res, err := q.run(cmd.ErrOrStderr())
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
	fl.StringVar(&q.model, "model", "", "folder of a run or checkpoint")
	fl.StringVar(&q.to, "format", "", "what the weights become: bf16, int8 or int4")
	fl.StringVar(&q.calibrate, "calibrate", "", "folder that sffn prepare made, whose text the outputs are fitted on")
	fl.IntVar(&q.tokens, "tokens", 1<<16, "training tokens to calibrate on, at most")
	fl.StringArrayVar(&q.data, "data", nil, "folder that sffn prepare made, to measure losses on; may come several times")
	fl.IntVar(&q.evalTokens, "eval-tokens", 1<<16, "validation tokens to measure losses on, at most")
	fl.StringVar(&q.out, "out", "", "folder of the new run")
	fl.BoolVar(&asJSON, "json", false, "print one JSON object")
	cli.Complete(cmd, "format", kernel.BF16, kernel.Int8, kernel.Int4)
	q.flag(cmd)
	return cmd
}

// quantized is what quantize prints with --json.
type quantized struct {
	*calibrate.Report
	// EvalTokens is the number of tokens of the losses, at most; of models, the one that
	// was quantised comes first.
	EvalTokens int           `json:"eval_tokens,omitempty"`
	Models     []eval.Result `json:"models,omitempty"`
}

func (r *quantized) print(w io.Writer) error {
	percent := func(x *float64) string {
		if x == nil {
			return ""
		}
		return fmt.Sprintf("%.2f %%", 100**x)
	}
	kb := func(bytes int64) string { return fmt.Sprintf("%.1f kB", float64(bytes)/1e3) }
	bits := func(bytes, entries int64) string { return fmt.Sprintf("%.2f", 8*float64(bytes)/float64(entries)) }
	rows := [][]string{{"parameter", "format", "size", "bits an entry", "weights' error", "outputs' error, nearest", "outputs' error"}}
	var whys []string
	more := map[string]int64{}
	for _, p := range r.Params {
		format := string(p.Format)
		if p.Why != "" {
			i := slices.Index(whys, p.Why)
			if i < 0 {
				i, whys = len(whys), append(whys, p.Why)
			}
			more[p.Why] += p.More
			format += strings.Repeat("*", i+1)
		}
		rows = append(rows, []string{p.Name, format, kb(p.Bytes), bits(p.Bytes, p.Entries), percent(&p.Weights), percent(p.Nearest), percent(p.Outputs)})
	}
	if err := term.Table(w, term.DropEmpty(rows)); err != nil {
		return err
	}
	for i, why := range whys {
		fmt.Fprintf(w, "%s more bits than %s, %s more in all: %s\n", strings.Repeat("*", i+1), r.Format, kb(more[why]), why)
	}
	rows = [][]string{{"format", "parameters", "entries", "size", "bits an entry"}}
	for _, f := range r.Formats {
		rows = append(rows, []string{string(f.Format), fmt.Sprint(f.Params), fmt.Sprint(f.Entries), kb(f.Bytes), bits(f.Bytes, f.Entries)})
	}
	if err := term.Table(w, rows); err != nil {
		return err
	}
	if len(r.Models) > 0 {
		if err := term.Table(w, eval.Table(r.Models)); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintf(w, "%s: %.1f MB of weights, %s of the %.1f MB of %s\n", r.Out, float64(r.Bytes)/1e6, term.Percent(float64(r.Bytes)/float64(r.Before)), float64(r.Before)/1e6, r.From)
	return err
}

func (q *quantization) run(log io.Writer) (*quantized, error) {
	ctx, stop := cli.Interrupts()
	defer stop()
	from, err := openModel(q.model)
	if err != nil {
		return nil, err
	}
	z := calibrate.Quantization{From: from, Format: q.format, Options: q.Options}
	var sets []eval.Set
	defer func() {
		for _, s := range sets {
			s.Close()
		}
	}()
	for i, dir := range append([]string{q.calibrate}, q.data...) {
		if dir == "" {
			continue
		}
		flag := "data"
		if i == 0 {
			flag = "calibrate"
		}
		set, err := data.Open(dir)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", flag, err)
		}
		sets = append(sets, eval.Set{Name: dir, Set: set})
		if err := sets[len(sets)-1].Fits(from, q.model); err != nil {
			return nil, err
		}
	}
	if q.calibrate != "" {
		seq := from.Config.Train.Seq
		ids, _, err := sets[0].Train.Windows(max(1, q.tokens/seq), seq)
		if err != nil {
			return nil, fmt.Errorf("--calibrate: %s: %w", q.calibrate, err)
		}
		z.Calibration = &convert.Calibration{IDs: ids, Seq: seq}
	}
	of, err := z.Begin(q.out)
	if err != nil {
		return nil, err
	}
	res := &quantized{}
	done := term.NewCounter(log, "layers", of)
	z.Progress = done.Set
	res.Report, err = z.Run(ctx, q.out)
	done.Close()
	if err != nil && ctx.Err() != nil {
		return nil, cli.CutBy(ctx, "interrupted: nothing was written")
	}
	if err != nil || len(sets) == 0 {
		return res, err
	}
	res.EvalTokens = q.evalTokens
	for _, name := range []string{q.model, q.out} {
		rs, err := losses(ctx, log, name, sets, q.evalTokens, q.Options)
		if err != nil {
			return nil, err
		}
		res.Models = append(res.Models, rs...)
	}
	return res, nil
}

// losses measures a model on all sets.
func losses(ctx context.Context, log io.Writer, name string, sets []eval.Set, tokens int, opt rt.Options) (rs []eval.Result, err error) {
	done := term.NewCounter(log, "losses", len(sets))
	defer done.Close()
	from, err := openModel(name)
	if err != nil {
		return nil, err
	}
	m, err := eval.Open(from, name, opt)
	if err != nil {
		return nil, err
	}
	defer m.Close()
	for i, set := range sets {
		r, err := m.Loss(ctx, set, tokens)
		if err != nil {
			return nil, err
		}
		rs = append(rs, r)
		done.Set(i + 1)
	}
	return rs, nil
}
