package tool

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/bench"
	"github.com/structuredffn/sffn/internal/disk"
)

// deviceMeasure times a model on a device, in several shapes.
type deviceMeasure func(m *bench.DeviceModel, shapes []bench.Shape, repeats int) ([]bench.DeviceResult, error)

// onDevice measures models where --device says, and reports whether that is
// done: false leaves it to the CPU.
func (b *benchmark) onDevice(cmd *cobra.Command, dev device, ms []spec.Model, batches []int, lengths func(spec.Model) []int, measure deviceMeasure) (bool, error) {
	if dev == onCPU {
		return false, nil
	}
	if b.bench.Repeats < 1 {
		return false, cli.Usagef("--repeats: %d is out of range, want 1 or more", b.bench.Repeats)
	}
	out := struct {
		Device  string               `json:"device"`
		Results []bench.DeviceResult `json:"results"`
	}{}
	var file *disk.File
	if b.out != "" {
		var err error
		if file, err = disk.New(b.out); err != nil {
			return false, fmt.Errorf("--out: %w", err)
		}
		defer file.Close()
	}
	for i, m := range ms {
		d, err := dev.open(cmd.ErrOrStderr(), m, "--config "+b.configs[i])
		if d == nil || err != nil {
			return false, err
		}
		out.Device = d.String()
		timed := bench.NewDeviceModel(d, m)
		rs, err := measure(timed, bench.Shapes(batches, lengths(m)), b.bench.Repeats)
		timed.Close()
		if err != nil {
			d.Close()
			return false, err
		}
		out.Results = append(out.Results, rs...)
		if err := d.Close(); err != nil {
			return false, err
		}
	}
	if file != nil {
		if err := errors.Join(printJSON(file, out), file.Commit()); err != nil {
			return false, fmt.Errorf("--out: %w", err)
		}
	}
	if b.asJSON {
		return true, printJSON(cmd.OutOrStdout(), out)
	}
	return true, printDevice(cmd.OutOrStdout(), out.Results)
}

func printDevice(w io.Writer, rs []bench.DeviceResult) error {
	lines := [][]string{{"model", "op", "batch", "tokens", "tokens/s", "median", "quartiles", "GFLOP/s", "memory"}}
	ms := func(s float64) string { return fmt.Sprintf("%.3f", 1e3*s) }
	for _, r := range rs {
		lines = append(lines, []string{r.Model, r.Op, fmt.Sprint(r.Batch), fmt.Sprint(r.Seq), fmt.Sprintf("%.1f", r.Tokens),
			ms(r.Seconds.Median) + " ms", ms(r.Seconds.Low) + " - " + ms(r.Seconds.High), fmt.Sprintf("%.1f", r.GFLOPS), count(float64(r.Memory))})
	}
	return table(w, lines)
}
