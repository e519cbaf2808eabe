package tool

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/internal/bench"
	"github.com/structuredffn/sffn/internal/bench/peer"
	"github.com/structuredffn/sffn/internal/build"
	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/config"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

func newBench() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure kernels, layers and models against what this machine can do",
		Long: `Measure kernels, layers and models. Every repetition first measures the
machine's peak of multiply-adds in the instructions of --format, and where it
matters its rate of reading memory, on the same threads; shares are medians of
the ratios.

--peers adds other software to each repetition; a column shows its time / ours
as 1.12x, more than 1 where sffn is faster. "all" are those that can run here.
Factors have openblas, libxsmm and gonum (the first two in builds with the tag
peers), networks and models PyTorch: torch and torch-compile, with the python3
of PATH; decoding has llama.cpp, too: llamacpp, which make llamacpp builds.
docs/bench.md has all fields of --json.`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cli.Usagef("say what to measure: sffn bench kernels, ffn, train, decode, merge or runtime")
		},
	}
	cmd.AddCommand(newBenchKernels(), newBenchFFN(), newBenchTrain(), newBenchDecode(), newBenchMerge(), newBenchRuntime())
	return cmd
}

// benchmark is what the bench commands share.
type benchmark struct {
	configs []string
	threads []int
	peers   []string
	bench   bench.Bench
	format  string
	kv      string
	asJSON  bool
	out     string
}

// defaultShapes are the presets that are measured by default.
var defaultShapes = specfile.Shapes("gpt2s")

func (b *benchmark) flags(cmd *cobra.Command, configs []string, repeats int) {
	fl := cmd.Flags()
	fl.StringSliceVar(&b.configs, "config", configs, "YAML files or presets, comma-separated")
	cli.CompleteConfig(cmd, "config")
	fl.IntSliceVar(&b.threads, "threads", nil, "numbers of threads (default: 1, and all physical cores)")
	fl.IntVar(&b.bench.Repeats, "repeats", repeats, "repetitions of each measurement")
	formatFlag(cmd, &b.format)
	fl.BoolVar(&b.asJSON, "json", false, "print one JSON object")
	fl.StringVar(&b.out, "out", "", "write the JSON object to this file, too")
}

// peersFlag adds --peers, of which names are valid.
func (b *benchmark) peersFlag(cmd *cobra.Command, names string) {
	cmd.Flags().StringSliceVar(&b.peers, "peers", nil, "time these in turn: "+names+", or all that can run here")
}

// findPeers sets what find returns for --peers, and says what all leaves out.
func findPeers[Peer any](b *benchmark, cmd *cobra.Command, found *[]Peer, find func([]string) ([]Peer, []error, error)) error {
	ps, absent, err := find(b.peers)
	if err != nil {
		return cli.Usagef("--peers: %w", err)
	}
	for _, e := range absent {
		fmt.Fprintf(cmd.ErrOrStderr(), "left out: %v\n", e)
	}
	*found = ps
	return nil
}

// findPrograms sets the programs of --peers that compute what the command measures.
func (b *benchmark) findPrograms(cmd *cobra.Command) error {
	format, err := parseFormat(b.format)
	if err != nil {
		return err
	}
	return findPeers(b, cmd, &b.bench.Programs, func(names []string) ([]peer.Program, []error, error) {
		return peer.FindPrograms(cmd.Name(), format, names)
	})
}

// openOut begins the file of --out; nil is none.
func (b *benchmark) openOut() (*disk.File, error) {
	if b.bench.Repeats < 1 {
		return nil, cli.Usagef("--repeats: %d is out of range, want 1 or more", b.bench.Repeats)
	}
	if b.out == "" {
		return nil, nil
	}
	f, err := disk.New(b.out)
	if err != nil {
		return nil, fmt.Errorf("--out: %w", err)
	}
	return f, nil
}

// show writes what was measured to the file of --out, and prints it.
func (b *benchmark) show(cmd *cobra.Command, file *disk.File, measured any, lines [][]string, machines ...bench.Machine) error {
	if file != nil {
		if err := errors.Join(term.JSON(file, measured), file.Commit()); err != nil {
			return fmt.Errorf("--out: %w", err)
		}
	}
	w := cmd.OutOrStdout()
	if b.asJSON {
		return term.JSON(w, measured)
	}
	for _, m := range machines {
		m.Print(w)
	}
	if len(machines) > 0 {
		fmt.Fprintln(w)
	}
	return term.Table(w, term.DropEmpty(lines))
}

