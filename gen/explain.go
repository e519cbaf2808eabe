package gen

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/plan/cpu"
	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// maxPadding is the share of useless columns from which Warnings speaks up.
const maxPadding = 2

// Warnings names structures that save nothing and blocks so narrow that
// padding dominates.
func (p Package) Warnings() []string {
	var ws []string
	for _, f := range p.FFNs {
		ws = append(ws, f.Warnings()...)
	}
	p.Formats = nil // padding is that of float32, or little more
	for _, l := range p.Layers() {
		for _, f := range l.Factors {
			for _, q := range append(f.Forward(), f.BackwardData()...) {
				if pad := q.Padding(); pad > maxPadding {
					ws = append(ws, fmt.Sprintf("%s: blocks of %s are %d wide and run %.1f times as many columns as they need", l.Spec.Name(), f.Param, plan.Len(q.N), pad))
					break
				}
			}
		}
	}
	return ws
}

// Explain prints the plan: parameters, operations, and for each product of
// each factor its tiles, blocks and places on each instruction set.
func (p Package) Explain() []byte {
	var b bytes.Buffer
	for _, f := range p.FFNs {
		fc1, fc2 := f.FC1(), f.FC2()
		w := fc1.Weights() + fc2.Weights()
		fmt.Fprintf(&b, "%s\n  weights %d, %.1f %% of dense; forward %d FLOPs a token\n", f.Name(), w,
			100*float64(w)/float64(fc1.In*fc1.Out+fc2.In*fc2.Out), 2*w)
		pl := plan.NewFFN(f)
		saved := 4 * (fc1.Out + pl.FC1.Saved() + pl.FC2.Saved())
		fmt.Fprintf(&b, "  saved for backward: %d bytes a token\n", saved)
		explainLayer(&b, "fc1", pl.FC1)
		if pl.Apart {
			fmt.Fprintf(&b, "  %s: a pass of its own, gate and up lie in different blocks\n", f.Act)
		}
		explainLayer(&b, "fc2", pl.FC2)
		for _, format := range p.narrow() {
			fmt.Fprintf(&b, "in %s, %s a pass of its own\n", format, f.Act)
			narrow := plan.NewFFNIn(f, format)
			explainFormats(&b, format, part{"fc1", pl.FC1, narrow.FC1}, part{"fc2", pl.FC2, narrow.FC2})
			explainLayer(&b, "fc1", narrow.FC1)
			explainLayer(&b, "fc2", narrow.FC2)
		}
		if slices.Contains(p.ISAs, CUDA) {
			g, err := gpu.NewFFN(f, p.Precision)
			if err != nil {
				fmt.Fprintf(&b, "no GPU kernels: %v\n", err)
				continue
			}
			explainGPU(&b, g)
		}
	}
	for _, l := range p.Linears {
		fmt.Fprintf(&b, "%s\n  weights %d; forward %d FLOPs a token\n", l.Name(), l.Weights(), 2*l.Weights())
		explainLayer(&b, "linear", plan.NewLayer(l))
		for _, format := range p.narrow() {
			fmt.Fprintf(&b, "in %s\n", format)
			narrow := plan.NewLayer(l).In(format)
			explainFormats(&b, format, part{"linear", plan.NewLayer(l), narrow})
			explainLayer(&b, "linear", narrow)
		}
	}
	if slices.Contains(p.ISAs, CUDA) {
		for _, m := range p.Models {
			g, err := gpu.NewModel(m, p.Precision)
			if err != nil {
				fmt.Fprintf(&b, "no GPU kernels: %v\n", err)
				continue
			}
			explainGPUModel(&b, g)
			explainPasses(&b, m)
		}
	}
	return b.Bytes()
}

// narrow lists the package's formats beside float32.
func (p Package) narrow() []kernel.FormatName {
	return slices.DeleteFunc(slices.Clone(p.Formats), func(f kernel.FormatName) bool { return f == kernel.F32 })
}

// part is a layer in float32 and in another format.
type part struct {
	name        string
	full, other plan.Layer
}

