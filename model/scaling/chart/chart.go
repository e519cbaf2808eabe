// Package chart draws scaling laws and the runs they were fitted to.
package chart

import (
	"fmt"
	"image/color"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/structuredffn/sffn/internal/ticks"
	"github.com/structuredffn/sffn/model/scaling"
)

// Series is one law, with the runs it was fitted to and others that it
// predicts. Name tells it from other series.
type Series struct {
	Name  string
	Fit   *scaling.Fit
	Other []scaling.Run
	// Slope is an interval of the exponent for the legend, nil for none.
	Slope *scaling.Interval
}

// Formats lists the suffixes of files that Draw writes.
var Formats = []string{"png", "svg"}

// Format is the format of a file by its suffix.
func Format(name string) (string, error) {
	f := strings.TrimPrefix(strings.ToLower(filepath.Ext(name)), ".")
	if !slices.Contains(Formats, f) {
		return "", fmt.Errorf("%s: unknown format %q; valid are %s", name, f, strings.Join(Formats, ", "))
	}
	return f, nil
}

// Draw writes a chart of laws of the same kind: laws of the loss above compute
// on logarithmic axes, less the irreducible loss where the laws have one, a
// curve for each M; the error law above the loss. Runs that were fitted are
// filled, others hollow. The same input gives the same bytes.
func Draw(w io.Writer, format, title string, series []Series) error {
	p := plot.New()
	p.Title.Text = title
	p.Title.Padding = 2 * vg.Millimeter
	p.Add(plotter.NewGrid())
	p.Legend.Top = true
	p.Legend.Padding = vg.Millimeter
	p.Legend.ThumbnailWidth = 8 * vg.Millimeter
	p.Legend.XOffs, p.Legend.YOffs = -2*vg.Millimeter, -2*vg.Millimeter
	add := addCompute
	p.X.Tick.Marker, p.Y.Tick.Marker = ticks.Linear{}, ticks.Linear{}
	if series[0].Fit.Law == scaling.Error {
		add = addError
		p.Legend.Top, p.Legend.YOffs = false, 2*vg.Millimeter
	} else {
		p.X.Scale, p.Y.Scale = plot.LogScale{}, plot.LogScale{}
		p.X.Tick.Marker, p.Y.Tick.Marker = ticks.Log{}, ticks.Log{}
	}
	if err := add(p, series); err != nil {
		return err
	}
	if err := explain(p, series); err != nil {
		return err
	}
	pad(p)
	canvas, err := draw.NewFormattedCanvas(20*vg.Centimeter, 13*vg.Centimeter, format)
	if err != nil {
		return err
	}
	const margin = 3 * vg.Millimeter
	p.Draw(draw.Crop(draw.New(canvas), margin, -margin, margin, -margin))
	_, err = canvas.WriteTo(w)
	return err
}

// explain adds to the legend what filled and hollow points are.
func explain(p *plot.Plot, series []Series) error {
	if !slices.ContainsFunc(series, func(s Series) bool { rs, n := s.all(); return len(rs) > n }) {
		return nil
	}
	for _, x := range []struct {
		text  string
		glyph draw.GlyphDrawer
	}{{"fitted", draw.CircleGlyph{}}, {"predicted", draw.RingGlyph{}}} {
		s, err := plotter.NewScatter(plotter.XYs{{}}) // for the legend only
		if err != nil {
			return err
		}
		s.GlyphStyle = draw.GlyphStyle{Color: color.Gray{90}, Radius: 1.1 * vg.Millimeter, Shape: x.glyph}
		p.Legend.Add(x.text, s)
	}
	return nil
}

// points are runs with their place in the chart.
type points struct {
	fitted, other plotter.XYs
}

func (q *points) add(at plotter.XY, fitted bool) {
	if fitted {
		q.fitted = append(q.fitted, at)
	} else {
		q.other = append(q.other, at)
	}
}