// run measures every item on every number of threads and prints the results.
func run[Item, Result any](b *benchmark, cmd *cobra.Command, what string, items []Item,
	measure func(bench.Bench, Item) ([]Result, error), lines func([]Result) [][]string) error {
	if err := cli.Sizes("threads", 4096, b.threads...); err != nil {
		return err
	}
	format, err := parseFormat(b.format)
	if err != nil {
		return err
	}
	isa, err := kernel.Default()
	if err != nil {
		return &cli.UsageError{Err: err}
	}
	kv, err := parseKV(b.kv)
	if err != nil {
		return err
	}
	b.bench.ISA, b.bench.Format, b.bench.KV = isa, format, kv
	threads := b.threads
	if threads == nil {
		threads = slices.Compact([]int{1, rt.DefaultThreads()})
	}
	file, err := b.openOut()
	if err != nil {
		return err
	}
	if file != nil {
		defer file.Close()
	}
	bar := term.NewBar(cmd.ErrOrStderr(), what, len(items)*len(threads))
	defer bar.Close()
	r, err := bench.Sweep(b.bench, build.Revision(), threads, items, measure, bar.Set)
	if err != nil {
		return err
	}
	bar.Close()
	return b.show(cmd, file, r, lines(r.Results), r.Machines...)
}

// layers lists the distinct networks of the configurations.
func (b *benchmark) layers() ([]spec.FFN, error) {
	var fs []spec.FFN
	for _, name := range b.configs {
		c, err := config.Load(name)
		if err != nil {
			return nil, err
		}
		if f := c.Model.LayerFFN(c.Model.Layers - 1); !slices.Contains(fs, f) {
			fs = append(fs, f)
		}
	}
	return fs, nil
}

// runLayers measures every network at every number of rows.
func runLayers[Result any](b *benchmark, cmd *cobra.Command, rows []int,
	measure func(bench.Bench, spec.FFN, int) ([]Result, error), lines func([]Result) [][]string) error {
	if err := cli.Sizes("rows", 1<<20, rows...); err != nil {
		return err
	}
	fs, err := b.layers()
	if err != nil {
		return err
	}
	type item struct {
		spec.FFN
		rows int
	}
	var items []item
	for _, r := range rows {
		for _, f := range fs {
			items = append(items, item{f, r})
		}
	}
	return run(b, cmd, "layers", items, func(m bench.Bench, i item) ([]Result, error) { return measure(m, i.FFN, i.rows) }, lines)
}

func newBenchKernels() *cobra.Command {
	var b benchmark
	var rows []int
	var ablate bool
	cmd := &cobra.Command{
		Use:   "kernels",
		Short: "Time every factor of feed-forward networks by itself",
		Long: `Time the products of every factor of feed-forward networks by themselves:
forward for any number of rows, and the two backward passes where there are
more than 64. With so few, reading the weights may be the bound: a buffer of
their size is read in turn. Peers compute the products alone, without bias,
activation and shuffle.

--ablate times whole networks instead, with one decision of the generator
undone at a time: any-shape kernels, factor by factor over all rows, and
shuffles as passes over the data. Its columns are the time without / the time
with the decision: what it earns.`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !ablate {
				if err := findPeers(&b, cmd, &b.bench.Libraries, peer.Find); err != nil {
					return err
				}
				return runLayers(&b, cmd, rows, func(m bench.Bench, f spec.FFN, rows int) ([]bench.Result, error) { return m.Factors(f, rows) }, bench.ResultTable)
			}
			if b.peers != nil || b.bench.Cold {
				return cli.Usagef("--ablate compares kernels with each other: leave out --peers and --cold")
			}
			return runLayers(&b, cmd, rows, func(m bench.Bench, f spec.FFN, rows int) ([]bench.Ablation, error) {
				a, err := m.Ablate(f, rows)
				return []bench.Ablation{a}, err
			}, bench.AblationTable)
		},
	}
	fl := cmd.Flags()
	fl.IntSliceVar(&rows, "rows", []int{1, 16, 256, 2048}, "numbers of rows (tokens)")
	fl.BoolVar(&b.bench.Cold, "cold", false, "few rows: weights come from memory, not from a cache")
	fl.BoolVar(&ablate, "ablate", false, "what do specialised kernels, fusing and absorbed shuffles earn?")
	b.flags(cmd, defaultShapes, 9)
	b.peersFlag(cmd, "openblas, libxsmm, gonum")
	return cmd
}

