package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/structuredffn/sffn/gen/plan"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/vec"
)

// MismatchError says that a device does not compute what the CPU does.
type MismatchError struct {
	Device, Kernel, Array string
	Entry                 int
	Got, Want             float32
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("self-test: %s on %s: entry %d of %s is %v, the CPU's kernels say %v; the device is not used", e.Kernel, e.Device, e.Entry, e.Array, e.Got, e.Want)
}

// trial is one run of a kernel on random numbers.
type trial struct {
	plan.GPUKernel
	counts plan.GPUCountsOf
	// arrays hold what the kernel reads, as the device has it: rounded to the
	// array's type. numbers are the arguments that are no counts.
	arrays  map[string][]float32
	numbers map[string]Arg
	rng     *rand.Rand
	cpu     rt.Options
	vec     *vec.Table
}

// family is how kernels of one template are tried: prepare sets counts, arrays
// and numbers where what is drawn at random does not suit, and want computes with
// the CPU's kernels what the written arrays must hold.
type family struct {
	prepare func(*trial)
	want    func(*trial) (map[string][]float32, error)
}

// families has one entry for each template.
var families = map[string]family{
	"gemm": {prepareProduct, wantProduct}, "sgemm": {prepareProduct, wantProduct}, "finish": {prepareFinish, wantFinish},
	"sum": {prepareSum, wantSum}, "columns": {prepareColumns, wantColumns}, "cast": {nil, wantCast},
	"norm": {prepareNorm, wantNorm}, "embed": {prepareEmbed, wantEmbed}, "rotate": {prepareRotate, wantRotate}, "loss": {prepareLoss, wantLoss},
	"adamw": {prepareAdamW, wantAdamW}, "pack_bf16": {nil, wantPack}, "sum_squares": {nil, wantSquares}, "clip_norm": {prepareClip, wantClip},
	"attend": {prepareAttention, wantAttention}, "attend_rows": {prepareAttention, wantAttention}, "delta": {prepareAttention, wantAttention},
}

// testTokens are the rows of a trial: one full tile of 16 and a part of another.
const testTokens = 17

// selfTest tries kernels before anybody else may use them.
func (d *Device) selfTest(ks []plan.GPUKernel, loaded map[string]*Kernel) (err error) {
	if len(ks) == 0 {
		return nil
	}
	isa, err := kernel.Default()
	if err != nil {
		return err
	}
	s, err := d.NewStream()
	if err != nil {
		return err
	}
	defer func() {
		if e := s.Close(); err == nil {
			err = e
		}
	}()
	pool := rt.NewPool(0)
	defer pool.Close()
	for i, k := range ks {
		f, ok := families[k.Template]
		if !ok {
			return fmt.Errorf("cuda: no self-test for kernels of %s", k.Template)
		}
		t := &trial{GPUKernel: k, counts: plan.GPUCountsOf{plan.Tokens: testTokens, plan.Parts: 1, plan.Entries: testEntries}, arrays: map[string][]float32{}, numbers: map[string]Arg{},
			rng: rand.New(rand.NewPCG(1, uint64(i))), cpu: rt.Options{ISA: isa, Pool: pool}, vec: vec.For(isa)}
		if err := t.run(d, s, loaded[k.Name], f); err != nil {
			return err
		}
	}
	d.pool.mu.Lock()
	defer d.pool.mu.Unlock()
	return d.pool.trim()
}

