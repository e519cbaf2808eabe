package gen

import (
	"bytes"
	"fmt"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// roofTokens are the numbers of tokens that the roofline is shown for.
var roofTokens = []int{1, 16, 64, 256, 1024, 4096, 32768}

// explainGPU prints a network's GPU kernels, and the roofline of its layers.
func explainGPU(b *bytes.Buffer, f gpu.FFN) {
	fmt.Fprintf(b, "%s on GPUs, in %s\n", f.Spec.Name(), f.Precision)
	if f.Why != nil {
		fmt.Fprintf(b, "  bf16 cannot serve it: %v\n", f.Why)
	}
	explainKernels(b, gpu.Table(f))
	if f.Precision != table.BF16 {
		return // the roofline is that of tensor cores
	}
	explainRoofline(b, []string{"fc1", "fc2"}, f.Layers())
}

// explainGPUModel prints what a model's dense layers add to its networks.
func explainGPUModel(b *bytes.Buffer, m gpu.Model) {
	fmt.Fprintf(b, "dense layers on GPUs, the head's vocabulary padded to %d\n", m.Logits)
	layers := []gpu.Layer{m.QKV, m.Output, m.Head}
	explainKernels(b, gpu.Table(layers...))
	explainRoofline(b, []string{"qkv", "out", "head"}, layers)
}

func explainKernels(b *bytes.Buffer, ks []gpu.Kernel) {
	for _, k := range ks {
		fmt.Fprintf(b, "  %s: %d threads, %d bytes of shared memory, %d blocks a multiprocessor, at most %d registers", k.Name, k.Threads, k.SharedBytes, k.BlocksPerSM, k.MaxRegisters())
		if p, ok := k.Plan.(gpu.Product); ok && k.Counts.MMA > 0 {
			fmt.Fprintf(b, "; %d x %d warps, %d stages; a stage: %d mma, %d ldmatrix; shared memory feeds %.0f FLOP a clock", p.Tile.WarpsM, p.Tile.WarpsN, p.Stages, k.Counts.MMA, k.Counts.LDMatrix, gpu.SharedFLOPs(p.Tile))
			if p.Split() {
				fmt.Fprintf(b, "; %d parts of %d stages", p.Parts, p.PartSteps())
			}
		}
		fmt.Fprintln(b)
	}
}

func explainRoofline(b *bytes.Buffer, names []string, layers []gpu.Layer) {
	fmt.Fprintf(b, "  roofline of forward in microseconds: a model, never timed on hardware; fused and merged have no kernels yet\n")
	fmt.Fprintf(b, "  %-5s %6s %-5s %11s %9s %9s   %-11s %-13s %8s %9s %8s\n", "chip", "tokens", "layer", gpu.OneByOne, gpu.Fused, gpu.Merged, "best", "bound by", "MB", "GFLOP", "launches")
	for _, g := range gpu.Chips {
		for _, m := range roofTokens {
			for i, l := range layers {
				us := map[gpu.Variant]string{gpu.Fused: "-", gpu.Merged: "-"}
				es := l.Estimates(g, m)
				for _, e := range es {
					us[e.Variant] = fmt.Sprintf("%.1f", 1e6*e.Seconds)
				}
				best := gpu.Fastest(es)
				fmt.Fprintf(b, "  %-5s %6d %-5s %11s %9s %9s   %-11s %-13s %8.3g %9.3g %8d\n", g.Name, m, names[i], us[gpu.OneByOne], us[gpu.Fused], us[gpu.Merged],
					best.Variant, best.Why(g), best.Bytes/1e6, best.FLOPs/1e9, best.Launches)
			}
		}
	}
}

// explainPasses prints the kernels around a model's products.
func explainPasses(b *bytes.Buffer, m spec.Model) {
	g, err := gpu.NewPasses(m)
	if err != nil {
		fmt.Fprintf(b, "no GPU kernels of model %s: %v\n", m.Name, err)
		return
	}
	fmt.Fprintf(b, "%s on GPUs, around the products\n", m.Name)
	explainKernels(b, g.Kernels())
}
