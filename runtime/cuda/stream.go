package cuda

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"unsafe"

	"github.com/structuredffn/sffn/runtime/cuda/driver"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// Stream is work in order. Its methods only enqueue, but for those that say that
// they wait, and report what earlier work did wrong. It belongs to one caller.
type Stream struct {
	d  *Device
	at driver.Stream
	// args is where launches find their arguments: host memory, because Go's may
	// not hold pointers for C. The driver copies them in the call.
	args *Host
}

// maxArgs bounds the parameters of a kernel.
const maxArgs = table.MaxParams

// NewStream returns an empty stream.
func (d *Device) NewStream() (*Stream, error) {
	s := &Stream{d: d}
	var err error
	if s.args, err = d.AllocHost(16 * maxArgs); err != nil {
		return nil, err
	}
	if err = d.do("cuStreamCreate", func() driver.Result { return d.api.StreamCreate(&s.at, driver.StreamNonBlocking) }); err != nil {
		return nil, errors.Join(err, s.args.Close())
	}
	return s, nil
}

// Close waits for the work and frees the stream.
func (s *Stream) Close() error {
	return errors.Join(s.Wait(),
		s.d.do("cuStreamDestroy", func() driver.Result { return s.d.api.StreamDestroy(s.at) }), s.args.Close())
}

// Wait waits for all of the stream's work.
func (s *Stream) Wait() error {
	return s.d.do("cuStreamSynchronize", func() driver.Result { return s.d.api.StreamSynchronize(s.at) })
}

// Arg is an argument of a kernel: a Buffer, a Uint32, an Int or a Float32.
type Arg interface{ value() uint64 }

// Numbers among a kernel's arguments. An Int goes where a uint32 does, and is an
// error of the launch where it does not fit.
type (
	Uint32  uint32
	Int     int
	Float32 float32
)

// Float32Bits is the Float32 of these bits.
func Float32Bits(bits uint32) Float32 { return Float32(math.Float32frombits(bits)) }

func (b Buffer) value() uint64  { return uint64(b.at) }
func (n Uint32) value() uint64  { return uint64(n) }
func (n Int) value() uint64     { return uint64(n) }
func (f Float32) value() uint64 { return uint64(math.Float32bits(float32(f))) }

// Args are the arguments of a launch, by the names of the row's parameters.
// Counts need not be given, nor optional arrays.
type Args map[string]Arg

// Launch runs a kernel once. Arrays that are smaller than the row says, names
// that it has not, counts and grids that are out of range are errors, and with
// [Device.Sync] so is what the kernel does wrong.
func (s *Stream) Launch(k *Kernel, c table.Counts, a Args) error {
	if err := checkCounts(k, c); err != nil {
		return err
	}
	g, err := grid(k, c)
	if err != nil {
		return err
	}
	at := unsafe.Slice((*unsafe.Pointer)(s.args.at), maxArgs)
	values := unsafe.Slice((*uint64)(unsafe.Add(s.args.at, 8*maxArgs)), maxArgs)
	given := 0
	for i, p := range k.Params {
		v, ok := a[p.Name]
		if ok {
			given++
		}
		switch {
		case ok && !fits(p, v):
			return fmt.Errorf("cuda: %s: %s is no %s", k.Name, p.Name, p.Type)
		case ok && p.Type.Array():
			if b, want := v.(Buffer), p.Bytes(c); b.size < want {
				return fmt.Errorf("cuda: %s: %s has %d bytes, want %d for %v", k.Name, p.Name, b.size, want, c)
			}
			values[i] = v.value()
		case ok:
			if n, is := v.(Int); is && (n < 0 || uint64(n) > math.MaxUint32) {
				return fmt.Errorf("cuda: %s: %s is %d, want 0 to %d", k.Name, p.Name, n, uint32(math.MaxUint32))
			}
			values[i] = v.value()
		case p.Type.Array() && p.Optional:
			values[i] = 0
		case p.Count != "":
			values[i] = uint64(c[p.Count])
		default:
			return fmt.Errorf("cuda: %s: no argument for %s", k.Name, p.Name)
		}
		at[i] = unsafe.Pointer(&values[i])
	}
	if given != len(a) {
		return fmt.Errorf("cuda: %s: %d arguments, of which it has %d", k.Name, len(a), given)
	}
	if err := s.d.do("cuLaunchKernel of "+k.Name, func() driver.Result {
		return s.d.api.LaunchKernel(k.function, g[0], g[1], g[2], uint32(k.Threads), 1, 1, uint32(k.SharedBytes), s.at, s.args.at, nil)
	}); err != nil {
		return err
	}
	if err := s.settle(); err != nil {
		return fmt.Errorf("cuda: %s for %v: %w", k.Name, c, err)
	}
	return nil
}

// settle waits for what was just enqueued where the device is to be waited for.
func (s *Stream) settle() error {
	if !s.d.Sync {
		return nil
	}
	return s.Wait()
}

// fits reports whether an argument is of the parameter's type.
func fits(p table.Param, a Arg) bool {
	switch a.(type) {
	case Buffer:
		return p.Type.Array()
	case Uint32, Int:
		return p.Type == table.Uint32
	case Float32:
		return p.Type == table.Float32
	}
	return false
}

// Clear fills a buffer with zeros.
func (s *Stream) Clear(b Buffer) error {
	return s.d.do("cuMemsetD8Async", func() driver.Result { return s.d.api.MemsetD8Async(b.at, 0, uint64(b.size), s.at) })
}

// Copy copies the shorter of two buffers' sizes between them.
func (s *Stream) Copy(to, from Buffer) error {
	n := uint64(min(to.size, from.size))
	return s.d.do("cuMemcpyDtoDAsync", func() driver.Result { return s.d.api.MemcpyDtoDAsync(to.at, from.at, n, s.at) })
}

