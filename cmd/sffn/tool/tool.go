// Package tool holds the commands of sffn. They run on whatever kernels the
// program links: sffn itself has those of the shipped shapes, and sffn build
// makes programs that have those of other models.
package tool

import (
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/build"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/decode"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/collective/mpi"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Main runs the command line and exits, as [cli.Run] says.
func Main() {
	cli.Exit = mpi.Exit
	cli.Run(newCommand())
}

func newCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "sffn",
		Short: "Train and run transformers with structured feed-forward layers",
		Long: `Train and run transformers with structured feed-forward layers.

A configuration (--config) is the name of a preset, or a YAML file: a regular
one, /dev/stdin or what a shell passes as /dev/fd/N. Other pipes and devices are
refused.

The environment variable SFFN_ISA forces an instruction set: avx512, avx2 or
portable; SFFN_TARGET a row of the table of targets, which sizes what suits a
kind of processors: avx512, avx512full, avx2 or portable. Neither changes results
beyond what an instruction set's order of sums in norms does.`,
		Version: cli.Version(build.Revision()),
		Args:    cli.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(newPrepare(), newTrain(), newEval(), newGenerate(), newLogits(), newTokenize(), newTokenizer(), newImport(), newExport(), newConvert(), newQuantize(), newInfo(), newVerify(), newBench(), newBuild(), newExperiment(), newScaling())
	return cmd
}

// machine is how a command runs: the flags --threads and --format, where it has them,
// and the environment.
type machine struct {
	threads int
	format  string
	kv      string
	rt.Options
}

// formatFlags adds --format and --kv.
func (m *machine) formatFlags(cmd *cobra.Command) {
	formatFlag(cmd, &m.format)
	kvFlag(cmd, &m.kv)
}

func kvFlag(cmd *cobra.Command, kv *string) {
	cmd.Flags().StringVar(kv, "kv", string(kernel.F32), "what keys and values are held in: f32, bf16 (half as much memory) or int8 (a quarter, and a scale for each key and value of a head)")
	cli.Complete(cmd, "kv", kernel.KVFormats()...)
}

// parseKV is the format that the flag names, f32 where a command has no flag.
func parseKV(name string) (kernel.FormatName, error) {
	if name == "" {
		return kernel.F32, nil
	}
	if f := kernel.FormatName(name); slices.Contains(kernel.KVFormats(), f) {
		return f, nil
	}
	return "", cli.Usagef("--kv: unknown format %q; valid: %v", name, kernel.KVFormats())
}

func formatFlag(cmd *cobra.Command, format *string) {
	cmd.Flags().StringVar(format, "format", string(kernel.F32), "what weights are packed to and multiplied in when the model is loaded: f32, bf16 (activations are rounded, too), bf16w (weights alone), int8 or int4 (activations are int8)")
	cli.Complete(cmd, "format", kernel.Formats()...)
}

// parseFormat is the format that the flag names, f32 where a command has no flag.
func parseFormat(name string) (kernel.FormatName, error) {
	f, err := kernel.ParseFormat(name)
	if err != nil {
		return "", cli.Usagef("--format: %w", err)
	}
	return f, nil
}

func (m *machine) flag(cmd *cobra.Command) {
	cmd.Flags().IntVar(&m.threads, "threads", 0, "worker threads (default: physical cores)")
}

// open starts the pool; close ends it.
func (m *machine) open() error {
	if m.threads < 0 || m.threads > 4096 {
		return cli.Usagef("--threads: %d is out of range, want 1 to 4096, or 0 for all cores", m.threads)
	}
	format, err := parseFormat(m.format)
	if err != nil {
		return err
	}
	kv, err := parseKV(m.kv)
	if err != nil {
		return err
	}
	isa, err := kernel.Default()
	if err != nil {
		return &cli.UsageError{Err: err}
	}
	m.Options = rt.Options{ISA: isa, Format: format, KV: kv, Pool: rt.NewPool(m.threads)}
	return nil
}

func (m *machine) close() { m.Pool.Close() }

// openModel describes the newest checkpoint of a run, or the checkpoint itself.
func openModel(name string) (*decode.Checkpoint, error) {
	dir, err := checkpoint.Find(name)
	if err != nil {
		return nil, fmt.Errorf("--model: %w", err)
	}
	return decode.Open(dir)
}
