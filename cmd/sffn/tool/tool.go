// Package tool holds the commands of sffn. They run on whatever kernels the
// program links: sffn itself has those of the shipped shapes, and sffn build
// makes programs that have those of other models.
package tool

import (
	"fmt"

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
	cmd.AddCommand(newPrepare(), newTrain(), newEval(), newGenerate(), newLogits(), newTokenize(), newTokenizer(), newImport(), newExport(), newConvert(), newInfo(), newVerify(), newBench(), newBuild(), newExperiment(), newScaling())
	return cmd
}

// machine is how a command runs: the flag --threads and the environment.
type machine struct {
	threads int
	rt.Options
}

func (m *machine) flag(cmd *cobra.Command) {
	cmd.Flags().IntVar(&m.threads, "threads", 0, "worker threads (default: physical cores)")
}

// open starts the pool; close ends it.
func (m *machine) open() error {
	if m.threads < 0 || m.threads > 4096 {
		return cli.Usagef("--threads: %d is out of range, want 1 to 4096, or 0 for all cores", m.threads)
	}
	isa, err := kernel.Default()
	if err != nil {
		return &cli.UsageError{Err: err}
	}
	m.Options = rt.Options{ISA: isa, Pool: rt.NewPool(m.threads)}
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
