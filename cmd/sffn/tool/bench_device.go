package tool

import (
	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/bench"
)

// deviceMeasure times a model on a device, in several shapes.
type deviceMeasure func(m *bench.DeviceModel, shapes []bench.Shape, repeats int) ([]bench.DeviceResult, error)

// onDevice measures models where --device says, and reports whether that is
// done: false leaves it to the CPU.
func (b *benchmark) onDevice(cmd *cobra.Command, dev device, ms []spec.Model, batches []int, lengths func(spec.Model) []int, measure deviceMeasure) (bool, error) {
	if dev == onCPU {
		return false, nil
	}
	file, err := b.openOut()
	if err != nil {
		return false, err
	}
	if file != nil {
		defer file.Close()
	}
	out := struct {
		Device  string               `json:"device"`
		Results []bench.DeviceResult `json:"results"`
	}{}
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
	return true, b.show(cmd, file, out, bench.DeviceTable(out.Results))
}
