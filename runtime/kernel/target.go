package kernel

import (
	"fmt"
	"os"
	"slices"
	"sync"
)

// Target is a row of the table of targets: an instruction set and the sizes that
// suit a kind of processors which have it. Two rows may share an instruction set;
// results have the same bits on both.
type Target struct {
	Name string `json:"name"`
	ISA  ISA    `json:"isa"`
	// FullWidth says that the row is for processors with two multiply-add units as
	// wide as the registers, in place of those that take two passes or one unit.
	FullWidth bool `json:"full_width"`
	// SlowPairs says that this processor multiplies pairs of bfloat16 no faster than float32
	// that holds them. It is the processor's, and no row of the table has it.
	SlowPairs bool `json:"-"`
	Schedule  `json:"schedule"`
}

// Processor is what tells processors apart that have the same features.
type Processor struct {
	Vendor        string // of cpuid
	Family, Model int
}

// fullWidth is the table of processors with two AVX-512 multiply-add units of 512
// bits, by vendor, family and models from lo to hi. Neither is anything that
// features say, and the bit of cpuid that once did reads 0 in virtual machines.
var fullWidth = []struct {
	vendor         string
	family, lo, hi int
	what           string
}{
	{"AuthenticAMD", 26, 0x00, 0x1f, "Zen 5 servers"}, // laptops' cores, from 0x20 on, take two passes
	{"AuthenticAMD", 26, 0x40, 0x4f, "Zen 5 desktops"},
	{"AuthenticAMD", 26, 0x70, 0x7f, "Zen 5 workstations"},
	{"GenuineIntel", 6, 0x55, 0x55, "Skylake, Cascade Lake and Cooper Lake servers"},
	{"GenuineIntel", 6, 0x6a, 0x6c, "Ice Lake servers"},
	{"GenuineIntel", 6, 0x8f, 0x8f, "Sapphire Rapids"},
	{"GenuineIntel", 6, 0xcf, 0xcf, "Emerald Rapids"},
	{"GenuineIntel", 6, 0xad, 0xae, "Granite Rapids"},
}

// FullWidth reports whether a processor's AVX-512 has two full units.
func (p Processor) FullWidth() bool {
	for _, r := range fullWidth {
		if p.Vendor == r.vendor && p.Family == r.family && p.Model >= r.lo && p.Model <= r.hi {
			return true
		}
	}
	return false
}

// slowPairs is the table of processors that have AVX512_BF16 and multiply with it at half
// the rate of float32's multiply-adds: 88 against 177 GFLOP/s a core (BenchmarkPeak of package vec).
var slowPairs = []struct{ family, model int }{
	{6, 0x8f}, {6, 0xcf}, // Sapphire and Emerald Rapids
}

// SlowPairs reports whether a processor is one of those.
func (p Processor) SlowPairs() bool {
	return p.Vendor == "GenuineIntel" && slices.Contains(slowPairs, struct{ family, model int }{p.Family, p.Model})
}

var targets []Target

// RegisterTargets adds rows to the table of targets; it is for init functions. A
// row that is there already must be the same.
func RegisterTargets(ts ...Target) {
	for _, t := range ts {
		i := slices.IndexFunc(targets, func(o Target) bool { return o.Name == t.Name })
		switch {
		case i < 0:
			if err := t.Validate(); err != nil {
				panic(fmt.Sprintf("kernel: target %s: %v", t.Name, err))
			}
			targets = append(targets, t)
		case targets[i] != t:
			panic(fmt.Sprintf("kernel: a package of this program was generated for another schedule of target %s; generate it again, or give its target another name", t.Name))
		}
	}
}

// Targets lists the targets, best instruction set first.
func Targets() []Target {
	ts := slices.Clone(targets)
	slices.SortStableFunc(ts, func(a, b Target) int { return slices.Index(ISAs, a.ISA) - slices.Index(ISAs, b.ISA) })
	return ts
}

// The environment variables that force an instruction set and a target.
const (
	EnvISA    = "SFFN_ISA"
	EnvTarget = "SFFN_TARGET"
)

// choose picks a target for a processor with the instruction sets given, best
// first: the one that name or isa ask for, or else the best one.
func choose(ts []Target, p Processor, available []ISA, name string, isa ISA) (Target, error) {
	if name != "" {
		i := slices.IndexFunc(ts, func(t Target) bool { return t.Name == name })
		switch {
		case i < 0:
			return Target{}, fmt.Errorf("unknown target %q; valid: %v", name, namesOf(ts))
		case !slices.Contains(available, ts[i].ISA):
			return Target{}, fmt.Errorf("target %s needs %s, which is not available on this machine or in this build; available: %v", name, ts[i].ISA, available)
		case isa != "" && ts[i].ISA != isa:
			return Target{}, fmt.Errorf("target %s is for %s, not for %s", name, ts[i].ISA, isa)
		}
		return ts[i].on(p), nil
	}
	if isa == "" {
		isa = available[0]
	}
	var best *Target
	for i := range ts {
		if t := &ts[i]; t.ISA == isa && (best == nil || t.FullWidth == p.FullWidth() && best.FullWidth != t.FullWidth) {
			best = t
		}
	}
	if best == nil {
		return Target{}, fmt.Errorf("no target for %s is registered", isa)
	}
	return best.on(p), nil
}

// on is the target with what is the processor's.
func (t Target) on(p Processor) Target {
	t.SlowPairs = p.SlowPairs()
	return t
}

func namesOf(ts []Target) (names []string) {
	for _, t := range ts {
		names = append(names, t.Name)
	}
	return names
}

var selected = sync.OnceValues(func() (Target, error) {
	var isa ISA
	if s := os.Getenv(EnvISA); s != "" {
		var err error
		if isa, err = Parse(s); err != nil {
			return Target{}, fmt.Errorf("%s: %w", EnvISA, err)
		}
	}
	t, err := choose(Targets(), processor(), Available(), os.Getenv(EnvTarget), isa)
	if err != nil && os.Getenv(EnvTarget) != "" {
		err = fmt.Errorf("%s: %w", EnvTarget, err)
	}
	return t, err
})

// Default is the instruction set of the default target: the one that SFFN_TARGET
// names, or else the one for this processor and the instruction set that SFFN_ISA
// names, or the best one that it has. The environment is read once.
func Default() (ISA, error) {
	t, err := selected()
	return t.ISA, err
}

// For is the target of an instruction set: the default one, where it is of that
// set, and else the row for this processor.
func For(isa ISA) Target {
	if t, err := selected(); err == nil && t.ISA == isa {
		return t
	}
	t, err := choose(Targets(), processor(), ISAs, "", isa)
	if err != nil {
		panic("kernel: " + err.Error())
	}
	return t
}

// For is the target whose kernels run a format: this one, or, where the processor lacks
// what they need, that of the next instruction set.
func (t *Target) For(f FormatName) *Target {
	format, _ := f.Format()
	for i := slices.Index(ISAs, t.ISA); !Has(format.Needs[t.ISA]...) && i+1 < len(ISAs); i++ {
		lower := For(ISAs[i+1])
		t = &lower
	}
	return t
}
