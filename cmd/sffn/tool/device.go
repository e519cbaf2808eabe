package tool

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model/gpu"
	"github.com/structuredffn/sffn/model/train"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/libcuda"
)

// loadDriver finds the machine's CUDA driver. Tests put another in its place.
var loadDriver = libcuda.Load

// device is the flag --device.
type device string

const (
	onCPU  device = "cpu"
	onCUDA device = "cuda"
	onAuto device = "auto"
)

func (d *device) flag(cmd *cobra.Command) {
	cmd.Flags().StringVar((*string)(d), "device", string(onCPU), "cpu, cuda (the first NVIDIA GPU; cuda:1, or cuda:GPU-.. with the beginning of a UUID, is another), or auto: the GPU, and the CPU where there is none")
	cli.Complete(cmd, "device", onCPU, onCUDA, onAuto)
}

func (d device) check() error {
	if d == onCPU || d == onAuto || d == onCUDA {
		return nil
	}
	which, ok := strings.CutPrefix(string(d), string(onCUDA)+":")
	if !ok {
		return cli.Usagef("--device: unknown device %q; valid are cpu, cuda, cuda:NUMBER, cuda:UUID, auto", string(d))
	}
	if err := cuda.CheckSelector(which); err != nil || which == "" {
		return cli.Usagef("--device %s: want cuda:NUMBER, from 0, or cuda:GPU-.., the beginning of a UUID", d)
	}
	return nil
}

// mustGPU reports whether the CPU would not do.
func (d device) mustGPU() bool {
	return d != onCPU && d != onAuto
}

// open returns the GPU, ready for a model, or nil where that runs on the CPU,
// which auto says. config is how sffn build calls the model.
func (d device) open(w io.Writer, m spec.Model, config string) (*cuda.Device, error) {
	if d == onCPU {
		return nil, nil
	}
	_, which, _ := strings.Cut(string(d), ":")
	dev, err := openGPU(w, m, which)
	return dev, d.fallBack(w, err, config)
}

// fallBack is the error where a device was asked for; auto says why it is the
// CPU.
func (d device) fallBack(w io.Writer, err error, config string) error {
	if missing := (*cuda.MissingError)(nil); errors.As(err, &missing) {
		err = fmt.Errorf("%w; a program that has them: sffn build %s --isa avx512,avx2,cuda -o BIN", err, config)
	}
	if err != nil && d == onAuto {
		fmt.Fprintf(w, "running on the CPU: %v\n", err)
		return nil
	}
	if none := (*libcuda.NoDriverError)(nil); errors.As(err, &none) {
		return fmt.Errorf("--device %s: %s", d, none.Details())
	}
	if err != nil {
		err = fmt.Errorf("--device %s: %w", d, err)
	}
	return err
}

// train has a run's steps computed where the flag says.
func (d device) train(w io.Writer, run *train.Run, config string) (*cuda.Device, error) {
	if err := run.CheckDevice(); err != nil && d != onCPU {
		return nil, d.fallBack(w, err, config)
	}
	dev, err := d.open(w, run.Config.Model, config)
	if dev != nil {
		run.Device = func(s train.Start) (train.Engine, error) { return gpu.NewEngine(dev, s) }
	}
	return dev, err
}

// openGPU opens a device and loads a model's kernels.
func openGPU(w io.Writer, m spec.Model, which string) (*cuda.Device, error) {
	api, err := loadDriver()
	if err != nil {
		return nil, err
	}
	d, err := cuda.Open(api, which)
	if err != nil {
		return nil, err
	}
	kernels, err := gpu.Kernels(m)
	if err != nil {
		d.Close()
		return nil, err
	}
	if dir, err := os.UserCacheDir(); err == nil {
		d.Verdicts = filepath.Join(dir, "sffn")
	}
	start := time.Now()
	if err := d.Load(kernels); err != nil {
		d.Close() // err is what matters
		return nil, err
	}
	if d.FromPTX != nil {
		fmt.Fprintf(w, "the driver compiles the kernels from PTX, because it refuses their machine code: %v\n", d.FromPTX)
	}
	before := ""
	if n := len(kernels) - d.Tested; n > 0 {
		before = fmt.Sprintf(", %d of them before", n)
	}
	fmt.Fprintf(w, "device: %s; %d kernels proven%s (%.1f s)\n", d, len(kernels), before, time.Since(start).Seconds())
	if d.VerdictError != nil {
		fmt.Fprintf(w, "they will be proven again at the next start: %v\n", d.VerdictError)
	}
	return d, nil
}
