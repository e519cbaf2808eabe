package tool

import (
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/internal/bench"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

func newBench() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure kernels, layers and models against what this machine can do",
		Long: `Measure kernels, layers and models. Every repetition first measures the
machine's peak of multiply-adds, and where it matters its rate of reading
memory, on the same threads; shares are medians of the ratios.`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cli.Usagef("say what to measure: sffn bench kernels, ffn, train, decode or merge")
		},
	}
	cmd.AddCommand(newBenchKernels(), newBenchFFN(), newBenchTrain(), newBenchDecode(), newBenchMerge())
	return cmd
}

// benchmark is what the bench commands share.
type benchmark struct {
	configs []string
	threads []int
	bench   bench.Bench
	asJSON  bool
}

// paperShapes are the presets that are measured by default.
var paperShapes = []string{"gpt2s-dense", "gpt2s-lowrank-63", "gpt2s-lowrank-32", "gpt2s-blockdense-63", "gpt2s-blockdense-32", "gpt2s-blockshuffle-63", "gpt2s-blockshuffle-32"}

func (b *benchmark) flags(cmd *cobra.Command, configs []string, repeats int) {
	fl := cmd.Flags()
	fl.StringSliceVar(&b.configs, "config", configs, "YAML files or presets, comma-separated")
	fl.IntSliceVar(&b.threads, "threads", nil, "numbers of threads (default: 1, and all physical cores)")
	fl.IntVar(&b.bench.Repeats, "repeats", repeats, "repetitions of each measurement")
	fl.BoolVar(&b.asJSON, "json", false, "print one JSON object")
}

// sizes checks a flag that lists sizes.
func sizes(flag string, values []int, most int) error {
	for _, v := range values {
		if v < 1 || v > most {
			return cli.Usagef("--%s: %d is out of range, want 1 to %d", flag, v, most)
		}
	}
	return nil
}

// run measures every item on every number of threads and prints the results.
func run[Item, Result any](b *benchmark, cmd *cobra.Command, what string, items []Item,
	measure func(bench.Bench, Item) ([]Result, error), print func(io.Writer, []Result) error) error {
	if b.bench.Repeats < 1 {
		return cli.Usagef("--repeats: %d is out of range, want 1 or more", b.bench.Repeats)
	}
	if err := sizes("threads", b.threads, 4096); err != nil {
		return err
	}
	isa, err := kernel.Default()
	if err != nil {
		return &cli.UsageError{Err: err}
	}
	threads := b.threads
	if threads == nil {
		threads = slices.Compact([]int{1, rt.DefaultThreads()})
	}
	out := struct {
		Machines []bench.Machine `json:"machines"`
		Results  []Result        `json:"results"`
	}{}
	bar := newBar(cmd.ErrOrStderr(), what, len(items)*len(threads))
	defer bar.close()
	done := 0
	for _, n := range threads {
		b.bench.Options = rt.Options{ISA: isa, Pool: rt.NewPool(n)}
		out.Machines = append(out.Machines, b.bench.Machine(revision()))
		for _, item := range items {
			rs, err := measure(b.bench, item)
			if err != nil {
				b.bench.Pool.Close()
				return err
			}
			out.Results = append(out.Results, rs...)
			done++
			bar.set(done)
		}
		b.bench.Pool.Close()
	}
	bar.close()
	w := cmd.OutOrStdout()
	if b.asJSON {
		return printJSON(w, out)
	}
	for _, m := range out.Machines {
		printMachine(w, m)
	}
	fmt.Fprintln(w)
	return print(w, out.Results)
}

func printMachine(w io.Writer, m bench.Machine) {
	fmt.Fprintf(w, "%s, %s, %d threads:", m.CPU, m.ISA, m.Threads)
	for _, isa := range kernel.Available() {
		fmt.Fprintf(w, " %.1f GFLOP/s %s,", m.PeakGFLOPS[isa], isa)
	}
	for i, r := range m.Read {
		if i > 0 {
			fmt.Fprint(w, ",")
		}
		fmt.Fprintf(w, " %.1f GB/s %s", r.GBps, r.Level)
	}
	fmt.Fprintln(w)
}

