// Package fakecuda is a CUDA driver without a GPU: launches run in the strict
// PTX interpreter, and whatever it finds fails the launch, with its report as the
// error's text. Work waits in its stream until somebody waits for it, so that a
// missing synchronisation shows. It holds callers to the driver's rules: a current
// context on each thread, no allocation while a stream is captured, shared memory
// that a function was allowed, memory freed once.
package fakecuda

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
	"unsafe"

	"github.com/structuredffn/sffn/internal/ptx"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// Device is a fake driver with its devices, which are all alike and share their
// memory.
type Device struct {
	// Version of the driver, 1000 times the major plus 10 times the minor one;
	// Compute capability; bytes of Memory.
	Version int
	Compute [2]int
	Memory  uint64
	// UUIDs of the devices, one for each.
	UUIDs []driver.UUID
	// Absent is a driver without a device.
	Absent bool
	// Seed picks the schedules.
	Seed uint64
	// Assembled gives the PTX that an image of machine code was assembled from, or
	// nothing where it does not know it; that is interpreted in its place. Nil is a
	// driver that is older than any machine code, and refuses it.
	Assembled func(fatbin []byte) (ptx string)
	// Tamper, where not nil, may change a module's text before it is read.
	Tamper func(ptx string) string
	// TamperLaunch, where not nil, may change the grid of a launch, and TamperCopy
	// what a copy has left in device memory: faults of a driver or a device.
	TamperLaunch func(kernel string, grid *[3]int)
	TamperCopy   func(to []byte)

	mu       sync.Mutex
	mem      ptx.Memory
	used     uint64
	current  map[int]bool // threads with a context
	next     uintptr      // the last handle given
	modules  map[driver.Module]*ptx.Module
	kernels  map[driver.Function]*function
	streams  map[driver.Stream]*stream
	events   map[driver.Event]*time.Time // when the stream came to them
	graphs   map[driver.Graph][]op
	execs    map[driver.GraphExec][]op
	buffers  map[driver.Pointer]*ptx.Buffer
	host     map[unsafe.Pointer][]byte
	names    map[driver.Result]*byte
	failure  driver.Result // of a launch: nothing works after it
	report   *byte
	launches map[string]int
	retained map[driver.Device]int
}

type function struct {
	*ptx.Kernel
	shared int
}

// op is a piece of a stream's work.
type op func() driver.Result

type stream struct {
	queue     []op
	done      int // ops that left the queue
	capturing bool
	captured  []op
}

// New returns a driver like that of an A100, with 2 GB of memory.
func New() *Device {
	return &Device{Version: 12040, Compute: [2]int{8, 0}, Memory: 2 << 30, UUIDs: []driver.UUID{{0x5f, 0xfa, 0x4e}},
		current: map[int]bool{}, modules: map[driver.Module]*ptx.Module{}, kernels: map[driver.Function]*function{},
		streams: map[driver.Stream]*stream{}, events: map[driver.Event]*time.Time{}, graphs: map[driver.Graph][]op{},
		execs: map[driver.GraphExec][]op{}, buffers: map[driver.Pointer]*ptx.Buffer{}, host: map[unsafe.Pointer][]byte{},
		launches: map[string]int{}, retained: map[driver.Device]int{},
		names: map[driver.Result]*byte{
			driver.Success: driver.CString("CUDA_SUCCESS"), driver.InvalidValue: driver.CString("CUDA_ERROR_INVALID_VALUE"),
			driver.OutOfMemory: driver.CString("CUDA_ERROR_OUT_OF_MEMORY"), driver.NoDevice: driver.CString("CUDA_ERROR_NO_DEVICE"),
			driver.InvalidContext: driver.CString("CUDA_ERROR_INVALID_CONTEXT"), driver.InvalidHandle: driver.CString("CUDA_ERROR_INVALID_HANDLE"),
			driver.InvalidImage: driver.CString("CUDA_ERROR_INVALID_IMAGE"), driver.NoBinaryForGPU: driver.CString("CUDA_ERROR_NO_BINARY_FOR_GPU"),
			driver.InvalidPTX: driver.CString("CUDA_ERROR_INVALID_PTX"), driver.UnsupportedPTX: driver.CString("CUDA_ERROR_UNSUPPORTED_PTX_VERSION"),
			driver.NotFound: driver.CString("CUDA_ERROR_NOT_FOUND"), driver.LaunchFailed: driver.CString("CUDA_ERROR_LAUNCH_FAILED"),
			driver.InvalidDevice: driver.CString("CUDA_ERROR_INVALID_DEVICE"),
			driver.Capturing:     driver.CString("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"),
		},
	}
}

