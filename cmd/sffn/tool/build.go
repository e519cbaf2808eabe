package tool

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/build"
	"github.com/structuredffn/sffn/model/config"
)

func newBuild() *cobra.Command {
	var p build.Program
	var configs, models []string
	cmd := &cobra.Command{
		Use:   "build",
		Short: "Make a tool like this one with the kernels of a model linked in",
		Long: `Generate the specialised kernels of one or more models in a module of their
own, link them with this tool and write the program. It has all commands of
sffn and gives the same results to the bit, only faster. It needs the Go
toolchain.`,
		Example: `  sffn build --config gpt2m-lowrank-63 -o bin/sffn-gpt2m
  sffn build --config model.yaml -o sffn-mine && ./sffn-mine train --config model.yaml --data data --out run`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cli.Require(cmd, "out"); err != nil {
				return err
			}
			if len(configs)+len(models) == 0 {
				return cli.Usagef("give --config FILE|PRESET, --model RUN or both")
			}
			for _, name := range configs {
				c, err := config.Load(name)
				if err != nil {
					return err
				}
				p.Configs = append(p.Configs, c.Source)
			}
			for _, name := range models {
				c, err := runConfig(name)
				if err != nil {
					return err
				}
				p.Configs = append(p.Configs, c.Source)
			}
			if info, err := os.Stat(p.Out); err == nil && info.IsDir() {
				return cli.Usagef("--out: %s is a folder, want the program to write", p.Out)
			}
			p.Log = cmd.ErrOrStderr()
			ctx, stop := cli.Interrupts()
			defer stop()
			err := p.Run(ctx)
			if cut := cli.CutBy(ctx, "interrupted: %s was not written", p.Out); cut != nil && err != nil {
				return cut
			}
			if taken := (*build.OccupiedError)(nil); errors.As(err, &taken) {
				return cli.Usagef("--module-dir: %w", err)
			}
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "wrote %s, with the kernels of %s\n", p.Out, strings.Join(append(configs, models...), ", "))
			return err
		},
	}
	fl := cmd.Flags()
	fl.StringSliceVar(&configs, "config", nil, "YAML files or presets, comma-separated")
	cli.CompleteConfig(cmd, "config")
	fl.StringSliceVar(&models, "model", nil, "folders of runs or checkpoints, comma-separated")
	fl.StringSliceVar(&p.ISA, "isa", []string{"avx512", "avx2"}, "instruction sets to make kernels for: avx512, avx2, cuda (which needs nvcc)")
	cli.Complete(cmd, "isa", "avx512", "avx2", "cuda")
	fl.StringVarP(&p.Out, "out", "o", "", "program to write")
	fl.StringVar(&p.Dir, "module-dir", "", "keep the module with the generated kernels in this folder")
	fl.StringVar(&p.Source, "source", "", "folder of sffn's own source (default: where this program was built from)")
	return cmd
}
