package cuda

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/structuredffn/sffn/internal/gpuproof"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// Runner runs kernels of a device for proofs: it is a [gpuproof.Runner]. Each
// array lies between canaries, which kernels must leave alone; they are NaN, so
// that what a kernel reads beside an array shows in its results.
type Runner struct {
	d       *Device
	s       *Stream
	kernels map[string]*Kernel
	arrays  []*provenArray
}

// provenArray is an array with its canaries.
type provenArray struct{ whole, inner Buffer }

// canary is the size of each, in bytes, and what they are made of.
const (
	canary      = 64 << 10
	canaryValue = 0xff
)

// NewRunner returns one for kernels by name.
func (d *Device) NewRunner(kernels map[string]*Kernel) (*Runner, error) {
	s, err := d.NewStream()
	if err != nil {
		return nil, err
	}
	return &Runner{d: d, s: s, kernels: kernels}, nil
}

// Close frees what the runner holds of the device. After a launch that failed the
// driver refuses that, too.
func (r *Runner) Close() error { return errors.Join(r.Free(), r.s.Close()) }

// Alloc is that of [gpuproof.Runner].
func (r *Runner) Alloc(_ table.Access, data []byte, n int) (gpuproof.Array, error) {
	b, err := r.d.Alloc(n + 2*canary)
	if err != nil {
		return nil, err
	}
	a := &provenArray{b, b.Slice(canary, n)}
	r.arrays = append(r.arrays, a)
	if err := r.s.fill(b, canaryValue); err != nil {
		return nil, err
	}
	return a, Upload(r.s, a.inner, data)
}

// Launch is that of [gpuproof.Runner].
func (r *Runner) Launch(k table.Kernel, c table.Counts, a gpuproof.Arrays, n gpuproof.Numbers) error {
	loaded := r.kernels[k.Name]
	if loaded == nil {
		return fmt.Errorf("cuda: %s was not loaded", k.Name)
	}
	args := Args{}
	for name, array := range a {
		args[name] = array.(*provenArray).inner
	}
	for _, p := range k.Params {
		switch {
		case p.Type == table.Float32:
			args[p.Name] = Float32Bits(n[p.Name])
		case p.Type == table.Uint32 && p.Count == "":
			args[p.Name] = Uint32(n[p.Name])
		}
	}
	// It is waited for, so that what goes wrong is this kernel's.
	defer func(sync bool) { r.d.Sync = sync }(r.d.Sync)
	r.d.Sync = true
	return r.s.Launch(loaded, c, args)
}

// Read is that of [gpuproof.Runner].
func (r *Runner) Read(a gpuproof.Array) ([]byte, error) {
	inner := a.(*provenArray).inner
	b := make([]byte, inner.size)
	return b, Download(r.s, b, inner)
}

// Free is that of [gpuproof.Runner].
func (r *Runner) Free() error {
	var errs []error
	side := make([]byte, canary)
	intact := bytes.Repeat([]byte{canaryValue}, canary)
	for _, a := range r.arrays {
		for _, at := range []int{0, a.whole.size - canary} {
			if err := Download(r.s, side, a.whole.Slice(at, canary)); err != nil {
				errs = append(errs, err)
				break
			}
			if i := differsAt(side, intact); i >= 0 {
				where := fmt.Sprintf("%d bytes before its begin", canary-i)
				if at > 0 {
					where = fmt.Sprintf("%d bytes behind its end", i)
				}
				errs = append(errs, fmt.Errorf("the kernel wrote beside an array of %d bytes, %s", a.inner.size, where))
			}
		}
		r.d.Free(a.whole)
	}
	r.arrays = nil
	return errors.Join(errs...)
}

func differsAt(a, b []byte) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// fill sets all bytes of a buffer.
func (s *Stream) fill(b Buffer, v uint8) error {
	return s.d.do("cuMemsetD8Async", func() driver.Result { return s.d.api.MemsetD8Async(b.at, v, uint64(b.size), s.at) })
}