// Left says what has not been freed, nothing where all has.
func (d *Device) Left() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := []int{len(d.buffers), len(d.host), len(d.streams), len(d.events), len(d.modules), len(d.graphs), len(d.execs)}
	for _, v := range n {
		if v > 0 {
			return fmt.Sprintf("left: %d buffers, %d host buffers, %d streams, %d events, %d modules, %d graphs, %d executable graphs", n[0], n[1], n[2], n[3], n[4], n[5], n[6])
		}
	}
	return ""
}

// Launches counts the launches that ran, by kernel.
func (d *Device) Launches() map[string]int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.launches)
}

// InUse lists the devices whose context somebody holds.
func (d *Device) InUse() []driver.Device {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Sorted(maps.Keys(d.retained))
}

// handle gives out the next handle.
func (d *Device) handle() uintptr {
	d.next++
	return 0x5000_0000_0000 + d.next*16
}

// in runs a call that needs a context.
func (d *Device) in(f func() driver.Result) driver.Result {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.current[thread()] {
		return driver.InvalidContext
	}
	if d.failure != driver.Success {
		return d.failure
	}
	return f()
}

// fail remembers what went wrong; the context is lost, and with it all of the
// process: only another one can use the device.
func (d *Device) fail(text string) driver.Result {
	d.failure, d.report = driver.LaunchFailed, driver.CString(text)
	return d.failure
}

// enqueue adds work to a stream, or to the graph that it is captured in.
func (d *Device) enqueue(s driver.Stream, work op) driver.Result {
	st, ok := d.streams[s]
	switch {
	case !ok:
		return driver.InvalidHandle
	case st.capturing:
		st.captured = append(st.captured, work)
	default:
		st.queue = append(st.queue, work)
	}
	return driver.Success
}

// drain runs a stream's work until so many ops are done.
func (d *Device) drain(s *stream, until int) driver.Result {
	for s.done < until {
		work := s.queue[0]
		s.queue = s.queue[1:]
		s.done++
		if r := work(); r != driver.Success {
			return r
		}
	}
	return driver.Success
}

// drainAll is what calls that free memory wait for.
func (d *Device) drainAll() driver.Result {
	for _, s := range d.streams {
		if r := d.drain(s, s.done+len(s.queue)); r != driver.Success {
			return r
		}
	}
	return driver.Success
}

func (d *Device) capturing() bool {
	for _, s := range d.streams {
		if s.capturing {
			return true
		}
	}
	return false
}

// find is device memory, nil where a pointer and a size are not inside one
// buffer.
func (d *Device) find(p driver.Pointer, n uint64) (b *ptx.Buffer, off int) {
	if n > d.Memory {
		return nil, 0
	}
	return d.mem.Find(uint64(p), int(n))
}

func (d *Device) launch(k *function, grid [3]int, block, shared int, args []uint64) driver.Result {
	d.Seed++
	if d.TamperLaunch != nil {
		d.TamperLaunch(k.Name, &grid)
	}
	r, err := k.Run(&d.mem, ptx.Launch{Grid: grid, Block: block, Shared: shared, Seed: d.Seed, Args: args})
	if err != nil {
		return d.fail(err.Error())
	}
	if len(r.Findings) > 0 {
		return d.fail(r.Findings[0].String())
	}
	d.launches[k.Name]++
	return driver.Success
}

// arguments copies the values that a launch's pointers lead to.
func arguments(k *ptx.Kernel, args unsafe.Pointer) []uint64 {
	if args == nil {
		return nil
	}
	var values []uint64
	for i, size := range k.Params {
		p := *(*unsafe.Pointer)(unsafe.Add(args, i*int(unsafe.Sizeof(args))))
		var b [8]byte
		copy(b[:], unsafe.Slice((*byte)(p), size))
		values = append(values, binary.LittleEndian.Uint64(b[:]))
	}
	return values
}

// remove takes a handle out of its table.
func remove[H comparable, T any](d *Device, m map[H]T, h H) driver.Result {
	return d.in(func() driver.Result {
		if _, ok := m[h]; !ok {
			return driver.InvalidHandle
		}
		delete(m, h)
		return driver.Success
	})
}