// Push copies host memory to the start of a buffer, and Pull the start of a
// buffer to host memory: n bytes, which the host must leave alone until then.
func (s *Stream) Push(to Buffer, from *Host, n int) error {
	if n > to.size || n > from.n {
		return fmt.Errorf("cuda: a copy of %d bytes from %d of the host to %d of the device", n, from.n, to.size)
	}
	return s.d.do("cuMemcpyHtoDAsync", func() driver.Result { return s.d.api.MemcpyHtoDAsync(to.at, from.at, uint64(n), s.at) })
}

// Pull is Push's counterpart.
func (s *Stream) Pull(to *Host, from Buffer, n int) error {
	if n > from.size || n > to.n {
		return fmt.Errorf("cuda: a copy of %d bytes from %d of the device to %d of the host", n, from.size, to.n)
	}
	return s.d.do("cuMemcpyDtoHAsync", func() driver.Result { return s.d.api.MemcpyDtoHAsync(to.at, from.at, uint64(n), s.at) })
}

// Upload copies values to the start of a buffer, and waits.
func Upload[T number](s *Stream, to Buffer, v []T) error {
	if n := size(v); n > to.size {
		return fmt.Errorf("cuda: %d bytes for a buffer of %d", n, to.size)
	}
	return transfer(s, "cuMemcpyHtoDAsync", v, func(p unsafe.Pointer, n uint64) driver.Result {
		return s.d.api.MemcpyHtoDAsync(to.at, p, n, s.at)
	})
}

// Download copies the start of a buffer to values, and waits.
func Download[T number](s *Stream, v []T, from Buffer) error {
	if n := size(v); n > from.size {
		return fmt.Errorf("cuda: %d bytes of a buffer of %d", n, from.size)
	}
	return transfer(s, "cuMemcpyDtoHAsync", v, func(p unsafe.Pointer, n uint64) driver.Result {
		return s.d.api.MemcpyDtoHAsync(p, from.at, n, s.at)
	})
}

// number is what arrays hold.
type number interface {
	uint8 | uint16 | int32 | uint32 | float32
}

// size is that of values in bytes.
func size[T number](v []T) int { return len(v) * int(unsafe.Sizeof(*new(T))) }

// transfer has a call of the driver copy values, and waits. They stay where they are
// until then: a copy goes on after the call that enqueued it.
func transfer[T number](s *Stream, call string, v []T, do func(p unsafe.Pointer, n uint64) driver.Result) error {
	if len(v) == 0 {
		return nil
	}
	var pinner runtime.Pinner
	pinner.Pin(&v[0])
	defer pinner.Unpin()
	if err := s.d.do(call, func() driver.Result { return do(unsafe.Pointer(&v[0]), uint64(size(v))) }); err != nil {
		return err
	}
	return s.Wait()
}

// Event is a point in a stream's work.
type Event struct {
	d  *Device
	at driver.Event
}

// Record returns the event of all work that the stream has so far.
func (s *Stream) Record() (*Event, error) {
	e := &Event{d: s.d}
	if err := s.d.do("cuEventCreate", func() driver.Result { return s.d.api.EventCreate(&e.at, 0) }); err != nil {
		return nil, err
	}
	if err := s.d.do("cuEventRecord", func() driver.Result { return s.d.api.EventRecord(e.at, s.at) }); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	return e, nil
}

// Since is the time between two events that have been waited for, in seconds.
func (e *Event) Since(start *Event) (float64, error) {
	var ms float32
	err := e.d.do("cuEventElapsedTime", func() driver.Result { return e.d.api.EventElapsedTime(&ms, start.at, e.at) })
	return float64(ms) / 1e3, err
}

// Close frees the event.
func (e *Event) Close() error {
	return e.d.do("cuEventDestroy", func() driver.Result { return e.d.api.EventDestroy(e.at) })
}

// Graph is work that was recorded once and runs as one launch.
type Graph struct {
	d    *Device
	exec driver.GraphExec
}

// Capture records what f enqueues on the stream, which it may not wait for, and
// runs none of it. With [Device.Sync] it is an error: what is recorded cannot be
// waited for.
func (s *Stream) Capture(f func() error) (*Graph, error) {
	if s.d.Sync {
		return nil, fmt.Errorf("cuda: no graph is recorded with %s, which waits for each kernel", EnvSync)
	}
	// A capture begins and ends on one thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	d, api := s.d, s.d.api
	if err := d.do("cuStreamBeginCapture", func() driver.Result { return api.StreamBeginCapture(s.at, driver.CaptureThreadLocal) }); err != nil {
		return nil, err
	}
	err := f()
	var g driver.Graph
	err = errors.Join(err, d.do("cuStreamEndCapture", func() driver.Result { return api.StreamEndCapture(s.at, &g) }))
	if g == 0 {
		return nil, err
	}
	x := &Graph{d: d}
	if err == nil {
		err = d.do("cuGraphInstantiate", func() driver.Result { return api.GraphInstantiate(&x.exec, g, 0) })
	}
	return x, errors.Join(err, d.do("cuGraphDestroy", func() driver.Result { return api.GraphDestroy(g) }))
}

// Launch runs the graph's work on a stream.
func (g *Graph) Launch(s *Stream) error {
	if err := g.d.do("cuGraphLaunch", func() driver.Result { return g.d.api.GraphLaunch(g.exec, s.at) }); err != nil {
		return err
	}
	return s.settle()
}

// Close frees the graph.
func (g *Graph) Close() error {
	return g.d.do("cuGraphExecDestroy", func() driver.Result { return g.d.api.GraphExecDestroy(g.exec) })
}
