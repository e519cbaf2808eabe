package plan

import "github.com/structuredffn/sffn/gen/spec"

// GPU describes a chip for the roofline. The numbers are assumptions, not
// measurements: what mma.sync kernels and streams of memory are known to reach.
type GPU struct {
	Name string
	// FLOPS are bf16 operations and Bandwidth bytes a second, Launch the seconds
	// that a kernel takes at least.
	FLOPS, Bandwidth, Launch float64
	// Multiprocessors that a launch must fill.
	Multiprocessors int
}

// GPUs lists the chips that plans are shown for.
var GPUs = []GPU{
	{"A100", 240e12, 1.7e12, 1.5e-6, 108},
	{"H100", 450e12, 2.9e12, 1.5e-6, 132},
}

// Variant is a way to run a layer forward.
type Variant string

// The variants: one launch a factor, one launch for all factors with the
// intermediate in shared memory, or one dense matrix.
const (
	OneByOne Variant = "one by one"
	Fused    Variant = "fused"
	Merged   Variant = "merged"
)

// Estimate is the roofline of one variant for a number of tokens: the longer
// of arithmetic and traffic of each launch, both slowed down by the
// multiprocessors that stay empty, and the launches.
type Estimate struct {
	Variant      Variant
	Launches     int
	FLOPs, Bytes float64
	Seconds      float64
}

func (e *Estimate) add(g GPU, flops, bytes float64, blocks int) {
	fill := min(1, float64(blocks)/float64(g.Multiprocessors))
	e.Launches++
	e.FLOPs += flops
	e.Bytes += bytes
	e.Seconds += g.Launch + max(flops/g.FLOPS, bytes/g.Bandwidth)/fill
}

// product adds the launches of a product: its own, whose parts of sums go
// through memory where it is split, and then the one that adds them up.
func (e *Estimate) product(g GPU, k GPUProduct, tokens int) {
	blocks := func(k GPUKernel) int {
		n := k.Blocks(GPUCountsOf{Tokens: tokens, Parts: 1})
		return n[0] * n[1] * n[2]
	}
	m := float64(tokens)
	w := float64(k.Blocks) * float64(k.Cols()) * float64(k.Depth())
	in, out := 2*m*float64(k.Blocks*k.Depth()), 2*m*float64(k.Blocks*k.Cols())
	if !k.Split() {
		e.add(g, 2*m*w, 2*w+in+out, blocks(k.Kernel()))
		return
	}
	parts := 2 * float64(k.Parts) * out
	e.add(g, 2*m*w, 2*w+in+parts, blocks(k.Kernel()))
	e.add(g, 0, parts+out, blocks(GPUFinish{k}.Kernel()))
}

// seconds is the modelled time of a product.
func (k GPUProduct) seconds(g GPU, tokens int) float64 {
	var e Estimate
	e.product(g, k, tokens)
	return e.Seconds
}

// fusedRows and fusedRank bound what a fused kernel holds in shared memory:
// 64 rows of an intermediate of 256.
const (
	fusedRows = 64
	fusedRank = 256
)

// Estimates lists the variants that a layer has. Only OneByOne has kernels
// so far.
func (l GPULayer) Estimates(g GPU, tokens int) []Estimate {
	e := Estimate{Variant: OneByOne}
	for _, f := range l.Factors {
		k := f.Forward
		if tokens <= FewTokens {
			k = f.Few
		}
		e.product(g, k, tokens)
	}
	es := []Estimate{e}
	if len(l.Factors) == 1 {
		return es
	}
	s := l.Spec
	m, w, rows := float64(tokens), float64(s.Weights()), up(tokens, fusedRows)/fusedRows
	if mid := l.Factors[0].Blocks * l.Factors[0].Factor.Out; mid <= fusedRank {
		f := Estimate{Variant: Fused}
		f.add(g, 2*m*w, 2*(w+m*float64(s.In+s.Out)), rows)
		es = append(es, f)
	}
	dense, err := newGPULayer(NewLayer(spec.Linear{Kind: spec.Dense, In: s.In, Out: s.Out}), "", "")
	if err == nil {
		d := dense.Estimates(g, tokens)[0]
		d.Variant = Merged
		es = append(es, d)
	}
	return es
}

// Fastest is the estimate with the least time.
func Fastest(es []Estimate) Estimate {
	best := es[0]
	for _, e := range es[1:] {
		if e.Seconds < best.Seconds {
			best = e
		}
	}
	return best
}

// Why says what bounds the choice.
func (e Estimate) Why(g GPU) string {
	switch {
	case e.Seconds < 2*g.Launch*float64(e.Launches):
		return "launches"
	case e.FLOPs/g.FLOPS > e.Bytes/g.Bandwidth:
		return "arithmetic"
	}
	return "memory"
}
