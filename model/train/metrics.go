package train

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/internal/ticks"
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
	ValLoss         *float64 `json:"val_loss,omitempty"` // nats a token
	// ValBits is the validation loss in bits a byte of text.
	ValBits *float64 `json:"val_bits_per_byte,omitempty"`
	// GradNorms, before clipping, and WeightNorms, after the update, go by kind
	// of layer: embedding, attention, ffn, guide, norm and head.
	GradNorms   map[string]float64 `json:"grad_norms,omitempty"`
	WeightNorms map[string]float64 `json:"weight_norms,omitempty"`
	// Spike says that the loss is in a spike.
	Spike bool `json:"spike,omitempty"`
}

// setValidation notes a loss in nats a token, one of which is so many bits a byte.
func (m *Metrics) setValidation(loss, bits float64) {
	inBits := loss * bits
	m.ValLoss, m.ValBits = &loss, &inBits
}

// bits is the validation loss in bits a byte, NaN where the line has none: the first
// edition's have not.
func (m *Metrics) bits() float64 {
	if m.ValBits == nil {
		return math.NaN()
	}
	return *m.ValBits
}

// openMetrics writes the metrics of a run anew, those up to the step that it goes
// on from, and opens them for appending.
func openMetrics(run string, lines []Metrics) (*os.File, error) {
	name := filepath.Join(run, MetricsFile)
	err := disk.Replace(name, func(w io.Writer) error {
		enc := json.NewEncoder(w)
		for _, m := range lines {
			if err := enc.Encode(m); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return os.OpenFile(name, os.O_APPEND|os.O_WRONLY, 0o666)
}

// maxLine bounds a line of the metrics, maxDamage what is looked through for the
// end of one that is longer.
const (
	maxLine   = 1 << 16
	maxDamage = 1 << 26
)

// ReadMetrics reads the lines up to step. A line that is no metrics, or whose
// step is not between those of its neighbours, is left out, and damage says so:
// empty where all are whole. A line that a killed process left unfinished is no
// damage.
func ReadMetrics(run string, step int) (lines []Metrics, damage string, err error) {
	name := filepath.Join(run, MetricsFile)
	f, err := disk.Open(name)
	if err != nil {
		return nil, "", err
	}
	defer f.Close()
	var d damaged
	var next Metrics // looks whole, unless the line after it says otherwise
	n, at := 0, 0    // the number of this line, and of next
	keep := func() {
		if at > 0 && next.Step <= step {
			lines = append(lines, next)
		}
	}
	last := 0 // the step before next
	for r, end := bufio.NewReaderSize(f, maxLine), false; !end; {
		line, err := r.ReadSlice('\n')
		var m Metrics
		whole := false
		if err == nil || errors.Is(err, io.EOF) {
			m, whole = parseLine(line)
		}
		for passed := 0; errors.Is(err, bufio.ErrBufferFull) && passed < maxDamage; { // too long: it goes by unseen
			line, err = r.ReadSlice('\n')
			passed += len(line)
		}
		if errors.Is(err, bufio.ErrBufferFull) { // these are no metrics
			n++
			d.add(n)
			break
		}
		if end = errors.Is(err, io.EOF); end && !whole { // nothing, or unfinished
			break
		}
		n++
		if err != nil && !end {
			return nil, "", fmt.Errorf("%s: line %d: %w", name, n, err)
		}
		if !whole || m.Step <= last {
			d.add(n)
			continue
		}
		if at > 0 && m.Step <= next.Step {
			// One of two is wrong: the one before, if this one follows what was before
			// that.
			d.add(at)
		} else {
			keep()
			last = next.Step
		}
		next, at = m, n
	}
	keep()
	if d.count > 0 {
		damage = fmt.Sprintf("%s: %d of %d lines are damaged and left out: %s", name, d.count, n, d.where)
	}
	return lines, damage, nil
}

// parseLine reads a line, and says whether it is one: with a step and a loss.
func parseLine(text []byte) (Metrics, bool) {
	if !bytes.HasPrefix(text, []byte("{")) { // of which there may be millions
		return Metrics{}, false
	}
	m := Metrics{Loss: math.NaN()} // of which JSON has none
	err := json.Unmarshal(text, &m)
	return m, err == nil && m.Step > 0 && !math.IsNaN(m.Loss)
}

// damaged lists lines, the first few of them by number.
type damaged struct {
	count int
	where string
}

func (d *damaged) add(line int) {
	switch d.count++; {
	case d.count == 1:
		d.where = fmt.Sprint(line)
	case d.count <= 5:
		d.where += fmt.Sprint(", ", line)
	case d.count == 6:
		d.where += " ..."
	}
}

func appendMetrics(f *os.File, m Metrics) error {
	line, err := json.Marshal(m)
	if err != nil {
		return err
	}
	disk.At("append", f.Name())
	_, err = f.Write(append(line, '\n'))
	return err
}

// drawCurve plots the losses of a run.
func drawCurve(run, title string, steps int) error {
	lines, _, err := ReadMetrics(run, steps)
	if err != nil || len(lines) == 0 {
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
	p.X.Tick.Marker, p.Y.Tick.Marker = ticks.Linear{}, ticks.Linear{}
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
	return disk.Replace(filepath.Join(run, CurveFile), func(w io.Writer) error {
		_, err := to.WriteTo(w)
		return err
	})
}
