package experiment

import (
	"bytes"
	"encoding/csv"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"gonum.org/v1/gonum/stat"
	"gonum.org/v1/gonum/stat/distuv"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/scaling"
	"github.com/structuredffn/sffn/model/train"
)

// The files of a report.
const (
	ReportFile  = "report.md"
	ResultsFile = "results.csv"
)

// Result is what a run came to. Loss is NaN where it did not finish.
type Result struct {
	*Run
	Status string // finished, or the last step of how many
	Steps  int
	Guided int
	Tokens int64
	FLOPs  float64
	Params int64
	FFN    int64
	Loss   float64 // nats a token, on the validation windows
}

// results reads what the runs in the folder out came to.
func (p *Plan) results(out string) (map[*Run]Result, error) {
	all := map[*Run]Result{}
	for _, r := range p.Runs {
		course := r.Config.Course()
		plain := r.Config.Model
		plain.Guided = false // as it decodes
		n := plain.Count()
		t := r.Config.Train
		res := Result{Run: r, Steps: course.Steps, Guided: course.Guided, FLOPs: course.FLOPs, Params: n.Total, FFN: n.MLPWeights,
			Tokens: int64(course.Steps) * int64(t.Batch*t.Accumulate*t.Seq), Loss: math.NaN(), Status: "not begun"}
		lines, _, err := train.ReadMetrics(r.Dir(out), course.Steps)
		if err != nil && !os.IsNotExist(err) {
			return nil, err
		}
		if len(lines) > 0 {
			last := lines[len(lines)-1]
			res.Status = fmt.Sprintf("at step %d of %d", last.Step, course.Steps)
			if last.Step == course.Steps && last.ValLoss != nil {
				res.Status, res.Loss = "finished", *last.ValLoss
			}
		}
		all[r] = res
	}
	return all, nil
}

// Report writes report.md, results.csv and a plot for each study into the
// folder out, from what its runs have come to so far.
func (p *Plan) Report(out string) error {
	results, err := p.results(out)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o777); err != nil {
		return err
	}
	if err := disk.Replace(filepath.Join(out, ResultsFile), func(w io.Writer) error { return p.writeCSV(w, results) }); err != nil {
		return err
	}
	for i := range p.Studies {
		s := newSummary(&p.Studies[i], results)
		if err := disk.Replace(filepath.Join(out, s.Name+".png"), s.plot); err != nil {
			return fmt.Errorf("plot of study %q: %w", s.Name, err)
		}
	}
	return disk.Replace(filepath.Join(out, ReportFile), func(w io.Writer) error { return p.writeMarkdown(w, results) })
}

func (p *Plan) writeCSV(w io.Writer, results map[*Run]Result) error {
	c := csv.NewWriter(w)
	c.Write([]string{"study", "size", "variant", "seed", "run", "status", "parameters", "ffn_weights", "steps", "guided_steps", "tokens", "train_flops", "val_loss"})
	for _, s := range p.Studies {
		for _, q := range s.Points {
			r, loss := results[q.Run], ""
			if !math.IsNaN(r.Loss) {
				loss = strconv.FormatFloat(r.Loss, 'f', 6, 64)
			}
			c.Write([]string{s.Name, q.Size, q.Variant, fmt.Sprint(q.Seed), r.Name, r.Status, fmt.Sprint(r.Params), fmt.Sprint(r.FFN),
				fmt.Sprint(r.Steps), fmt.Sprint(r.Guided), fmt.Sprint(r.Tokens), strconv.FormatFloat(r.FLOPs, 'g', 8, 64), loss})
		}
	}
	c.Flush()
	return c.Error()
}

// cell sums up the seeds of one variant at one size.
type cell struct {
	Result // of the first seed
	losses map[uint64]float64
	seeds  int // planned
}

// summary is a study with its results.
type summary struct {
	*Study
	cells map[[2]string]*cell // size, variant
}

func newSummary(s *Study, results map[*Run]Result) summary {
	m := summary{s, map[[2]string]*cell{}}
	for _, q := range s.Points {
		key := [2]string{q.Size, q.Variant}
		if m.cells[key] == nil {
			m.cells[key] = &cell{Result: results[q.Run], losses: map[uint64]float64{}}
		}
		m.cells[key].seeds++
		if loss := results[q.Run].Loss; !math.IsNaN(loss) {
			m.cells[key].losses[q.Seed] = loss
		}
	}
	return m
}

// estimate is a mean with the half width of its 95 % interval (Student's t);
// the half width is infinite for a single value, NaN stands for none at all.
type estimate struct {
	mean, half float64
	n          int
}

func estimateOf(v []float64) estimate {
	switch len(v) {
	case 0:
		return estimate{math.NaN(), math.NaN(), 0}
	case 1:
		return estimate{v[0], math.Inf(1), 1}
	}
	mean, sd := stat.MeanStdDev(v, nil)
	return estimate{mean, studentT(len(v)-1) * sd / math.Sqrt(float64(len(v))), len(v)}
}

// studentT is the 97.5 % quantile of Student's t.
func studentT(freedom int) float64 {
	return distuv.StudentsT{Mu: 0, Sigma: 1, Nu: float64(freedom)}.Quantile(0.975)
}

