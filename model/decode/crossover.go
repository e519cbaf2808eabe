package decode

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/klauspost/cpuid/v2"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// crossoverFile holds, in a checkpoint's folder, what MergeMeasured has measured:
// the same choices next time give the same tokens.
const crossoverFile = "crossover.json"

// crossovers is the content of the file.
type crossovers struct {
	Machines []machineCrossovers `json:"machines"`
}

// machineCrossovers are the tables of one machine, number of threads and format.
type machineCrossovers struct {
	CPU     string     `json:"cpu"`
	ISA     kernel.ISA `json:"isa"`
	Threads int        `json:"threads"`
	// Format is that of the products, empty where it is float32.
	Format kernel.FormatName `json:"format,omitempty"`
	Tables []Crossover       `json:"tables"`
}

// MergeMeasured merges the networks that are faster merged on this machine. What
// it measures it keeps in the folder of the model's checkpoint.
func (m *Model) MergeMeasured(dir string) error {
	name := filepath.Join(dir, crossoverFile)
	all, err := readCrossovers(name)
	if err != nil {
		return err
	}
	here := machineCrossovers{CPU: cpuid.CPU.BrandName, ISA: m.Options().ISA, Threads: m.Pool().Threads()}
	if f := m.Options().Format; f != kernel.F32 {
		here.Format = f
	}
	at := slices.IndexFunc(all.Machines, func(c machineCrossovers) bool {
		return c.CPU == here.CPU && c.ISA == here.ISA && c.Threads == here.Threads && c.Format == here.Format
	})
	if at < 0 {
		at = len(all.Machines)
		all.Machines = append(all.Machines, here)
	}
	known := len(all.Machines[at].Tables)
	tables, err := m.Merge(true, all.Machines[at].Tables)
	if err != nil || len(tables) == known {
		return err
	}
	all.Machines[at].Tables = tables
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return err
	}
	return disk.Replace(name, func(w io.Writer) error { _, err := w.Write(append(text, '\n')); return err })
}

// maxCrossovers bounds the file.
const maxCrossovers = 1 << 20

func readCrossovers(name string) (crossovers, error) {
	var all crossovers
	text, err := disk.ReadText(name, maxCrossovers, "")
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	} else if err != nil {
		return all, fmt.Errorf("%w; remove it to measure again", err)
	}
	if err = json.Unmarshal(text, &all); err == nil {
		err = all.validate()
	}
	if err != nil {
		return all, fmt.Errorf("%s: %w; remove it to measure again", name, err)
	}
	return all, nil
}

// validate returns what is wrong with the first table that is.
func (c crossovers) validate() error {
	for _, m := range c.Machines {
		for _, t := range m.Tables {
			if err := t.Validate(); err != nil {
				return err
			}
		}
	}
	return nil
}