// run tries one kernel.
func (t *trial) run(d *Device, s *Stream, k *Kernel, f family) error {
	t.redraw()
	if f.prepare != nil {
		f.prepare(t)
	}
	args := Args{}
	for name, n := range t.numbers {
		args[name] = n
	}
	for _, p := range t.Params {
		if !p.Type.Array() || p.Bytes(t.counts) == 0 {
			continue
		}
		b, err := d.Alloc(p.Bytes(t.counts))
		if err != nil {
			return fmt.Errorf("self-test: %w", err)
		}
		defer d.Free(b)
		args[p.Name] = b
		if v := t.arrays[p.Name]; v != nil {
			err = upload(s, b, p.Type, v)
		} else if p.Access == plan.Read {
			delete(args, p.Name) // an optional array that prepare took away
		}
		if err != nil {
			return err
		}
	}
	if err := s.Launch(k, t.counts, args); err != nil {
		return fmt.Errorf("self-test: %w", err)
	}
	if err := s.Wait(); err != nil {
		return fmt.Errorf("self-test: %s: %w", t.Name, err)
	}
	want, err := f.want(t)
	if err != nil {
		return err
	}
	for _, p := range t.Params {
		if !p.Type.Array() || p.Access == plan.Read || p.Bytes(t.counts) == 0 {
			continue
		}
		got, err := download(s, args[p.Name].(Buffer), p.Type, p.Len.In(t.counts))
		if err != nil {
			return err
		}
		if i := differs(got, want[p.Name], p.Type); i >= 0 {
			return &MismatchError{Device: d.Name, Kernel: t.Name, Array: p.Name, Entry: i, Got: got[i], Want: want[p.Name][i]}
		}
	}
	return nil
}

// redraw draws all arrays that are read, of the sizes that the counts give.
func (t *trial) redraw() {
	for _, p := range t.Params {
		if p.Type.Array() && p.Access != plan.Written {
			t.arrays[p.Name] = t.draw(p, 1)
		}
	}
}

// written makes room for what the kernel writes.
func (t *trial) written() map[string][]float32 {
	w := map[string][]float32{}
	for _, p := range t.Params {
		if p.Type.Array() && p.Access != plan.Read {
			w[p.Name] = make([]float32, p.Len.In(t.counts))
		}
	}
	return w
}

// draw makes normal numbers for an array, rounded to its type.
func (t *trial) draw(p plan.GPUParam, scale float64) []float32 {
	v := make([]float32, p.Len.In(t.counts))
	for i := range v {
		v[i] = float32(scale * t.rng.NormFloat64())
		if p.Type == plan.ArrayBF16 {
			v[i] = fromBF16(toBF16(v[i]))
		}
	}
	return v
}

// param is the parameter of that name.
func (t *trial) param(name string) plan.GPUParam {
	for _, p := range t.Params {
		if p.Name == name {
			return p
		}
	}
	panic("cuda: " + t.Name + " has no parameter " + name)
}

// differs is the first entry outside the tolerance, -1 where there is none. A
// stored bf16 is off by 2^-9 of itself, and tanh.approx moves an activation or
// its derivative by up to a hundredth of what is typical; sums of float32 differ
// in their order.
func differs(got, want []float32, typ plan.GPUType) int {
	if len(want) != len(got) {
		return 0
	}
	sum := 0.0
	for _, w := range want {
		sum += float64(w) * float64(w)
	}
	typical := math.Sqrt(sum / float64(len(want)))
	rel, abs := 1.0/128, typical/32
	if typ == plan.ArrayFloat32 {
		rel, abs = 1.0/(1<<14), typical/(1<<14)
	}
	for i, w := range want {
		if !(math.Abs(float64(got[i])-float64(w)) <= rel*math.Abs(float64(w))+abs) {
			return i
		}
	}
	return -1
}

// toBF16 rounds to the nearest bf16, ties to even.
func toBF16(f float32) uint16 {
	u := math.Float32bits(f)
	return uint16((u + 0x7fff + u>>16&1) >> 16)
}

func fromBF16(u uint16) float32 { return math.Float32frombits(uint32(u) << 16) }

// upload copies numbers to a buffer of the given type.
func upload(s *Stream, b Buffer, typ plan.GPUType, v []float32) error {
	switch typ {
	case plan.ArrayBF16:
		u := make([]uint16, len(v))
		for i, x := range v {
			u[i] = toBF16(x)
		}
		return Upload(s, b, u)
	case plan.ArrayInt32:
		n := make([]int32, len(v))
		for i, x := range v {
			n[i] = int32(x)
		}
		return Upload(s, b, n)
	}
	return Upload(s, b, v)
}

// download copies n entries of a buffer of the given type.
func download(s *Stream, b Buffer, typ plan.GPUType, n int) ([]float32, error) {
	v := make([]float32, n)
	if typ != plan.ArrayBF16 {
		return v, Download(s, v, b)
	}
	u := make([]uint16, n)
	err := Download(s, u, b)
	for i, x := range u {
		v[i] = fromBF16(x)
	}
	return v, err
}
