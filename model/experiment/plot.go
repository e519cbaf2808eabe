package experiment

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"

	"github.com/structuredffn/sffn/internal/ticks"
)

// plot draws a study: loss over training FLOPs where there are lines to fit,
// and otherwise each variant's seeds side by side.
func (s summary) plot(w io.Writer) error {
	p := plot.New()
	p.Title.Text, p.Y.Label.Text = s.Name, "validation loss (nats per token)"
	p.X.Tick.Marker, p.Y.Tick.Marker = ticks.Linear{}, ticks.Linear{}
	p.Add(plotter.NewGrid())
	draw := s.plotSeeds
	if s.Fit {
		draw = s.plotFit
	}
	if err := draw(p); err != nil {
		return err
	}
	to, err := p.WriterTo(18*vg.Centimeter, 12*vg.Centimeter, "png")
	if err != nil {
		return err
	}
	_, err = to.WriteTo(w)
	return err
}

func (s summary) plotFit(p *plot.Plot) error {
	p.X.Label.Text = "log10 of training FLOPs"
	p.Y.Label.Text = "log10 of validation loss (nats per token)"
	p.Legend.Top = true
	for i, v := range s.Variants {
		x, y := s.curve(v)
		if len(x) == 0 {
			continue
		}
		points, err := scatter(x, y, i)
		if err != nil {
			return err
		}
		p.Add(points)
		f := fitLine(x, y)
		if math.IsNaN(f.b) {
			p.Legend.Add(v, points)
			continue
		}
		line := plotter.NewFunction(func(x float64) float64 { return f.a + f.b*x })
		line.XMin, line.XMax, line.Color = slices.Min(x), slices.Max(x), plotutil.Color(i)
		p.Add(line)
		p.Legend.Add(fmt.Sprintf("%s: slope %.4f", v, f.b), points, line)
	}
	return nil
}

func (s summary) plotSeeds(p *plot.Plot) error {
	var names []string
	at := 0
	for _, size := range s.Sizes {
		for i, v := range s.Variants {
			name := v
			if size != "" {
				name = size + " " + v
			}
			names = append(names, name)
			var x, y []float64
			c := s.cells[[2]string{size, v}]
			for _, seed := range slices.Sorted(maps.Keys(c.losses)) {
				x, y = append(x, float64(at)), append(y, c.losses[seed])
			}
			at++
			if len(x) == 0 {
				continue
			}
			points, err := scatter(x, y, i)
			if err != nil {
				return err
			}
			p.Add(points)
		}
	}
	p.NominalX(names...)
	p.X.Tick.Label.Rotation = math.Pi / 6
	p.X.Tick.Label.XAlign = draw.XRight
	return nil
}

func scatter(x, y []float64, color int) (*plotter.Scatter, error) {
	xys := make(plotter.XYs, len(x))
	for i := range x {
		xys[i] = plotter.XY{X: x[i], Y: y[i]}
	}
	points, err := plotter.NewScatter(xys)
	if err != nil {
		return nil, err
	}
	points.Color, points.Shape, points.Radius = plotutil.Color(color), plotutil.Shape(color), vg.Points(3)
	return points, nil
}
