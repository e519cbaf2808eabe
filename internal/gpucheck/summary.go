package gpucheck

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Summary writes a report's page, in Markdown.
func (r *Report) Summary(w io.Writer) error {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	d := r.Device
	p("# gpucheck: %s on %s\n", r.verdict(), d.Name)
	quick := ""
	if r.Quick {
		quick = ", quick"
	}
	p("%s, %.0f s%s, program %s.\n", r.Began.Format("2006-01-02 15:04 MST"), r.Seconds, quick, r.Program)
	p("Compute capability %s, %d multiprocessors, %.1f GB, L2 %.0f MB; driver CUDA %s from %s; %s.\n", d.Compute, d.Multiprocessors, float64(d.Memory)/1e9, float64(d.L2)/1e6, d.Driver, d.Library, cmp.Or(d.Code, "-"))
	p("| part | verdict | checks | s | what |")
	p("|---|---|---|---|---|")
	for _, q := range r.Parts {
		p("| %s | %s | %d | %.1f | %s |", q.Name, q.verdict(), q.Checks, q.Seconds, q.What)
	}
	for i, s := range r.Problems {
		if i == 0 {
			p("")
		}
		p("- **failed**: %s", line(s))
	}
	for _, q := range r.Parts {
		if len(q.Problems)+len(q.Notes) == 0 {
			continue
		}
		p("\n%s:\n", q.Name)
		for _, s := range q.Problems {
			p("- **failed**: %s", line(s))
		}
		for _, s := range q.Notes {
			p("- %s", line(s))
		}
	}
	r.products(p)
	r.passes(p)
	if len(r.Models) > 0 {
		p("\n| model | | batch | tokens | tokens/s | ms | TFLOP/s | memory, GB |")
		p("|---|---|---|---|---|---|---|---|")
		for _, m := range r.Models {
			p("| %s | %s | %d | %d | %.0f | %.3f | %.1f | %.1f |", m.Model, m.Op, m.Batch, m.Seq, m.Tokens, 1e3*m.Seconds.Median, m.GFLOPS/1e3, float64(m.Memory)/1e9)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// verdict is that of the whole run.
func (r *Report) verdict() string {
	if r.Passed && r.Complete {
		return "all parts passed"
	}
	of := func(verdict string) bool {
		return slices.ContainsFunc(r.Parts, func(p *Part) bool { return p.Verdict == verdict })
	}
	var words []string
	if of(Failed) || len(r.Problems) > 0 {
		words = append(words, Failed)
	}
	if !r.Complete {
		words = append(words, Cut)
	} else if of(Nothing) {
		words = append(words, Nothing+" in a part")
	}
	return strings.Join(words, ", ")
}

// verdict is a part's, with what else is to be known of it.
func (p *Part) verdict() string {
	if p.Cut && p.Verdict != Cut {
		return p.Verdict + ", " + Cut
	}
	return p.Verdict
}

// shownProducts bounds the table of each number of rows: the page is one; the
// report has all.
const shownProducts = 8

// products shows the range of each kind of product, and the slowest ones.
func (r *Report) products(p func(string, ...any)) {
	if len(r.Products) == 0 {
		return
	}
	type kind struct {
		pass, precision string
		rows            int
	}
	of := map[kind][]ProductTime{}
	var kinds []kind
	for _, t := range r.Products {
		k := kind{t.Pass, t.Precision, t.Rows}
		if of[k] == nil {
			kinds = append(kinds, k)
		}
		of[k] = append(of[k], t)
	}
	p("\n| products | rows | kernels | TFLOP/s: least, median, most | GB/s: median | torch.matmul takes: median, least |")
	p("|---|---|---|---|---|---|")
	for _, k := range kinds {
		ts := of[k]
		var flops, gbs, ratios []float64
		mark := ""
		for _, t := range ts {
			if t.Time.Cached {
				mark = inCache
			}
			flops, gbs = append(flops, t.TFLOPS), append(gbs, t.GBs)
			if t.Ratio > 0 {
				ratios = append(ratios, t.Ratio)
			}
		}
		slices.Sort(flops)
		slices.Sort(gbs)
		slices.Sort(ratios)
		torch := "-"
		if n := len(ratios); n > 0 {
			torch = fmt.Sprintf("%.2fx, %.2fx", ratios[n/2], ratios[0])
		}
		n := len(ts)
		p("| %s %s | %d | %d | %.1f, %.1f, %.1f%s | %.0f | %s |", k.precision, k.pass, k.rows, n, flops[0], flops[n/2], flops[n-1], mark, gbs[n/2], torch)
	}
	slowest := slices.Clone(r.Products)
	slices.SortStableFunc(slowest, func(a, b ProductTime) int { return cmp.Compare(a.Ratio, b.Ratio) })
	slowest = slices.DeleteFunc(slowest, func(t ProductTime) bool { return t.Ratio == 0 })
	if len(slowest) == 0 {
		return
	}
	p("\nFarthest behind torch.matmul:\n")
	for _, t := range slowest[:min(shownProducts, len(slowest))] {
		p("- %s, %d rows (%d x %d x %d, %d blocks): %s us, torch %.1f us", t.Kernel, t.Rows, t.M, t.N, t.K, t.Blocks, t.Time.us(), t.Torch)
	}
}

// passes shows the times at the most rows.
func (r *Report) passes(p func(string, ...any)) {
	most := 0
	for _, t := range r.Passes {
		most = max(most, t.Rows)
	}
	if most == 0 {
		return
	}
	p("\n| pass, %d rows | us | GB/s | TFLOP/s |", most)
	p("|---|---|---|---|")
	for _, t := range r.Passes {
		if t.Rows == most {
			flops := "-"
			if t.TFLOPS > 0 {
				flops = fmt.Sprintf("%.1f", t.TFLOPS)
			}
			p("| %s | %s | %.0f | %s |", t.Kernel, t.Time.us(), t.GBs, flops)
		}
	}
}

// inCache marks times of buffers that fit the L2 cache all together.
const inCache = " (L2)"

// us is the time of a launch.
func (t Timing) us() string {
	s := fmt.Sprintf("%.1f", t.Median)
	if t.Cached {
		s += inCache
	}
	return s
}

// line is a text in one line.
func line(s string) string { return strings.Join(strings.Fields(s), " ") }