// layers lists the distinct networks of the configurations.
func (b *benchmark) layers() ([]spec.FFN, error) {
	var fs []spec.FFN
	for _, name := range b.configs {
		c, err := specfile.Load(name)
		if err != nil {
			return nil, err
		}
		if f := c.Model.LayerFFN(c.Model.Layers - 1); !slices.Contains(fs, f) {
			fs = append(fs, f)
		}
	}
	return fs, nil
}

// layerCommand is a benchmark of networks at numbers of rows.
func layerCommand(b *benchmark, cmd *cobra.Command, rows []int, measure func(bench.Bench, spec.FFN, int) ([]bench.Result, error)) *cobra.Command {
	type item struct {
		spec.FFN
		rows int
	}
	cmd.Args = cli.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := sizes("rows", rows, 1<<20); err != nil {
			return err
		}
		fs, err := b.layers()
		if err != nil {
			return err
		}
		var items []item
		for _, r := range rows {
			for _, f := range fs {
				items = append(items, item{f, r})
			}
		}
		return run(b, cmd, "layers", items, func(m bench.Bench, i item) ([]bench.Result, error) { return measure(m, i.FFN, i.rows) }, printResults)
	}
	cmd.Flags().IntSliceVar(&rows, "rows", rows, "numbers of rows (tokens)")
	b.flags(cmd, paperShapes, 9)
	return cmd
}

func newBenchKernels() *cobra.Command {
	var b benchmark
	cmd := layerCommand(&b, &cobra.Command{
		Use:   "kernels",
		Short: "Time every factor of feed-forward networks by itself",
		Long: `Time the products of every factor of feed-forward networks by themselves:
forward for any number of rows, and the two backward passes where there are
more than 64. With so few, reading the weights may be the bound: a buffer of
their size is read in turn.`,
	}, []int{1, 16, 256, 2048}, func(m bench.Bench, f spec.FFN, rows int) ([]bench.Result, error) { return m.Factors(f, rows) })
	cmd.Flags().BoolVar(&b.bench.Cold, "cold", false, "few rows: weights come from memory, not from a cache")
	return cmd
}

func newBenchFFN() *cobra.Command {
	var b benchmark
	return layerCommand(&b, &cobra.Command{
		Use:   "ffn",
		Short: "Time feed-forward networks, structured ones in turn with the dense one",
		Long: `Time whole feed-forward networks as training and decoding run them. The
column "pays" is (time of the dense network / time) / (FLOPs of the dense
network / FLOPs): 1 where structure saves as much time as arithmetic.`,
	}, []int{2048}, func(m bench.Bench, f spec.FFN, rows int) ([]bench.Result, error) { return m.FFN(f, rows) })
}

func printResults(w io.Writer, rs []bench.Result) error {
	lines := [][]string{{"layer", "factor", "op", "rows", "threads", "GFLOP/s", "of peak", "quartiles", "GB/s", "of read", "of bound", "pays"}}
	for _, r := range rs {
		lines = append(lines, append([]string{r.Layer, r.Factor, r.Op, fmt.Sprint(r.Rows), fmt.Sprint(r.Threads)}, append(rateCells(r.Rate), ratio(r.Pays))...))
	}
	return table(w, dropEmpty(lines))
}

// rateCells are the columns from GFLOP/s to of bound.
func rateCells(r bench.Rate) []string {
	cells := []string{fmt.Sprintf("%.1f", r.GFLOPS), percent(r.Share.Median), fmt.Sprintf("%.1f - %.1f", 100*r.Share.Low, 100*r.Share.High), "", "", ""}
	if r.ReadShare != nil {
		cells[3], cells[4], cells[5] = fmt.Sprintf("%.1f", r.GBps), percent(r.ReadShare.Median), percent(r.Bound.Median)
	}
	return cells
}

func percent(x float64) string { return fmt.Sprintf("%.1f %%", 100*x) }