func (e estimate) String() string {
	switch {
	case e.n == 0:
		return "-"
	case e.n == 1:
		return fmt.Sprintf("%.4f (1 seed)", e.mean)
	}
	return fmt.Sprintf("%.4f ± %.4f", e.mean, e.half)
}

func (c *cell) loss() estimate {
	var v []float64
	for _, seed := range slices.Sorted(maps.Keys(c.losses)) {
		v = append(v, c.losses[seed])
	}
	return estimateOf(v)
}

// against is the difference of the losses from those of another cell, seed by
// seed: runs of one seed see the same data in the same order.
func (c *cell) against(o *cell) estimate {
	var v []float64
	for _, seed := range slices.Sorted(maps.Keys(c.losses)) {
		if l, ok := o.losses[seed]; ok {
			v = append(v, c.losses[seed]-l)
		}
	}
	return estimateOf(v)
}

// fit is a line through points, y = a + b x, by least squares, with the half
// width of the 95 % interval of its slope (infinite for two points), and the
// test of whether that is valid: nil where no x comes twice.
type fit struct {
	a, b, half float64
	n          int
	lack       *scaling.LackOfFit
}

func fitLine(x, y []float64) fit {
	f := fit{n: len(x), half: math.Inf(1)}
	if len(x) < 2 || slices.Min(x) == slices.Max(x) {
		f.a, f.b = math.NaN(), math.NaN()
		return f
	}
	f.a, f.b = stat.LinearRegression(x, y, nil, false)
	if len(x) > 2 {
		rest, spread, mean := 0.0, 0.0, stat.Mean(x, nil)
		residuals, ones := make([]float64, len(x)), make([]float64, len(x))
		for i := range x {
			d := y[i] - f.a - f.b*x[i]
			residuals[i], ones[i] = d, 1
			rest += d * d
			spread += (x[i] - mean) * (x[i] - mean)
		}
		f.lack = scaling.NewLackOfFit(x, residuals, ones, 2)
		f.half = studentT(len(x)-2) * math.Sqrt(rest/float64(len(x)-2)/spread)
	}
	return f
}

// curve is a variant's points for the fit: log10 of training FLOPs and of the
// loss, a point a seed.
func (s *summary) curve(variant string) (x, y []float64) {
	for _, size := range s.Sizes {
		c := s.cells[[2]string{size, variant}]
		for _, seed := range slices.Sorted(maps.Keys(c.losses)) {
			x, y = append(x, math.Log10(c.FLOPs)), append(y, math.Log10(c.losses[seed]))
		}
	}
	return x, y
}

func (p *Plan) writeMarkdown(w io.Writer, results map[*Run]Result) error {
	done := 0
	for _, r := range results {
		if !math.IsNaN(r.Loss) {
			done++
		}
	}
	var b bytes.Buffer
	printf := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	printf("# %s\n\n%d of %d runs are finished. Losses are nats a token on held-out text; ± is half the 95 %% interval of the mean over\nseeds (Student's t). Differences are taken seed by seed. Every number is in `%s`.\n", filepath.Base(p.Name), done, len(p.Runs), ResultsFile)
	for i := range p.Studies {
		s := newSummary(&p.Studies[i], results)
		printf("\n## %s\n\n", s.Name)
		if s.Question != "" {
			printf("%s\n\n", s.Question)
		}
		printf("| size | variant | parameters | FFN weights | steps (guided) | tokens | training FLOPs | seeds | loss | minus %s |\n|---|---|---:|---:|---:|---:|---:|---:|---:|---:|\n", s.Reference)
		for _, size := range s.Sizes {
			ref := s.cells[[2]string{size, s.Reference}]
			for _, v := range s.Variants {
				c := s.cells[[2]string{size, v}]
				difference := ""
				if c != ref {
					difference = c.against(ref).String()
				}
				steps := fmt.Sprint(c.Steps)
				if c.Guided > 0 {
					steps += fmt.Sprintf(" (%d)", c.Guided)
				}
				printf("| %s | %s | %d | %d | %s | %d | %.3g | %d of %d | %s | %s |\n", size, v, c.Params, c.FFN, steps, c.Tokens, c.FLOPs, len(c.losses), c.seeds, c.loss(), difference)
			}
		}
		if s.Fit {
			printf("\nLines through log10 loss over log10 training FLOPs, a point a run:\n\n| variant | points | slope | lack of fit |\n|---|---:|---:|---|\n")
			rejected := false
			for _, v := range s.Variants {
				f := fitLine(s.curve(v))
				verdict := f.lack.String()
				if f.lack.Rejects() {
					rejected, verdict = true, verdict+": rejected"
				}
				printf("| %s | %d | %.4f ± %.4f | %s |\n", v, f.n, f.b, f.half, verdict)
			}
			if rejected {
				printf("\nA line that lack of fit rejects misses the means of its sizes by more than the seeds differ: it is no straight line, and the\ninterval of its slope, which takes that for noise, is not valid.\n")
			}
		}
		printf("\n![%s](%s.png)\n", s.Name, s.Name)
	}
	_, err := b.WriteTo(w)
	return err
}
