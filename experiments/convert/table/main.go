// Command table reads what run.sh has measured, the folder json, and prints a line of CSV
// for each conversion and fine-tuning: go run ./experiments/convert/table json.
package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// measured is the part that is read of what convert and eval print with --json.
type measured struct {
	Share   float64 `json:"share"`
	Weights int64   `json:"ffn_weights"`
	Layers  []struct {
		Structure struct{ Rank, Blocks int } `json:"structure"`
		FFN       int                        `json:"ffn"`
		FC1, FC2  struct {
			Weights float64  `json:"weight_error"`
			Outputs *float64 `json:"output_error"`
		}
	} `json:"layers"`
	Models []struct {
		Model, Data string
		Loss        float64
	} `json:"models"`
}

// losses are those of the last model, after the conversion, on each source.
func (m *measured) losses() (of [2]float64) {
	for _, r := range m.Models {
		for i, name := range []string{"go-data", "py-data"} {
			if filepath.Base(r.Data) == name {
				of[i] = r.Loss
			}
		}
	}
	return of
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: table FOLDER")
		os.Exit(2)
	}
	if err := run(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "table:", err)
		os.Exit(1)
	}
}

func run(dir string) error {
	names, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(names) == 0 {
		return fmt.Errorf("%s holds no JSON files", dir)
	}
	w := csv.NewWriter(os.Stdout)
	w.Write([]string{"run", "share", "ffn_weights", "sizes", "weight_error", "output_error", "loss_go", "loss_py"})
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		var m measured
		if err := json.Unmarshal(text, &m); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		l := m.losses()
		if l[0] == 0 || l[1] == 0 {
			return fmt.Errorf("%s has no losses on go-data and py-data", name)
		}
		row := []string{strings.TrimSuffix(strings.TrimSuffix(filepath.Base(name), ".json"), ".eval"), "", "", "", "", ""}
		if len(m.Layers) > 0 {
			var sizes []string // rank, or blocks where there is no rank, or hidden units, by layer
			weights, outputs, errors := 0.0, 0.0, ""
			for _, y := range m.Layers {
				size := y.FFN
				if y.Structure.Rank > 0 {
					size = y.Structure.Rank
				} else if y.Structure.Blocks > 0 {
					size = y.Structure.Blocks
				}
				sizes = append(sizes, fmt.Sprint(size))
				n := 2 * float64(len(m.Layers))
				weights += (y.FC1.Weights + y.FC2.Weights) / n
				if y.FC1.Outputs != nil && y.FC2.Outputs != nil {
					outputs += (*y.FC1.Outputs + *y.FC2.Outputs) / n
					errors = fmt.Sprintf("%.4f", outputs)
				}
			}
			row = []string{row[0], fmt.Sprintf("%.4f", m.Share), fmt.Sprint(m.Weights), strings.Join(sizes, " "), fmt.Sprintf("%.4f", weights), errors}
		}
		w.Write(append(row, fmt.Sprintf("%.4f", l[0]), fmt.Sprintf("%.4f", l[1])))
	}
	w.Flush()
	return w.Error()
}
