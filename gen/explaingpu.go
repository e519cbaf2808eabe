package gen

import (
	"bytes"
	"fmt"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
)

// roofTokens are the numbers of tokens that the roofline is shown for.
var roofTokens = []int{1, 16, 64, 256, 1024, 4096, 32768}

// explainGPU prints a network's GPU kernels, and the roofline of its layers.
func explainGPU(b *bytes.Buffer, f plan.GPUFFN) {
	fmt.Fprintf(b, "%s on GPUs\n", f.Spec.Name())
	for _, k := range plan.GPUTable(f) {
		p := k.Plan.(plan.GPUProduct)
		fmt.Fprintf(b, "  %s: %d x %d warps, %d threads, %d stages, %d bytes of shared memory, %d blocks a multiprocessor, at most %d registers; a stage: %d mma, %d ldmatrix\n",
			k.Name, p.Tile.WarpsM, p.Tile.WarpsN, k.Threads, p.Stages, k.SharedBytes, k.BlocksPerSM, k.MaxRegisters(), k.Counts.MMA, k.Counts.LDMatrix)
	}
	fmt.Fprintf(b, "  roofline of forward in microseconds: a model, never timed on hardware; fused and merged have no kernels yet\n")
	fmt.Fprintf(b, "  %-5s %6s %-5s %11s %9s %9s   %-11s %-10s %8s %9s %8s\n", "chip", "tokens", "layer", plan.OneByOne, plan.Fused, plan.Merged, "best", "bound by", "MB", "GFLOP", "launches")
	for _, g := range plan.GPUs {
		for _, m := range roofTokens {
			for i, l := range f.Layers() {
				us := map[plan.Variant]string{plan.Fused: "-", plan.Merged: "-"}
				es := l.Estimates(g, m)
				for _, e := range es {
					us[e.Variant] = fmt.Sprintf("%.1f", 1e6*e.Seconds)
				}
				best := plan.Fastest(es)
				fmt.Fprintf(b, "  %-5s %6d fc%-3d %11s %9s %9s   %-11s %-10s %8.3g %9.3g %8d\n", g.Name, m, i+1, us[plan.OneByOne], us[plan.Fused], us[plan.Merged],
					best.Variant, best.Why(g), best.Bytes/1e6, best.FLOPs/1e9, best.Launches)
			}
		}
	}
}

// explainPasses prints the kernels around a model's products.
func explainPasses(b *bytes.Buffer, m spec.Model) {
	g, err := plan.NewGPUPasses(m)
	if err != nil {
		fmt.Fprintf(b, "no GPU kernels of model %s: %v\n", m.Name, err)
		return
	}
	fmt.Fprintf(b, "%s on GPUs, around the products\n", m.Name)
	for _, k := range g.Kernels() {
		fmt.Fprintf(b, "  %s: %d threads, %d bytes of shared memory, %d blocks a multiprocessor, at most %d registers\n",
			k.Name, k.Threads, k.SharedBytes, k.BlocksPerSM, k.MaxRegisters())
	}
}
