package kernel

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Row is everything that makes a matrix-product kernel what it is: its emitter and
// its name need no more.
type Row struct {
	ISA ISA `json:"isa"`
	// Format is that of the right operand's pack.
	Format   FormatName `json:"format"`
	MR       int        `json:"mr"`
	NR       int        `json:"nr"`
	Epilogue Epilogue   `json:"epilogue"`
	// Strip kernels read the left operand packed as [k][MR].
	Strip bool `json:"strip"`
	// Across says that the lanes run across blocks: NR counts vectors, each of
	// [LaneGroup] neighbouring blocks.
	Across bool `json:"across"`
	// Shape holds the constants of a specialised kernel, nil for any shape.
	Shape *Shape `json:"shape"`
	// Sweeps is the number of groups of columns in which a tile is computed, one
	// after the other; Unroll the number of k of one round of the loop.
	Sweeps int `json:"sweeps"`
	Unroll int `json:"unroll"`
	// PrefetchC says that the kernel asks for the lines that it will store to, Ahead
	// for how many lines of what comes next it does every four k; where the lanes run
	// across blocks, how many lines beyond each vector of A, and on demand of B, it asks
	// for another one.
	PrefetchC bool `json:"prefetch_c"`
	Ahead     int  `json:"ahead"`
	// With is a feature that the kernel takes beside those of its format: [Format.Gains],
	// or none.
	With Feature `json:"with,omitempty"`
}

// Shape holds the constants of a specialised kernel, in the units of [Args].
type Shape struct {
	LDA   int       `json:"lda"`
	KStep int       `json:"k_step"`
	LDC   int       `json:"ldc"`
	Segs  []Segment `json:"segments"`
}

// K is the number of products in each of the kernel's sums.
func (s *Shape) K() int {
	k := 0
	for _, seg := range s.Segs {
		k += seg.Len
	}
	return k
}

// Name carries the row:
//
//	mul_<format>_<shape>_<MR>x<NR>[_<epilogue>][_w<sweeps>][_u<unroll>][_p<lines ahead>][_n][_<feature>]_<isa>
//
// where <shape> is any (every stride in a register), strip (the same, the left
// operand packed), across (the same, lanes across blocks) or, in entries, k<depth>[s<segments>x<distance>][t<step>]
// a<row of A>c<row of C>; kernels of one row leave out the rows. What is as in most
// kernels of its width is left out; n does not prefetch C.
func (k Row) Name() string {
	var b strings.Builder
	f, _ := k.Format.Format()
	fmt.Fprintf(&b, "mul_%s_", f.Name)
	switch s := k.Shape; {
	case k.Strip:
		b.WriteString("strip")
	case k.Across:
		b.WriteString("across")
	case s == nil:
		b.WriteString("any")
	default:
		fmt.Fprintf(&b, "k%d", s.K())
		if n := len(s.Segs); n > 1 {
			fmt.Fprintf(&b, "s%dx%d", n, (s.Segs[1].Off-s.Segs[0].Off)/4)
		}
		if s.KStep != 4 {
			fmt.Fprintf(&b, "t%d", s.KStep/4)
		}
		if k.MR > 1 {
			fmt.Fprintf(&b, "a%dc%d", s.LDA/4, s.LDC/4)
		}
	}
	fmt.Fprintf(&b, "_%dx%d", k.MR, k.NR)
	if k.Epilogue != Linear {
		fmt.Fprintf(&b, "_%s", k.Epilogue)
	}
	if k.Sweeps != k.usualSweeps() {
		fmt.Fprintf(&b, "_w%d", k.Sweeps)
	}
	if k.Unroll != k.usualUnroll() {
		fmt.Fprintf(&b, "_u%d", k.Unroll)
	}
	if k.Ahead != k.usualAhead() {
		fmt.Fprintf(&b, "_p%d", k.Ahead)
	}
	if !k.PrefetchC && !k.Format.Quantized() {
		b.WriteString("_n")
	}
	if k.With != "" {
		fmt.Fprintf(&b, "_%s", strings.ToLower(string(k.With)))
	}
	fmt.Fprintf(&b, "_%s", k.ISA)
	return b.String()
}