func newBenchFFN() *cobra.Command {
	var b benchmark
	var rows []int
	cmd := &cobra.Command{
		Use:   "ffn",
		Short: "Time feed-forward networks, structured ones in turn with the dense one",
		Long: `Time whole feed-forward networks as training and decoding run them. The
column "pays" is (time of the dense network / time) / (FLOPs of the dense
network / FLOPs): 1 where structure saves as much time as arithmetic. The networks of a
self-guided configuration run with their guides.`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := b.findPrograms(cmd); err != nil {
				return err
			}
			return runLayers(&b, cmd, rows, func(m bench.Bench, f spec.FFN, rows int) ([]bench.Result, error) { return m.FFN(f, rows) }, bench.ResultTable)
		},
	}
	cmd.Flags().IntSliceVar(&rows, "rows", []int{2048}, "numbers of rows (tokens)")
	b.flags(cmd, defaultShapes, 9)
	b.peersFlag(cmd, "torch, torch-compile")
	return cmd
}

// modelCommand is a benchmark of whole models, over two lists of sizes. It takes
// spare positions beside those of seqs; peers are the names of its peers.
func modelCommand(b *benchmark, cmd *cobra.Command, batches, seqs []int, seqFlag, seqHelp, peers string, spare int,
	measure func(bench.Bench, spec.Model, int, int) ([]bench.ModelResult, error), measureDevice deviceMeasure) *cobra.Command {
	type item struct {
		spec.Model
		batch, seq int
	}
	var dev device
	cmd.Args = cli.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := cli.Sizes("batch", 1<<16, batches...); err != nil {
			return err
		}
		if err := cli.Sizes(seqFlag, 1<<20, seqs...); err != nil {
			return err
		}
		if err := dev.check(); err != nil {
			return err
		}
		if (b.format != string(kernel.F32) || b.kv != "" && b.kv != string(kernel.F32)) && dev != onCPU {
			return cli.Usagef("--format, --kv: formats are those of the CPU's kernels, want --device cpu")
		}
		ms, err := b.models()
		if err != nil {
			return err
		}
		lengths := func(m spec.Model) []int {
			if cmd.Flags().Changed(seqFlag) {
				return seqs
			}
			return []int{fitting(seqs[0], m, spare)}
		}
		if done, err := b.onDevice(cmd, dev, ms, batches, lengths, measureDevice); done || err != nil {
			return err
		}
		if err := b.findPrograms(cmd); err != nil {
			return err
		}
		var items []item
		for _, m := range ms {
			for _, n := range batches {
				for _, s := range lengths(m) {
					items = append(items, item{m, n, s})
				}
			}
		}
		return run(b, cmd, "models", items, func(m bench.Bench, i item) ([]bench.ModelResult, error) {
			return measure(m, i.Model, i.batch, i.seq)
		}, bench.ModelTable)
	}
	cmd.Flags().IntSliceVar(&batches, "batch", batches, "numbers of sequences")
	cmd.Flags().IntSliceVar(&seqs, seqFlag, seqs, seqHelp+", by default no more than the model has positions for")
	b.flags(cmd, []string{"gpt2s-dense", "gpt2s-lowrank-63"}, 5)
	b.peersFlag(cmd, peers)
	dev.flag(cmd)
	return cmd
}

// fitting is the length that a model has positions for, beside some spare ones.
func fitting(length int, m spec.Model, spare int) int {
	return max(1, min(length, m.MaxPositions-spare))
}

// models loads the models of the configurations.
func (b *benchmark) models() ([]spec.Model, error) {
	var ms []spec.Model
	for _, name := range b.configs {
		c, err := config.Load(name)
		if err != nil {
			return nil, err
		}
		ms = append(ms, c.Model)
	}
	return ms, nil
}

