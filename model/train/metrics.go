package train

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/google/renameio/v2"
	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
)

const (
	// MetricsFile holds one JSON object a step.
	MetricsFile = "metrics.jsonl"
	// CurveFile is the plot of the losses.
	CurveFile = "loss.png"
)

// Metrics is one line of the metrics file: the state after one step.
type Metrics struct {
	Step     int     `json:"step"`
	Loss     float64 `json:"loss"` // nats a token, before the update
	LR       float64 `json:"lr"`
	GradNorm float64 `json:"grad_norm"` // before clipping
	// Tokens counts the training tokens so far.
	Tokens          int64    `json:"tokens"`
	TokensPerSecond float64  `json:"tokens_per_second"`
	ValLoss         *float64 `json:"val_loss,omitempty"`
	// GradNorms, before clipping, and WeightNorms, after the update, go by kind
	// of layer: embedding, attention, ffn, guide, norm and head.
	GradNorms   map[string]float64 `json:"grad_norms,omitempty"`
	WeightNorms map[string]float64 `json:"weight_norms,omitempty"`
	// Spike says that the loss is in a spike.
	Spike bool `json:"spike,omitempty"`
}

// openMetrics opens the metrics of a run for appending, cut back to the lines
// up to step: those after it belong to steps that will run again.
func openMetrics(run string, step int) (*os.File, error) {
	name := filepath.Join(run, MetricsFile)
	lines, err := ReadMetrics(run, step)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := renameio.NewPendingFile(name)
	if err != nil {
		return nil, err
	}
	defer f.Cleanup()
	w := bufio.NewWriter(f)
	enc := json.NewEncoder(w)
	for _, m := range lines {
		if err := enc.Encode(m); err != nil {
			return nil, err
		}
	}
	if err := w.Flush(); err != nil {
		return nil, err
	}
	if err := f.CloseAtomicallyReplace(); err != nil {
		return nil, err
	}
	return os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0o666)
}

// ReadMetrics reads the lines up to step. A line that a killed process left
// unfinished, or that is no metrics, ends them.
func ReadMetrics(run string, step int) ([]Metrics, error) {
	f, err := os.Open(filepath.Join(run, MetricsFile))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var lines []Metrics
	for sc := bufio.NewScanner(f); sc.Scan(); {
		var m Metrics
		if json.Unmarshal(sc.Bytes(), &m) != nil || m.Step > step {
			break
		}
		lines = append(lines, m)
	}
	return lines, nil
}

func appendMetrics(f *os.File, m Metrics) error {
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return err
}

// drawCurve plots the losses of a run.
func drawCurve(run, title string, steps int) error {
	lines, err := ReadMetrics(run, steps)
	if err != nil {
		return err
	}
	var loss, val plotter.XYs
	for _, m := range lines {
		loss = append(loss, plotter.XY{X: float64(m.Step), Y: m.Loss})
		if m.ValLoss != nil {
			val = append(val, plotter.XY{X: float64(m.Step), Y: *m.ValLoss})
		}
	}
	p := plot.New()
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, "step", "loss (nats per token)"
	p.Legend.Top = true
	p.Add(plotter.NewGrid())
	training, err := plotter.NewLine(loss)
	if err != nil {
		return fmt.Errorf("%s: %w", CurveFile, err)
	}
	training.Color = plotutil.Color(2)
	p.Add(training)
	p.Legend.Add("training", training)
	if len(val) > 0 {
		line, points, err := plotter.NewLinePoints(val)
		if err != nil {
			return fmt.Errorf("%s: %w", CurveFile, err)
		}
		line.Color, points.Color = plotutil.Color(0), plotutil.Color(0)
		p.Add(line, points)
		p.Legend.Add("validation", line, points)
	}
	to, err := p.WriterTo(16*vg.Centimeter, 10*vg.Centimeter, "png")
	if err != nil {
		return err
	}
	f, err := renameio.NewPendingFile(filepath.Join(run, CurveFile))
	if err != nil {
		return err
	}
	defer f.Cleanup()
	if _, err := to.WriteTo(f); err != nil {
		return err
	}
	return f.CloseAtomicallyReplace()
}