func ratio(s *bench.Spread) string {
	if s == nil {
		return ""
	}
	return fmt.Sprintf("%.3f", s.Median)
}

// dropEmpty leaves out the columns that have a heading only.
func dropEmpty(lines [][]string) [][]string {
	var out [][]string
	for range lines {
		out = append(out, nil)
	}
	for c := range lines[0] {
		if !slices.ContainsFunc(lines[1:], func(l []string) bool { return l[c] != "" }) {
			continue
		}
		for i, l := range lines {
			out[i] = append(out[i], l[c])
		}
	}
	return out
}

// modelCommand is a benchmark of whole models, over two lists of sizes.
func modelCommand(b *benchmark, cmd *cobra.Command, configs []string, batches, seqs []int, seqFlag, seqHelp string,
	measure func(bench.Bench, spec.Model, int, int) ([]bench.ModelResult, error)) *cobra.Command {
	type item struct {
		spec.Model
		batch, seq int
	}
	cmd.Args = cli.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := sizes("batch", batches, 1<<16); err != nil {
			return err
		}
		if err := sizes(seqFlag, seqs, 1<<20); err != nil {
			return err
		}
		var items []item
		for _, name := range b.configs {
			c, err := specfile.Load(name)
			if err != nil {
				return err
			}
			for _, n := range batches {
				for _, s := range seqs {
					items = append(items, item{c.Model, n, s})
				}
			}
		}
		return run(b, cmd, "models", items, func(m bench.Bench, i item) ([]bench.ModelResult, error) {
			return measure(m, i.Model, i.batch, i.seq)
		}, printModels)
	}
	cmd.Flags().IntSliceVar(&batches, "batch", batches, "numbers of sequences")
	cmd.Flags().IntSliceVar(&seqs, seqFlag, seqs, seqHelp)
	b.flags(cmd, configs, 5)
	return cmd
}

func newBenchTrain() *cobra.Command {
	var b benchmark
	return modelCommand(&b, &cobra.Command{
		Use:   "train",
		Short: "Time training steps of one micro-batch, the optimizer included",
		Long: `Time training steps of one micro-batch each, the optimizer included. "model"
is the share of the peak in the FLOPs of the model, three times the forward
pass; "of peak" counts what is computed: causal attention halved, scores that
the backward pass computes again counted twice.`,
	}, []string{"gpt2s-dense", "gpt2s-lowrank-63"}, []int{1}, []int{1024}, "seq", "tokens of a sequence",
		func(m bench.Bench, s spec.Model, batch, seq int) ([]bench.ModelResult, error) {
			r, err := m.Train(s, batch, seq)
			return []bench.ModelResult{r}, err
		})
}

func newBenchDecode() *cobra.Command {
	var b benchmark
	return modelCommand(&b, &cobra.Command{
		Use:   "decode",
		Short: "Time filling in prompts and decoding after them",
		Long: `Time filling in prompts (the head at their last position only, causal
attention halved) and decoding one token a sequence after them, beside the
bounds: multiply-adds, and reading all weights, keys and values from memory.`,
	}, []string{"gpt2s-dense", "gpt2s-lowrank-63"}, []int{1, 4, 16, 64}, []int{512}, "context", "tokens of a prompt",
		func(m bench.Bench, s spec.Model, batch, context int) ([]bench.ModelResult, error) {
			return m.Decode(s, batch, context)
		})
}

func printModels(w io.Writer, rs []bench.ModelResult) error {
	lines := [][]string{{"model", "op", "batch", "tokens", "threads", "tokens/s", "GFLOP/s", "of peak", "quartiles", "GB/s", "of read", "of bound", "model"}}
	for _, r := range rs {
		share := ""
		if r.ModelShare != nil {
			share = percent(r.ModelShare.Median)
		}
		lines = append(lines, append([]string{r.Model, r.Op, fmt.Sprint(r.Batch), fmt.Sprint(r.Seq), fmt.Sprint(r.Threads), fmt.Sprintf("%.1f", r.Tokens)}, append(rateCells(r.Rate), share)...))
	}
	return table(w, dropEmpty(lines))
}
