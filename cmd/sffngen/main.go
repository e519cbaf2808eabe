// Sffngen generates kernels specialised for the layers of a model, with their
// Go bindings.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/gen"
	"github.com/structuredffn/sffn/gen/emit"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/runtime/cuda/table"
	"github.com/structuredffn/sffn/runtime/kernel"
)

func main() { cli.Run(newCommand()) }

type flags struct {
	ffn           spec.FFN
	kind, act     string
	configs       []string
	pkg, out      string
	isa, formats  []string
	nvcc          string
	precision     string
	plan          string
	explain, diff bool
	json          bool
}

func newCommand() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "sffngen",
		Short: "Generate kernels specialised for structured feed-forward layers",
		Example: `  sffngen --kind lowrank --hidden 768 --ffn 3072 --rank 384 --act gelu --bias --out ./ffn768
  sffngen --kind blockdense --hidden 768 --ffn 3072 --rank 512 --blocks 2 --out ./ffn768
  sffngen --config gpt2s-lowrank-63 --out ./gpt2s`,
		Version: cli.Version(""),
		Args:    cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if cmd.Flags().NFlag() == 0 {
				return cmd.Help()
			}
			if f.plan != "" {
				return f.emitPlan(cmd)
			}
			if f.json && !f.explain {
				return cli.Usagef("--json goes with --explain")
			}
			p, err := f.packageOf()
			if err != nil {
				return err
			}
			if f.explain {
				return f.print(cmd, p)
			}
			files, err := p.Files()
			if err != nil {
				return err
			}
			return f.emit(cmd, files)
		},
	}
	fl := cmd.Flags()
	fl.StringVar(&f.kind, "kind", "", "structure: "+spec.Names(spec.Kinds(), "or"))
	fl.IntVar(&f.ffn.Hidden, "hidden", 0, "width of the residual stream")
	fl.IntVar(&f.ffn.FFN, "ffn", 0, "inner width of the feed-forward network")
	fl.IntVar(&f.ffn.Rank, "rank", 0, "rank of "+spec.Names(spec.Ranked(), "and"))
	fl.IntVar(&f.ffn.Blocks, "blocks", 0, "blocks of "+spec.Names(spec.Blocked(), "and"))
	if kinds := spec.Names(spec.Split(), "and"); kinds != "" {
		fl.IntVar(&f.ffn.HiddenSplit, "hidden-split", 0, "how "+kinds+" cut the hidden width; 0 is the kind's rule")
		fl.IntVar(&f.ffn.FFNSplit, "ffn-split", 0, "how "+kinds+" cut the network's width; 0 is the kind's rule")
	}
	fl.StringVar(&f.act, "act", "gelu", "activation: "+spec.Names(spec.Acts(), "or"))
	fl.BoolVar(&f.ffn.Bias, "bias", false, "linears have a bias")
	fl.StringSliceVar(&f.configs, "config", nil, "whole models instead: YAML files or presets, comma-separated")
	fl.StringVar(&f.pkg, "pkg", "", "Go package name (default: the folder's name)")
	fl.StringVar(&f.out, "out", "", "folder to write")
	fl.StringSliceVar(&f.isa, "isa", nil, "instruction sets to emit: avx512, avx2, cuda (default avx512,avx2)")
	fl.StringSliceVar(&f.formats, "format", []string{string(kernel.F32)}, "formats of the kernels for CPUs, comma-separated: f32, bf16, bf16w")
	fl.StringVar(&f.nvcc, "nvcc", "", "CUDA compiler for --isa cuda (default: that of CUDA_HOME or PATH)")
	fl.StringVar(&f.precision, "precision", "auto", "of the networks with --isa cuda: bf16 (tensor cores; widths of multiples of 8), float32 (any widths), or auto: bf16 where it can, float32 elsewhere")
	fl.BoolVar(&f.explain, "explain", false, "print the plan instead of generating")
	fl.BoolVar(&f.json, "json", false, "with --explain: all that the files for CPUs are made of, as JSON")
	fl.StringVar(&f.plan, "plan", "", "generate from a file that --explain --json printed, and from nothing else")
	fl.BoolVar(&f.diff, "diff", false, "write nothing; exit 1 if the folder is not what would be written")
	cli.Complete(cmd, "kind", spec.Kinds()...)
	cli.Complete(cmd, "act", spec.Acts()...)
	cli.Complete(cmd, "isa", kernel.AVX512, kernel.AVX2, gen.CUDA)
	cli.Complete(cmd, "format", kernel.Formats()...)
	cli.Complete(cmd, "precision", "auto", table.BF16, table.Float32s)
	cli.CompleteConfig(cmd, "config")
	cmd.AddCommand(newAnyShape())
	return cmd
}

