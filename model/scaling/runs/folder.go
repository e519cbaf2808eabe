package runs

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/train"
)

// folderColumns are those of a table of runs that sffn train made. N are all
// parameters, N_no_embed those of the paper's formula without embeddings, C is
// 6 N D, flops what training cost by the model's own count, loss the last one
// on the validation split in nats a token.
var folderColumns = []string{"name", "config", "kind", "N", "N_no_embed", "D", "M", "C", "flops", "loss", "seed"}

// readFolder reads the runs in and below a folder.
func readFolder(dir string) (*Table, []string, error) {
	t := &Table{Name: dir, Columns: folderColumns}
	var notes []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		if _, err := os.Stat(filepath.Join(path, train.MetricsFile)); err != nil {
			return nil
		}
		row, note, err := readRun(dir, path)
		if err != nil {
			return err
		}
		if note != "" {
			notes = append(notes, path+": "+note)
		} else {
			t.Rows = append(t.Rows, row)
		}
		return filepath.SkipDir
	})
	if err != nil {
		return nil, nil, err
	}
	if len(t.Rows) == 0 {
		why := fmt.Sprintf("want folders that sffn train made, with %s and a checkpoint", train.MetricsFile)
		if len(notes) > 0 {
			why = notes[0]
		}
		return nil, nil, fmt.Errorf("%s: no finished run in or below it: %s", dir, why)
	}
	return t, notes, nil
}

// readRun reads one run. A note says why it does not count.
func readRun(root, dir string) (row Row, note string, err error) {
	latest, err := checkpoint.Find(dir)
	if errors.Is(err, checkpoint.ErrNone) {
		return row, "left out: no checkpoint yet", nil
	} else if err != nil {
		return row, "", err
	}
	c, state, err := checkpoint.Describe(latest)
	if err != nil {
		return row, "", err
	}
	// The loss of a run that was cut short is not that of a shorter run: its
	// learning rate had not come down.
	if state.Step < state.Steps {
		return row, fmt.Sprintf("left out: at step %d of %d", state.Step, state.Steps), nil
	}
	metrics, damage, err := train.ReadMetrics(dir, state.Step)
	if err != nil {
		return row, "", err
	}
	if n := len(metrics); n == 0 || metrics[n-1].Step != state.Step || metrics[n-1].ValLoss == nil {
		err := fmt.Errorf("%s: no validation loss at step %d, which the checkpoint is at", filepath.Join(dir, train.MetricsFile), state.Step)
		if damage != "" {
			err = fmt.Errorf("%w; %s", err, damage)
		}
		return row, "", err
	}
	end := metrics[len(metrics)-1]
	name, err := filepath.Rel(root, dir)
	if err != nil {
		return row, "", err
	}
	if name == "." {
		name = filepath.Base(dir)
	}
	m, tr := c.Model, c.Train
	counts, d := m.Count(), float64(end.Tokens)
	n := float64(counts.Total)
	flops := 3 * m.ForwardFLOPs(tr.Batch, tr.Seq) / float64(tr.Batch*tr.Seq) * d
	row.cells = []string{name, m.Name, Kind(m)}
	for _, x := range []float64{n, float64(counts.FormulaWithoutEmbedding), d, d / n, 6 * n * d, flops, *end.ValLoss, float64(tr.Seed)} {
		format := byte('g')
		if x == math.Trunc(x) && x < 1<<53 {
			format = 'f'
		}
		row.cells = append(row.cells, strconv.FormatFloat(x, format, -1, 64))
	}
	row.places = slices.Repeat([]string{dir}, len(row.cells))
	return row, "", nil
}

// Kind names the structure of a model's feed-forward networks: dense, or the
// kind with the share of the dense weights that a structured one has. Where the
// layers differ after the first, which may be dense, the kind is called mixed and
// the share is that of all layers.
func Kind(m spec.Model) string {
	of := m.Stretches()
	if len(of) == 2 && of[1].First == 1 && of[0].Kind == spec.Dense {
		of = of[1:]
	}
	kind, weights, dense := string(of[0].Kind), 0.0, 0.0
	for _, s := range of {
		n, fc1, fc2 := float64(s.Last-s.First+1), s.FC1(), s.FC2()
		weights += n * float64(fc1.Weights()+fc2.Weights())
		dense += n * float64(fc1.In*fc1.Out+fc2.In*fc2.Out)
	}
	if len(of) > 1 {
		kind = "mixed"
	} else if of[0].Kind == spec.Dense {
		return kind
	}
	return fmt.Sprintf("%s %.0f %%", kind, math.Round(100*weights/dense))
}