// scatter draws runs: filled where fitted, hollow where predicted.
func (q points) scatter(p *plot.Plot, c color.Color, shape int) (thumbs []plot.Thumbnailer, err error) {
	filled := []draw.GlyphDrawer{draw.CircleGlyph{}, draw.BoxGlyph{}, draw.PyramidGlyph{}}
	hollow := []draw.GlyphDrawer{draw.RingGlyph{}, draw.SquareGlyph{}, draw.TriangleGlyph{}}
	for _, x := range []struct {
		at     plotter.XYs
		glyphs []draw.GlyphDrawer
	}{{q.fitted, filled}, {q.other, hollow}} {
		if len(x.at) == 0 {
			continue
		}
		s, err := plotter.NewScatter(x.at)
		if err != nil {
			return nil, err
		}
		s.GlyphStyle = draw.GlyphStyle{Color: c, Radius: 1.1 * vg.Millimeter, Shape: x.glyphs[shape%len(x.glyphs)]}
		p.Add(s)
		thumbs = append(thumbs, s)
	}
	return thumbs, nil
}

func curve(p *plot.Plot, c color.Color, at plotter.XYs) (*plotter.Line, error) {
	l, err := plotter.NewLine(at)
	if err != nil {
		return nil, err
	}
	l.Color, l.Width = c, vg.Points(1.2)
	p.Add(l)
	return l, nil
}

// all are the runs of a series; the first n were fitted.
func (s Series) all() (rs []scaling.Run, n int) {
	for _, q := range s.Fit.Points {
		rs = append(rs, q.Run)
	}
	n = len(rs)
	for _, r := range s.Other {
		if !slices.ContainsFunc(rs[:n], func(q scaling.Run) bool { return q.Name == r.Name && q.N == r.N && q.D == r.D }) {
			rs = append(rs, r)
		}
	}
	return rs, n
}

const curvePoints = 100

// between are x from lo to hi in equal ratios.
func between(lo, hi float64) []float64 {
	xs := make([]float64, curvePoints)
	for i := range xs {
		xs[i] = lo * math.Pow(hi/lo, float64(i)/(curvePoints-1))
	}
	return xs
}

func addCompute(p *plot.Plot, series []Series) error {
	p.X.Label.Text = "training compute C (FLOPs)"
	p.Y.Label.Text = "reducible loss L - E (nats per token)"
	if series[0].Fit.Law == scaling.Power {
		p.Y.Label.Text = "loss L (nats per token)"
		if series[0].Fit.Floor != 0 {
			p.Y.Label.Text = "loss above the floor (nats per token)"
		}
	}
	drawn := 0
	for i, s := range series {
		rs, n := s.all()
		// One curve, and colour, for each M where the law knows M; several
		// series have a colour each instead.
		var keys []float64
		byM := map[float64]*points{}
		lo, hi := math.Inf(1), 0.0
		for j, r := range rs {
			key := 0.0
			if s.Fit.Law == scaling.Joint || s.Fit.Law == scaling.Compute {
				key = r.M()
				// Whole batches make M differ a little from run to run.
				if k := slices.IndexFunc(keys, func(k float64) bool { return math.Abs(key/k-1) < 0.01 }); k >= 0 {
					key = keys[k]
				}
			}
			if byM[key] == nil {
				keys, byM[key] = append(keys, key), &points{}
			}
			lo, hi = min(lo, r.C), max(hi, r.C)
			// What lies below the limit has no logarithm.
			if rest := r.Loss - s.Fit.Limit(); rest > 0 {
				byM[key].add(plotter.XY{X: r.C, Y: rest}, j < n)
				drawn++
			}
		}
		slices.Sort(keys)
		var legend []plot.Thumbnailer
		for k, m := range keys {
			c := shade(k, len(keys))
			if len(series) > 1 {
				c = plotutil.Color(i)
			}
			var thumbs []plot.Thumbnailer
			// Of several series, the curves of the runs that were fitted are
			// enough.
			if len(series) == 1 || len(byM[m].fitted) > 0 {
				line, err := s.law(p, c, m, lo, hi)
				if err != nil {
					return err
				}
				if legend != nil && len(series) > 1 {
					line.Dashes = plotutil.Dashes(k)
				}
				thumbs = append(thumbs, line)
			}
			glyphs, err := byM[m].scatter(p, c, i)
			if err != nil {
				return err
			}
			thumbs = append(thumbs, glyphs...)
			if len(series) == 1 && m != 0 {
				p.Legend.Add(fmt.Sprintf("M = %s", strconv.FormatFloat(m, 'g', 3, 64)), thumbs...)
			} else if legend == nil && len(byM[m].fitted) > 0 {
				legend = thumbs
			}
		}
		if len(series) > 1 || legend != nil {
			p.Legend.Add(s.label(), legend...)
		}
	}
	if drawn == 0 {
		return fmt.Errorf("no run lies above the irreducible loss")
	}
	return nil
}