// emitPlan generates the package that a file holds.
func (f *flags) emitPlan(cmd *cobra.Command) error {
	var other error
	cmd.Flags().Visit(func(fl *pflag.Flag) {
		if fl.Name != "plan" && fl.Name != "out" && fl.Name != "diff" {
			other = cli.Usagef("--plan and --%s exclude each other: the file decides", fl.Name)
		}
	})
	if other != nil {
		return other
	}
	r, err := disk.Open(f.plan)
	if err != nil {
		return err
	}
	defer r.Close()
	p, err := emit.Read(r)
	if err != nil {
		return fmt.Errorf("%s: %w", f.plan, err)
	}
	files, err := p.Files()
	if err != nil {
		return fmt.Errorf("%s: %w", f.plan, err)
	}
	return f.emit(cmd, files)
}

// print prints the plan of a package.
func (f *flags) print(cmd *cobra.Command, p gen.Package) error {
	text := p.Explain()
	if f.json {
		plan, err := p.Plan()
		if err != nil {
			return err
		}
		if len(plan.Targets) == 0 {
			return cli.Usagef("--json prints what files for CPUs are made of, and --isa cuda alone makes none")
		}
		if text, err = plan.JSON(); err != nil {
			return err
		}
	}
	_, err := cmd.OutOrStdout().Write(text)
	return err
}

func newAnyShape() *cobra.Command {
	var f flags
	cmd := &cobra.Command{
		Use:   "anyshape",
		Short: "Generate the kernels that serve shapes nobody generated",
		Args:  cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := gen.AnyShape()
			if f.json {
				text, err := p.JSON()
				if err == nil {
					_, err = cmd.OutOrStdout().Write(text)
				}
				return err
			}
			files, err := p.Files()
			if err != nil {
				return err
			}
			return f.emit(cmd, files)
		},
	}
	cmd.Flags().StringVar(&f.out, "out", "", "folder to write")
	cmd.Flags().BoolVar(&f.diff, "diff", false, "write nothing; exit 1 if the folder is not what would be written")
	cmd.Flags().BoolVar(&f.json, "json", false, "print all that the files are made of, as JSON, instead of generating")
	return cmd
}

// packageOf turns the flags into a package to generate.
func (f *flags) packageOf() (gen.Package, error) {
	var p gen.Package
	if f.out == "" && !f.explain {
		return p, cli.Usagef("--out is missing: the folder to write")
	}
	switch {
	case f.pkg != "":
	case f.out == "":
		f.pkg = "explained" // never written
	default:
		abs, err := filepath.Abs(f.out)
		if err != nil {
			return p, err
		}
		f.pkg = strings.ToLower(filepath.Base(abs))
	}
	switch {
	case len(f.configs) > 0 && f.kind != "":
		return p, cli.Usagef("--config and --kind exclude each other")
	case len(f.configs) > 0:
		var models []spec.Model
		for _, name := range f.configs {
			m, err := specfile.Load(name)
			if err != nil {
				return p, err
			}
			models = append(models, m)
		}
		p = gen.Of(f.pkg, models...)
	case f.kind == "":
		return p, cli.Usagef("--kind (or --config) is missing: %s", spec.Names(spec.Kinds(), "or"))
	default:
		f.ffn.Kind, f.ffn.Act = spec.Kind(f.kind), spec.Act(f.act)
		p = gen.Package{Name: f.pkg, FFNs: []spec.FFN{f.ffn}}
	}
	for _, s := range f.isa {
		p.ISAs = append(p.ISAs, kernel.ISA(s))
	}
	for _, s := range f.formats {
		p.Formats = append(p.Formats, kernel.FormatName(s))
	}
	p.NVCC, p.Dir = f.nvcc, f.out
	if f.precision != "auto" {
		p.Precision = table.Precision(f.precision)
	}
	if err := p.Validate(); err != nil {
		return p, &cli.UsageError{Err: err}
	}
	for _, w := range p.Warnings() {
		fmt.Fprintln(os.Stderr, "sffngen: warning:", w)
	}
	return p, nil
}

// emit writes the files, or only says how they differ.
func (f *flags) emit(cmd *cobra.Command, files []gen.File) error {
	if f.out == "" {
		return cli.Usagef("--out is missing: the folder to write")
	}
	if !f.diff {
		return gen.Write(f.out, files)
	}
	changed, err := gen.Diff(f.out, files)
	if err != nil {
		return err
	}
	for _, name := range changed {
		fmt.Fprintln(cmd.OutOrStdout(), filepath.Join(f.out, name))
	}
	if len(changed) > 0 {
		return errors.New("the folder is stale: run the same command without --diff")
	}
	return nil
}
