package tool

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/klauspost/cpuid/v2"
	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// crossoverFile holds, in a checkpoint's folder, what --merge auto has measured:
// the same choices next time give the same tokens.
const crossoverFile = "crossover.json"

// crossovers is the content of the file.
type crossovers struct {
	Machines []machineCrossovers `json:"machines"`
}

// machineCrossovers are the tables of one machine and number of threads.
type machineCrossovers struct {
	CPU     string            `json:"cpu"`
	ISA     kernel.ISA        `json:"isa"`
	Threads int               `json:"threads"`
	Tables  []model.Crossover `json:"tables"`
}

func mergeFlag(cmd *cobra.Command, mode *string) {
	cmd.Flags().StringVar(mode, "merge", "off", "decode with factors multiplied out beforehand: on, off, or auto: whichever is faster on this machine, measured once")
	cli.Complete(cmd, "merge", mergeModes...)
}

var mergeModes = []string{"auto", "on", "off"}

func checkMerge(mode string) error {
	if !slices.Contains(mergeModes, mode) {
		return cli.Usagef("--merge: unknown mode %q; valid are %s", mode, strings.Join(mergeModes, ", "))
	}
	return nil
}

// merge prepares a model that was read from the checkpoint dir for decoding.
func merge(m *model.Model, dir, mode string, opt rt.Options) error {
	if mode == "off" {
		return nil
	}
	if mode == "on" {
		_, err := m.Merge(false, nil)
		return err
	}
	name := filepath.Join(dir, crossoverFile)
	all, err := readCrossovers(name)
	if err != nil {
		return err
	}
	here := machineCrossovers{CPU: cpuid.CPU.BrandName, ISA: opt.ISA, Threads: opt.Pool.Threads()}
	at := slices.IndexFunc(all.Machines, func(c machineCrossovers) bool {
		return c.CPU == here.CPU && c.ISA == here.ISA && c.Threads == here.Threads
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
	f, err := disk.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	} else if err != nil {
		return all, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxCrossovers+1))
	if err != nil {
		return all, err
	}
	if len(text) > maxCrossovers {
		return all, fmt.Errorf("%s: too long, want at most %d bytes; remove it to measure again", name, maxCrossovers)
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
