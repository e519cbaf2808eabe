package bench

import (
	"fmt"
	"io"
	"slices"

	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// ResultTable has a line of heading and one for each result of factors and networks.
func ResultTable(rs []Result) [][]string {
	var rates []Rate
	for _, r := range rs {
		rates = append(rates, r.Rate)
	}
	peers := peerNames(rates)
	lines := [][]string{slices.Concat([]string{"layer", "factor", "op", "rows", "threads"}, rateHeads(rates), []string{"pays"}, peers)}
	for _, r := range rs {
		lines = append(lines, slices.Concat([]string{r.Layer, r.Factor, r.Op, fmt.Sprint(r.Rows), fmt.Sprint(r.Threads)}, rateCells(r.Rate), []string{ratio(r.Pays)}, peerCells(r.Rate, peers)))
	}
	return lines
}

// AblationTable has a line of heading and one for each result of what decisions earn.
func AblationTable(as []Ablation) [][]string {
	var rates []Rate
	for _, a := range as {
		rates = append(rates, a.Rate)
	}
	lines := [][]string{{"layer", "rows", "threads", rateHeads(rates)[0], "of peak", "specialised", "fused", "absorbed"}}
	for _, a := range as {
		lines = append(lines, []string{a.Layer, fmt.Sprint(a.Rows), fmt.Sprint(a.Threads), fmt.Sprintf("%.1f", a.GFLOPS), term.Percent(a.Share.Median),
			ratio(&a.Specialised), ratio(&a.Fused), ratio(a.Absorbed)})
	}
	return lines
}

// peerNames lists whom any of the rates are compared with.
func peerNames(rates []Rate) []string {
	var names []string
	for _, r := range rates {
		for _, p := range r.Peers {
			if !slices.Contains(names, p.Name) {
				names = append(names, p.Name)
			}
		}
	}
	return names
}

// peerCells are the ratios to each of the names.
func peerCells(r Rate, names []string) []string {
	cells := make([]string, len(names))
	for _, p := range r.Peers {
		cells[slices.Index(names, p.Name)] = fmt.Sprintf("%.2fx", p.Ratio.Median)
	}
	return cells
}

// unit is that of rates of multiply-adds in a format.
func unit(f kernel.FormatName) string {
	if f.Quantized() {
		return "GOP/s"
	}
	return "GFLOP/s"
}

// rateHeads are the columns of rates: operations are called floating-point ones where
// any are.
func rateHeads(rates []Rate) []string {
	i := slices.IndexFunc(rates, func(r Rate) bool { return !r.Format.Quantized() })
	head := unit(kernel.F32)
	if i < 0 && len(rates) > 0 {
		head = unit(rates[0].Format)
	}
	return []string{head, "of peak", "quartiles", "GB/s", "of read", "of bound"}
}

// rateCells are the columns of rateHeads.
func rateCells(r Rate) []string {
	cells := []string{fmt.Sprintf("%.1f", r.GFLOPS), term.Percent(r.Share.Median), fmt.Sprintf("%.1f - %.1f", 100*r.Share.Low, 100*r.Share.High), "", "", ""}
	if r.ReadShare != nil {
		cells[3], cells[4], cells[5] = fmt.Sprintf("%.1f", r.GBps), term.Percent(r.ReadShare.Median), term.Percent(r.Bound.Median)
	}
	return cells
}

func ratio(s *Spread) string {
	if s == nil {
		return ""
	}
	return fmt.Sprintf("%.3f", s.Median)
}

// ModelTable has a line of heading and one for each result of models.
func ModelTable(rs []ModelResult) [][]string {
	var rates []Rate
	for _, r := range rs {
		rates = append(rates, r.Rate)
	}
	peers := peerNames(rates)
	lines := [][]string{slices.Concat([]string{"model", "op", "batch", "tokens", "threads", "tokens/s"}, rateHeads(rates), []string{"model"}, peers)}
	for _, r := range rs {
		share := ""
		if r.ModelShare != nil {
			share = term.Percent(r.ModelShare.Median)
		}
		lines = append(lines, slices.Concat([]string{r.Model, r.Op, fmt.Sprint(r.Batch), fmt.Sprint(r.Seq), fmt.Sprint(r.Threads), fmt.Sprintf("%.1f", r.Tokens)},
			rateCells(r.Rate), []string{share}, peerCells(r.Rate, peers)))
	}
	return lines
}

// LatencyTable has a line of heading and one for each result of latencies.
func LatencyTable(ls []Latency) [][]string {
	lines := [][]string{{"what", "threads", "count", "median", "quartiles", "worst"}}
	us := func(s float64) string { return fmt.Sprintf("%.2f", 1e6*s) }
	for _, l := range ls {
		lines = append(lines, []string{l.What, fmt.Sprint(l.Threads), fmt.Sprint(l.Count), us(l.Median) + " us", us(l.Low) + " - " + us(l.High), us(l.Worst)})
	}
	return lines
}

// MergeTable has a line of heading and one for each result of factors against merged networks.
func MergeTable(rs []MergeResult) [][]string {
	lines := [][]string{{"layer", "rows", "threads", "factored tokens/s", "merged tokens/s", "auto tokens/s", "auto takes", "behind"}}
	for _, r := range rs {
		lines = append(lines, []string{r.Layer, fmt.Sprint(r.Rows), fmt.Sprint(r.Threads), fmt.Sprintf("%.0f", r.Factored), fmt.Sprintf("%.0f", r.Merged), fmt.Sprintf("%.0f", r.Auto), r.Choice, term.Percent(r.Behind)})
	}
	return lines
}

// DeviceTable has a line of heading and one for each result of models on a device.
func DeviceTable(rs []DeviceResult) [][]string {
	lines := [][]string{{"model", "op", "batch", "tokens", "tokens/s", "median", "quartiles", "GFLOP/s", "memory"}}
	ms := func(s float64) string { return fmt.Sprintf("%.3f", 1e3*s) }
	for _, r := range rs {
		lines = append(lines, []string{r.Model, r.Op, fmt.Sprint(r.Batch), fmt.Sprint(r.Seq), fmt.Sprintf("%.1f", r.Tokens),
			ms(r.Seconds.Median) + " ms", ms(r.Seconds.Low) + " - " + ms(r.Seconds.High), fmt.Sprintf("%.1f", r.GFLOPS), term.Count(float64(r.Memory))})
	}
	return lines
}

// Print writes a line about the machine.
func (m *Machine) Print(w io.Writer) {
	fmt.Fprintf(w, "%s, %s, target %s, %d threads", m.CPU, m.ISA, m.Target, m.Threads)
	if m.Format != kernel.F32 {
		fmt.Fprintf(w, ", products in %s", m.Format)
	}
	fmt.Fprint(w, ":")
	for _, isa := range kernel.Available() {
		if peak, ok := m.PeakGFLOPS[isa]; ok {
			fmt.Fprintf(w, " %.1f %s %s,", peak, unit(m.Format), isa)
		}
	}
	for i, r := range m.Read {
		if i > 0 {
			fmt.Fprint(w, ",")
		}
		fmt.Fprintf(w, " %.1f GB/s %s", r.GBps, r.Level)
	}
	fmt.Fprintln(w)
}