// explainFormats prints in which format each factor is, and what its pack takes; those with
// more bits than the format, why.
func explainFormats(b *bytes.Buffer, format kernel.FormatName, parts ...part) {
	size := func(f plan.Factor, in kernel.FormatName) (n int) {
		f.Format = in
		for _, p := range f.Forward() {
			n += p.PackBytes()
		}
		return n
	}
	var all, full int
	for _, l := range parts {
		for i, f := range l.other.Factors {
			own, why := f.FormatIn(format)
			n, was := size(f, own), size(l.full.Factors[i], kernel.F32)
			all, full = all+n, full+was
			fmt.Fprintf(b, "  %s.%s in %s: pack of %d bytes, %.1f %% of float32's", l.name, f.Param, own, n, 100*float64(n)/float64(was))
			if why != "" {
				fmt.Fprintf(b, "; more bits than %s", format)
				if !f.Across { // which no other format has
					fmt.Fprintf(b, ", %d bytes more", n-size(f, format))
				}
				fmt.Fprintf(b, ": %s", why)
			}
			b.WriteByte('\n')
		}
	}
	fmt.Fprintf(b, "  packs of %d bytes, %.1f %% of float32's\n", all, 100*float64(all)/float64(full))
}

func explainLayer(b *bytes.Buffer, name string, l plan.Layer) {
	for _, f := range l.Factors {
		fmt.Fprintf(b, "  %s.%s [%d: %d -> %d]", name, f.Param, len(f.Blocks), f.In, f.Out)
		if f.Then.Moves() {
			fmt.Fprintf(b, ", shuffle %v absorbed", f.Then)
		}
		b.WriteByte('\n')
		explainProducts(b, "forward", f.Forward())
		explainProducts(b, "backward-data", f.BackwardData())
	}
}

func explainProducts(b *bytes.Buffer, pass string, ps []plan.Product) {
	for _, q := range ps {
		if q.Lanes > 0 {
			explainAcross(b, pass, q)
			continue
		}
		fmt.Fprintf(b, "    %-13s block %d: K %d in blocks %v, %d segments, step %d; N %d to %s, padding %.2f", pass, q.Block, q.Depth(), q.KBlocks, len(q.K), q.KStep()/4, q.Results(), places(q.N), q.Padding())
		if !q.Direct {
			b.WriteString(", through scratch")
		}
		b.WriteByte('\n')
		for _, t := range cpu.Targets() {
			var names []string
			for _, k := range cpu.Kernels(t, q) {
				names = append(names, k.Name())
			}
			if t.ISA != kernel.Portable && len(names) > 0 {
				fmt.Fprintf(b, "      %s: L2 holds %d panels; %s\n", t.Name, t.PanelGroup(q.PanelBytes(q.KBlocks[0]), kernel.RowBlock), strings.Join(names, " "))
			}
		}
	}
}

// explainAcross prints a product that takes all blocks at once.
func explainAcross(b *bytes.Buffer, pass string, q plan.Product) {
	fmt.Fprintf(b, "    %-13s lanes across %d blocks: K %d, N %d, both %d apart; %d groups of %d, padding %.2f, pack of %d bytes\n", pass, q.Lanes,
		q.Depth(), plan.Len(q.N), q.Lanes, q.Panels(), kernel.LaneGroup, q.Padding(), q.Panels()*q.PanelBytes(q.Depth()))
	for _, t := range cpu.Targets() {
		if ks := cpu.Across(&t); t.ISA != kernel.Portable {
			fmt.Fprintf(b, "      %s: tiles of up to %dx%d vectors, %s\n", t.Name, t.Across.Rows, t.Across.Columns, ks[len(ks)-1].Name())
		}
	}
}

// places says where results are stored: 48.. or, with a step, 1,5,9..
func places(segs []plan.Seg) string {
	r := segs[0].Store
	switch {
	case len(segs) > 1:
		return fmt.Sprintf("%d runs from %d", len(segs), r.Off)
	case r.Len > 1 && r.Step > 1:
		return fmt.Sprintf("%d,%d..", r.Off, r.At(1))
	}
	return fmt.Sprintf("%d..", r.Off)
}