// Needs are the features that a machine must have to run the kernel.
func (k Row) Needs() []Feature {
	f, _ := k.Format.Format()
	needs := append(k.ISA.Needs(), f.Needs[k.ISA]...)
	for _, feature := range []Feature{f.Native[k.ISA], k.With} {
		if feature != "" {
			needs = append(needs, feature)
		}
	}
	return needs
}

// Runs reports whether this machine and build have what the kernel needs.
func (k Row) Runs() bool { return slices.Contains(Available(), k.ISA) && Has(k.Needs()...) }

// Chosen reports whether the kernel is, of those that differ in With alone, the one for
// this processor.
func (k Row) Chosen() bool {
	f, _ := k.Format.Format()
	gain, ok := f.Gains[k.ISA]
	return !ok || Has(gain) == (k.With == gain)
}

// usualSweeps keeps a tile of six rows in 16 registers.
func (k Row) usualSweeps() int {
	if k.Across && k.ISA == AVX2 {
		return 2
	}
	if k.ISA == AVX2 && (k.NR == Panel || k.NR == LongPanel) {
		return k.NR / HalfPanel
	}
	return 1
}

// usualUnroll is 1 across blocks, where a k has work enough.
func (k Row) usualUnroll() int {
	if k.Across {
		return 1
	}
	f, _ := k.Format.Format()
	return max(4, f.KGroup)
}

func (k Row) usualAhead() int {
	if k.Across {
		return 1
	}
	if k.Format.Quantized() {
		return QuantAhead(k.Format, k.MR)
	}
	f, _ := k.Format.Format()
	if k.Strip || k.MR <= 2 || f.KeysValues {
		return 0
	}
	return k.NR / 8 * f.Weights.Bits / Float32.Bits
}

// AheadK is the number of k for which [Row] Ahead counts lines.
const AheadK = 4

// maxStride bounds what a kernel holds as an immediate, in bytes.
const maxStride = 1 << 24