// label names a series and its slope.
func (s Series) label() string {
	slope := s.Fit.Exponent()
	text := fmt.Sprintf("slope %.3f", slope)
	if s.Fit.LackOfFit.Rejects() { // an interval would not be valid
		text += " (law rejected)"
	} else if s.Slope != nil {
		text += fmt.Sprintf(" (%.3f to %.3f)", s.Slope.Low, s.Slope.High)
	}
	if s.Fit.Law != scaling.Power {
		text += fmt.Sprintf(", E = %.2f", s.Fit.Limit())
	}
	if s.Name != "" {
		text = s.Name + ": " + text
	}
	return text
}

// law draws the curve of a law of the loss, at m tokens a parameter where it
// knows them.
func (s Series) law(p *plot.Plot, c color.Color, m, lo, hi float64) (*plotter.Line, error) {
	var at plotter.XYs
	for _, x := range between(lo/1.5, hi*1.5) {
		r := scaling.Run{C: x}
		if m != 0 {
			r.N, r.D = math.Sqrt(x/6/m), math.Sqrt(x/6*m)
		}
		at = append(at, plotter.XY{X: x, Y: s.Fit.At(r) - s.Fit.Limit()})
	}
	return curve(p, c, at)
}

func addError(p *plot.Plot, series []Series) error {
	p.X.Label.Text = "loss L (nats per token)"
	p.Y.Label.Text = "average top-1 error"
	for i, s := range series {
		rs, n := s.all()
		var q points
		lo, hi := math.Inf(1), 0.0
		for j, r := range rs {
			q.add(plotter.XY{X: r.Loss, Y: r.Err}, j < n)
			lo, hi = min(lo, r.Loss), max(hi, r.Loss)
		}
		margin := (hi - lo) / 20
		var at plotter.XYs
		for j := range curvePoints {
			x := lo - margin + (hi-lo+2*margin)*float64(j)/(curvePoints-1)
			at = append(at, plotter.XY{X: x, Y: s.Fit.At(scaling.Run{Loss: x})})
		}
		c := plotutil.Color(i)
		line, err := curve(p, c, at)
		if err != nil {
			return err
		}
		thumbs, err := q.scatter(p, c, i)
		if err != nil {
			return err
		}
		f := s.Fit.Coefficients
		text := fmt.Sprintf("%.3f - %.3f exp(-%.3f L)", f["epsilon"], f["k"], f["gamma"])
		if s.Name != "" {
			text = s.Name + ": " + text
		}
		p.Legend.Add(text, append([]plot.Thumbnailer{line}, thumbs...)...)
	}
	return nil
}

// shade is colour k of n from blue to red, dark enough on white.
func shade(k, n int) color.Color {
	x := 0.0
	if n > 1 {
		x = float64(k) / float64(n-1)
	}
	stops := [][3]float64{{38, 70, 160}, {30, 150, 160}, {90, 170, 60}, {235, 150, 20}, {200, 40, 40}}
	at := x * float64(len(stops)-1)
	i := min(int(at), len(stops)-2)
	f := at - float64(i)
	var c [3]uint8
	for j := range c {
		c[j] = uint8(math.Round(stops[i][j]*(1-f) + stops[i+1][j]*f))
	}
	return color.RGBA{c[0], c[1], c[2], 255}
}

// pad leaves room around the data.
func pad(p *plot.Plot) {
	for _, a := range []*plot.Axis{&p.X, &p.Y} {
		if _, log := a.Scale.(plot.LogScale); log {
			f := math.Pow(a.Max/a.Min, 0.04)
			a.Min, a.Max = a.Min/f, a.Max*f
			continue
		}
		d := 0.04 * (a.Max - a.Min)
		a.Min, a.Max = a.Min-d, a.Max+d
	}
}