func newBenchTrain() *cobra.Command {
	var b benchmark
	var recompute bool
	cmd := modelCommand(&b, &cobra.Command{
		Use:   "train",
		Short: "Time training steps of one micro-batch, the optimizer included",
		Long: `Time training steps of one micro-batch each, the optimizer included. "model"
is the share of the peak in the FLOPs of the model, three times the forward
pass; "of peak" counts what is computed: causal attention halved, scores that
the backward pass computes again counted twice, and with --recompute the
activations that it computes again, too.`,
	}, []int{1}, []int{1024}, "seq", "tokens of a sequence", "torch, torch-compile", 0,
		func(m bench.Bench, s spec.Model, batch, seq int) ([]bench.ModelResult, error) {
			r, err := m.Train(s, batch, seq, recompute)
			return []bench.ModelResult{r}, err
		},
		(*bench.DeviceModel).Train)
	cmd.Flags().BoolVar(&recompute, "recompute", false, "as with train.recompute: activations are computed again for the backward pass")
	return cmd
}

func newBenchDecode() *cobra.Command {
	var b benchmark
	type prompt struct {
		model            string
		context, threads int
	}
	filled := map[prompt]bool{}
	cmd := modelCommand(&b, &cobra.Command{
		Use:   "decode",
		Short: "Time filling in prompts and decoding after them",
		Long: `Time filling in a prompt (the head at its last position only, causal
attention halved) and decoding one token a sequence after them, beside the
bounds: multiply-adds, and reading all weights, keys and values, for which a
buffer of their size is read in turn. With --cold each step takes another copy
of the model, so that those of small ones come from memory, too.

llama.cpp computes the dense model that a structured one amounts to, with
weights in F32, BF16, Q8_0 or Q4_0 where --format is f32, bf16, int8 or int4.`,
	}, []int{1, 4, 16, 64}, []int{512}, "context", "tokens of a prompt", "torch, torch-compile, llamacpp", bench.DecodeSteps,
		func(m bench.Bench, s spec.Model, batch, context int) ([]bench.ModelResult, error) {
			var rs []bench.ModelResult
			if p := (prompt{s.Name, context, m.Pool.Threads()}); !filled[p] { // whatever the batch
				filled[p] = true
				r, err := m.Prefill(s, context)
				if err != nil {
					return nil, err
				}
				rs = append(rs, r)
			}
			r, err := m.Decode(s, batch, context)
			return append(rs, r), err
		}, (*bench.DeviceModel).Decode)
	kvFlag(cmd, &b.kv)
	cmd.Flags().BoolVar(&b.bench.Cold, "cold", false, "weights, keys and values come from memory, not from a cache")
	return cmd
}

func newBenchRuntime() *cobra.Command {
	var b benchmark
	var batch, seq, count, dispatches int
	cmd := &cobra.Command{
		Use:   "runtime",
		Short: "Time dispatches of work, and garbage collections beside training",
		Long: `Time what the workers cost: a dispatch, from the call until each worker has
begun its piece and the call has returned, back to back, so that workers are
warm; and runtime.GC() beside training steps, with as many Ps (GOMAXPROCS) as
Go has and with one more than workers, and the pauses of the world in it. Worst
is the longest of all.`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, f := range []struct {
				name  string
				value int
			}{{"batch", batch}, {"seq", seq}, {"collections", count}, {"dispatches", dispatches}} {
				if err := cli.Sizes(f.name, 1<<24, f.value); err != nil {
					return err
				}
			}
			ms, err := b.models()
			if err != nil {
				return err
			}
			return run(&b, cmd, "models", ms, func(m bench.Bench, s spec.Model) ([]bench.Latency, error) {
				var ls []bench.Latency
				if m.Pool.Threads() > 1 {
					ls = append(ls, m.Dispatch(dispatches))
				}
				length := seq
				if !cmd.Flags().Changed("seq") {
					length = fitting(seq, s, 0)
				}
				gc, err := m.Collections(s, batch, length, count)
				return append(ls, gc...), err
			}, bench.LatencyTable)
		},
	}
	fl := cmd.Flags()
	fl.IntVar(&batch, "batch", 1, "sequences of a step")
	fl.IntVar(&seq, "seq", 1024, "tokens of a sequence, by default no more than the model has positions for")
	fl.IntVar(&count, "collections", 200, "garbage collections to time")
	fl.IntVar(&dispatches, "dispatches", 100000, "dispatches to time")
	b.flags(cmd, []string{"gpt2s-dense"}, 5)
	return cmd
}