// Validate says what of a row no kernel can be made of, or would make no
// difference.
func (k Row) Validate() error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	within := func(name string, v, lo, hi int) {
		if v < lo || v > hi {
			fail("%s: %d is out of range, want %d to %d", name, v, lo, hi)
		}
	}
	if k.ISA == Portable || !slices.Contains(ISAs, k.ISA) {
		fail("isa: %q has no assembly; valid are %v", k.ISA, ISAs[:len(ISAs)-1])
	}
	f, ok := k.Format.Format()
	if !ok {
		return errors.Join(append(errs, fmt.Errorf("format: %q is unknown; valid are %v", k.Format, AllFormats()))...)
	}
	if f.KernelsOf(k.ISA) != f.Name {
		fail("format: products in %s run kernels of %s on %s", f.Name, f.Widened, k.ISA)
	}
	within("mr", k.MR, 1, MaxMR)
	if k.Across {
		within("nr", k.NR, 1, MaxAcross)
	} else if !slices.Contains(Widths[:], k.NR) {
		fail("nr: %d is no width of tiles; valid are %v", k.NR, Widths)
	}
	if !slices.Contains(Epilogues(), k.Epilogue) {
		return fmt.Errorf("epilogue: %q is unknown; valid are %q", k.Epilogue, Epilogues())
	} else if k.Epilogue.Gated() && k.NR%Panel != 0 && !k.Across {
		fail("epilogue: panels of %s are 32 columns wide, not %d", k.Epilogue, k.NR)
	}
	switch {
	case k.Across:
		if k.Strip || k.Shape != nil || k.Epilogue != Linear || f.Name != F32 {
			fail("across: kernels across blocks are of %s and have no strips, no shape and no epilogue", F32)
		}
		if k.Unroll != 1 {
			fail("unroll: %d; kernels across blocks take one k at a time", k.Unroll)
		}
		if want := k.usualSweeps(); k.Sweeps != want {
			fail("sweeps: %d; %s has %d in %d lanes", k.Sweeps, k.ISA, want, LaneGroup)
		}
	case k.Strip && (k.Shape != nil || k.Epilogue != Linear || k.NR > Panel || k.Ahead != 0):
		fail("strip: strips have no shape, no epilogue and ask for nothing ahead, and are up to %d wide", Panel)
	case k.Sweeps > 1 && k.ISA != AVX2:
		fail("sweeps: %d, and %s has registers for a whole tile", k.Sweeps, k.ISA)
	case k.Sweeps == 2 && k.NR == Panel, k.Sweeps == 3 && k.NR == LongPanel && !k.Epilogue.Gated(), k.Sweeps == 1:
	default:
		fail("sweeps: %d of %d columns; valid are 1, 2 of %d and 3 of %d", k.Sweeps, k.NR, Panel, LongPanel)
	}
	if f.Name != F32 && (k.NR != Panel || k.Epilogue != Linear) {
		fail("format: kernels of %s are %d columns wide and leave activations to a pass of their own, not %d wide with epilogue %q", f.Name, Panel, k.NR, k.Epilogue)
	}
	if k.Format.Quantized() && (k.Strip || k.Shape != nil || k.PrefetchC || k.Unroll != f.KGroup || k.Sweeps != k.usualSweeps()) {
		fail("format: kernels of %s are for any shape, and take %d k in a round in %d sweeps; they ask for nothing that they store", f.Name, f.KGroup, k.usualSweeps())
	}
	if f.Heights != nil && !slices.Contains(f.Heights, k.MR) {
		fail("format: kernels of %s are %v rows high", f.Name, f.Heights)
	}
	if k.With != "" && k.With != f.Gains[k.ISA] {
		fail("with: kernels of %s on %s have no use for %s", f.Name, k.ISA, k.With)
	}
	if k.Strip && f.Weights != f.Activations {
		fail("strip: weight gradients have operands of one type, %s has %s and %s", f.Name, f.Weights.Name, f.Activations.Name)
	}
	within("unroll", k.Unroll, 1, 16)
	if k.Unroll%f.KGroup != 0 {
		fail("unroll: %d cuts the groups of %d k of %s", k.Unroll, f.KGroup, f.Name)
	}
	within("ahead", k.Ahead, 0, 64)
	if k.Sweeps > 1 && k.Ahead%k.Sweeps != 0 && !k.Across {
		fail("ahead: %d lines in %d sweeps", k.Ahead, k.Sweeps)
	}
	if s := k.Shape; s != nil {
		if k.MR == 1 && (s.LDA != 0 || s.LDC != 0) {
			fail("shape: a kernel of one row has no distance of rows")
		} else if k.MR > 1 {
			within("lda", s.LDA, 4, maxStride)
			within("ldc", s.LDC, 4, maxStride)
		}
		within("k_step", s.KStep, 4, maxStride)
		within("segments", len(s.Segs), 1, 1<<12)
		for i, g := range s.Segs {
			within(fmt.Sprintf("segments[%d].length", i), g.Len, 1, f.MaxKC)
			within(fmt.Sprintf("segments[%d].offset", i), g.Off, 0, 1<<30)
		}
		if len(s.Segs) > 1 && s.Segs[0].Len%f.KGroup != 0 {
			fail("segments: those of %d k cut the groups of %d of %s", s.Segs[0].Len, f.KGroup, f.Name)
		}
		if !Uniform(s.Segs) {
			fail("segments: the first begins at 0, all are equally long and equally far apart")
		}
		within("depth", s.K(), 1, f.MaxKC)
		if f.Packs() && (len(s.Segs) != 1 || s.K()%f.KGroup != 0 || s.KStep != EntryBytes) {
			fail("shape: %s reads packed rows: one segment of whole groups of %d, whose step is left at %d", f.Name, f.KGroup, EntryBytes)
		}
		for _, v := range []int{s.LDA, s.LDC, s.KStep} {
			if v%4 != 0 {
				fail("shape: %d is no multiple of an entry's bytes", v)
			}
		}
	}
	return errors.Join(errs...)
}

// Uniform reports whether segments that begin at 0 are equally long and equally
// far apart: a specialised kernel walks them with one loop.
func Uniform(segs []Segment) bool {
	for i, s := range segs {
		if s.Len != segs[0].Len || i > 0 && s.Off-segs[i-1].Off != segs[1].Off-segs[0].Off {
			return false
		}
	}
	return len(segs) > 0 && segs[0].Off == 0
}
