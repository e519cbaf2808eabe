package fakecuda

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"time"
	"unsafe"

	"github.com/structuredffn/sffn/internal/ptx"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

const (
	smallShared = 48 << 10 // what any launch may have
	maxShared   = 163 << 10
	maxModule   = 64 << 20
)

// API is the driver's table of functions.
func (d *Device) API() *driver.API {
	// of runs a call about one of the devices.
	of := func(dev driver.Device, f func() driver.Result) driver.Result {
		if dev < 0 || int(dev) >= len(d.UUIDs) {
			return driver.InvalidDevice
		}
		return f()
	}
	return &driver.API{
		Library: "PTX interpreter",
		Init: func(uint32) driver.Result {
			if d.Absent {
				return driver.NoDevice
			}
			return driver.Success
		},
		DriverGetVersion: func(v *int32) driver.Result { *v = int32(d.Version); return driver.Success },
		GetErrorName: func(r driver.Result, p **byte) driver.Result {
			if *p = d.names[r]; *p == nil {
				return driver.InvalidValue
			}
			return driver.Success
		},
		GetErrorString: func(r driver.Result, p **byte) driver.Result {
			d.mu.Lock()
			defer d.mu.Unlock()
			if *p = d.names[r]; r == driver.LaunchFailed {
				*p = d.report
			}
			if *p == nil {
				return driver.InvalidValue
			}
			return driver.Success
		},
		DeviceGetCount: func(n *int32) driver.Result { *n = int32(len(d.UUIDs)); return driver.Success },
		DeviceGet: func(dev *driver.Device, i int32) driver.Result {
			return of(driver.Device(i), func() driver.Result { *dev = driver.Device(i); return driver.Success })
		},
		DeviceGetName: func(name *byte, size int32, dev driver.Device) driver.Result {
			return of(dev, func() driver.Result {
				copy(unsafe.Slice(name, size), "PTX interpreter\x00")
				return driver.Success
			})
		},
		DeviceGetAttribute: func(v *int32, a driver.Attribute, dev driver.Device) driver.Result {
			return of(dev, func() driver.Result {
				n, ok := map[driver.Attribute]int{driver.Multiprocessors: 4, driver.ComputeMajor: d.Compute[0], driver.ComputeMinor: d.Compute[1], driver.MaxSharedOptin: maxShared,
					driver.ClockRate: 1_410_000, driver.MemoryClockRate: 1_215_000, driver.MemoryBusWidth: 5120, driver.L2CacheSize: 64 << 10}[a]
				if !ok {
					return driver.InvalidValue
				}
				*v = int32(n)
				return driver.Success
			})
		},
		DeviceGetUUID: func(u *driver.UUID, dev driver.Device) driver.Result {
			return of(dev, func() driver.Result { *u = d.UUIDs[dev]; return driver.Success })
		},
		DeviceTotalMem: func(n *uint64, dev driver.Device) driver.Result {
			return of(dev, func() driver.Result { *n = d.Memory; return driver.Success })
		},
		PrimaryCtxRetain: func(c *driver.Context, dev driver.Device) driver.Result {
			return of(dev, func() driver.Result {
				d.mu.Lock()
				defer d.mu.Unlock()
				d.retained[dev]++
				*c = contextOf(dev)
				return driver.Success
			})
		},
		PrimaryCtxRelease: func(dev driver.Device) driver.Result {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.retained[dev] == 0 {
				return driver.InvalidContext
			}
			if d.retained[dev]--; d.retained[dev] == 0 {
				delete(d.retained, dev)
			}
			return driver.Success
		},
		CtxSetCurrent: func(c driver.Context) driver.Result {
			d.mu.Lock()
			defer d.mu.Unlock()
			known := c == 0
			for dev := range d.retained {
				known = known || c == contextOf(dev)
			}
			if !known {
				return driver.InvalidContext
			}
			d.current[thread()] = c != 0
			return driver.Success
		},
		ModuleLoadDataEx:  d.moduleLoad,
		ModuleUnload:      func(m driver.Module) driver.Result { return remove(d, d.modules, m) },
		ModuleGetFunction: in3(d, d.moduleGetFunction),
		FuncSetAttribute: in3(d, func(f driver.Function, a, v int32) driver.Result {
			k, ok := d.kernels[f]
			if !ok || a != driver.MaxDynamicShared || v < 0 || v > maxShared {
				return driver.InvalidValue
			}
			k.shared = int(v)
			return driver.Success
		}),
		MemGetInfo: in2(d, func(free, total *uint64) driver.Result {
			*free, *total = d.Memory-d.used, d.Memory
			return driver.Success
		}),
		MemAlloc:     in2(d, d.memAlloc),
		MemFree:      in1(d, d.memFree),
		MemAllocHost: in2(d, d.memAllocHost),
		MemFreeHost: func(p unsafe.Pointer) driver.Result {
			if r := d.in(d.drainAll); r != driver.Success {
				return r
			}
			return remove(d, d.host, p)
		},
		MemcpyHtoDAsync: func(to driver.Pointer, from unsafe.Pointer, n uint64, s driver.Stream) driver.Result {
			return d.copying(to, n, s, func(dst []byte) {
				copy(dst, unsafe.Slice((*byte)(from), n))
				if d.TamperCopy != nil {
					d.TamperCopy(dst)
				}
			})
		},
		MemcpyDtoHAsync: func(to unsafe.Pointer, from driver.Pointer, n uint64, s driver.Stream) driver.Result {
			return d.in(func() driver.Result {
				b, off := d.find(from, n)
				if b == nil {
					return driver.InvalidValue
				}
				return d.enqueue(s, func() driver.Result {
					copy(unsafe.Slice((*byte)(to), n), b.Bytes()[off:])
					return driver.Success
				})
			})
		},
		MemcpyDtoDAsync: func(to, from driver.Pointer, n uint64, s driver.Stream) driver.Result {
			d.mu.Lock()
			b, off := d.find(from, n)
			d.mu.Unlock()
			if b == nil {
				return driver.InvalidValue
			}
			return d.copying(to, n, s, func(dst []byte) { copy(dst, b.Bytes()[off:]) })
		},
		MemsetD8Async: func(p driver.Pointer, v uint8, n uint64, s driver.Stream) driver.Result {
			return d.copying(p, n, s, func(dst []byte) { copy(dst, bytes.Repeat([]byte{v}, len(dst))) })
		},
		StreamCreate: in2(d, func(s *driver.Stream, _ uint32) driver.Result {
			*s = driver.Stream(d.handle())
			d.streams[*s] = &stream{}
			return driver.Success
		}),
		StreamDestroy:      func(s driver.Stream) driver.Result { return remove(d, d.streams, s) },
		StreamSynchronize:  in1(d, d.synchronize),
		StreamBeginCapture: in2(d, d.beginCapture),
		StreamEndCapture:   in2(d, d.endCapture),
		EventCreate: in2(d, func(e *driver.Event, _ uint32) driver.Result {
			*e = driver.Event(d.handle())
			d.events[*e] = new(time.Time)
			return driver.Success
		}),
		EventDestroy: func(e driver.Event) driver.Result { return remove(d, d.events, e) },
		EventRecord:  in2(d, d.record),
		EventElapsedTime: in3(d, func(ms *float32, start, end driver.Event) driver.Result {
			a, b := d.events[start], d.events[end]
			if a == nil || b == nil || a.IsZero() || b.IsZero() {
				return driver.InvalidHandle
			}
			*ms = float32(b.Sub(*a).Seconds() * 1e3)
			return driver.Success
		}),
		GraphInstantiate: in3(d, func(x *driver.GraphExec, g driver.Graph, _ uint64) driver.Result {
			ops, ok := d.graphs[g]
			if !ok {
				return driver.InvalidHandle
			}
			*x = driver.GraphExec(d.handle())
			d.execs[*x] = ops
			return driver.Success
		}),
		GraphLaunch: in2(d, func(x driver.GraphExec, s driver.Stream) driver.Result {
			ops, ok := d.execs[x]
			if !ok {
				return driver.InvalidHandle
			}
			for _, o := range ops {
				if r := d.enqueue(s, o); r != driver.Success {
					return r
				}
			}
			return driver.Success
		}),
		GraphExecDestroy: func(x driver.GraphExec) driver.Result { return remove(d, d.execs, x) },
		GraphDestroy:     func(g driver.Graph) driver.Result { return remove(d, d.graphs, g) },
		LaunchKernel:     d.launchKernel,
	}
}

// in1, in2 and in3 make calls of so many parameters those that need a context.
func in1[A any](d *Device, f func(A) driver.Result) func(A) driver.Result {
	return func(a A) driver.Result { return d.in(func() driver.Result { return f(a) }) }
}

func in2[A, B any](d *Device, f func(A, B) driver.Result) func(A, B) driver.Result {
	return func(a A, b B) driver.Result { return d.in(func() driver.Result { return f(a, b) }) }
}

func in3[A, B, C any](d *Device, f func(A, B, C) driver.Result) func(A, B, C) driver.Result {
	return func(a A, b B, c C) driver.Result { return d.in(func() driver.Result { return f(a, b, c) }) }
}

// contextOf is the primary context of a device.
func contextOf(dev driver.Device) driver.Context { return 0x4000_0000_0010 + driver.Context(dev)<<12 }

// ptxVersion is the newest version that the driver knows.
const ptxVersion = "8.4"

func (d *Device) moduleLoad(m *driver.Module, image *byte, n uint32, options, values unsafe.Pointer) driver.Result {
	return d.in(func() driver.Result {
		log, ok := d.errorLog(n, options, values)
		if !ok {
			return driver.InvalidValue
		}
		text, r := d.text(image)
		if r != driver.Success {
			return r
		}
		if d.Tamper != nil {
			text = d.Tamper(text)
		}
		mod, err := ptx.Parse(text)
		if err != nil {
			log(err.Error())
			return driver.InvalidPTX
		}
		if mod.Version > ptxVersion {
			log(fmt.Sprintf("PTX %s is newer than this driver, which knows %s", mod.Version, ptxVersion))
			return driver.UnsupportedPTX
		}
		*m = driver.Module(d.handle())
		d.modules[*m] = mod
		return driver.Success
	})
}

// errorLog is where a module's errors are written to. Options, values and logs
// must be in host memory: C may not follow addresses in Go's.
func (d *Device) errorLog(n uint32, options, values unsafe.Pointer) (write func(string), ok bool) {
	write = func(string) {}
	if n == 0 {
		return write, true
	}
	os, vs := d.hostMemory(uintptr(options), 4*uint64(n)), d.hostMemory(uintptr(values), 8*uint64(n))
	if os == nil || vs == nil {
		return nil, false
	}
	at, size := map[driver.JITOption]uintptr{}, map[driver.JITOption]uint64{}
	for i := range n {
		o, v := driver.JITOption(binary.LittleEndian.Uint32(os[4*i:])), binary.LittleEndian.Uint64(vs[8*i:])
		switch o {
		case driver.InfoLogBuffer, driver.ErrorLogBuffer:
			at[o] = uintptr(v)
		case driver.InfoLogBytes, driver.ErrorLogBytes:
			size[o-1] = v
		default:
			return nil, false
		}
	}
	for o, p := range at {
		buffer := d.hostMemory(p, size[o])
		if len(buffer) == 0 {
			return nil, false
		}
		if o == driver.ErrorLogBuffer {
			write = func(text string) { buffer[copy(buffer[:len(buffer)-1], text)] = 0 }
		}
	}
	return write, true
}

// hostMemory is n bytes of host memory, nil where they are not inside one buffer.
func (d *Device) hostMemory(at uintptr, n uint64) []byte {
	for p, b := range d.host {
		if off := uint64(at) - uint64(uintptr(p)); at >= uintptr(p) && off <= uint64(len(b)) && uint64(len(b))-off >= n {
			return b[off : off+n]
		}
	}
	return nil
}

// text is the PTX that an image is, or that its machine code was assembled from.
func (d *Device) text(image *byte) (string, driver.Result) {
	if text := driver.String(image, maxModule); !strings.HasPrefix(text, fatbinMagic) {
		return text, driver.Success
	}
	size := binary.LittleEndian.Uint64(unsafe.Slice(image, 16)[8:])
	if size > maxModule || d.Assembled == nil {
		return "", driver.InvalidImage
	}
	fatbin := unsafe.Slice(image, 16+size)
	if r := d.fits(fatbin[16:]); r != driver.Success {
		return "", r
	}
	if text := d.Assembled(fatbin); text != "" {
		return text, driver.Success
	}
	return "", driver.InvalidImage
}

// fatbinMagic begins machine code for several chips: 16 bytes of which the last
// eight are the size of the rest, then entries, each with a head of its own.
const fatbinMagic = "\x50\xed\x55\xba"

// fits looks for an entry that the device can run: of its major compute
// capability, and no newer.
func (d *Device) fits(entries []byte) driver.Result {
	const machineCode = 2
	r := driver.NoBinaryForGPU
	for len(entries) > 0 {
		if len(entries) < 64 {
			return driver.InvalidImage
		}
		kind, head := binary.LittleEndian.Uint16(entries), binary.LittleEndian.Uint32(entries[4:])
		size, sm := binary.LittleEndian.Uint64(entries[8:]), int(binary.LittleEndian.Uint32(entries[28:]))
		if size > maxModule || head < 64 || uint64(head)+size > uint64(len(entries)) {
			return driver.InvalidImage
		}
		if kind == machineCode && sm/10 == d.Compute[0] && sm%10 <= d.Compute[1] {
			r = driver.Success
		}
		entries = entries[uint64(head)+size:]
	}
	return r
}

func (d *Device) moduleGetFunction(f *driver.Function, m driver.Module, name *byte) driver.Result {
	mod, ok := d.modules[m]
	if !ok {
		return driver.InvalidHandle
	}
	k := mod.Kernels[driver.String(name, maxModule)]
	if k == nil {
		return driver.NotFound
	}
	*f = driver.Function(d.handle())
	d.kernels[*f] = &function{Kernel: k, shared: smallShared}
	return driver.Success
}

func (d *Device) memAlloc(p *driver.Pointer, n uint64) driver.Result {
	switch {
	case n == 0:
		return driver.InvalidValue
	case d.capturing():
		return driver.Capturing
	case n > d.Memory-d.used:
		return driver.OutOfMemory
	}
	b := d.mem.Device(int(n))
	*p = driver.Pointer(b.Address)
	d.buffers[*p] = b
	d.used += n
	return driver.Success
}

func (d *Device) memFree(p driver.Pointer) driver.Result {
	b, ok := d.buffers[p]
	if !ok {
		return driver.InvalidValue
	}
	if r := d.drainAll(); r != driver.Success {
		return r
	}
	d.used -= uint64(len(b.Bytes()))
	d.mem.Remove(b)
	delete(d.buffers, p)
	return driver.Success
}

func (d *Device) memAllocHost(p *unsafe.Pointer, n uint64) driver.Result {
	if n == 0 || n > d.Memory {
		return driver.InvalidValue
	}
	b := make([]uint64, (n+7)/8)
	*p = unsafe.Pointer(&b[0])
	d.host[*p] = unsafe.Slice((*byte)(*p), n)
	return driver.Success
}

// copying enqueues a write of n bytes to device memory.
func (d *Device) copying(to driver.Pointer, n uint64, s driver.Stream, write func(dst []byte)) driver.Result {
	return d.in(func() driver.Result {
		b, off := d.find(to, n)
		if b == nil {
			return driver.InvalidValue
		}
		return d.enqueue(s, func() driver.Result {
			write(b.Bytes()[off : off+int(n)])
			b.Wrote(off, int(n))
			return driver.Success
		})
	})
}

func (d *Device) synchronize(s driver.Stream) driver.Result {
	st, ok := d.streams[s]
	switch {
	case !ok:
		return driver.InvalidHandle
	case st.capturing:
		return driver.Capturing
	}
	return d.drain(st, st.done+len(st.queue))
}

func (d *Device) record(e driver.Event, s driver.Stream) driver.Result {
	ev, st := d.events[e], d.streams[s]
	switch {
	case ev == nil || st == nil:
		return driver.InvalidHandle
	case st.capturing:
		return driver.Capturing // the driver takes it, this one does not
	}
	st.queue = append(st.queue, func() driver.Result { *ev = time.Now(); return driver.Success })
	return driver.Success
}

func (d *Device) beginCapture(s driver.Stream, _ int32) driver.Result {
	st, ok := d.streams[s]
	if !ok || st.capturing {
		return driver.InvalidHandle
	}
	st.capturing, st.captured = true, nil
	return driver.Success
}

func (d *Device) endCapture(s driver.Stream, g *driver.Graph) driver.Result {
	st, ok := d.streams[s]
	if !ok || !st.capturing {
		return driver.InvalidHandle
	}
	st.capturing = false
	*g = driver.Graph(d.handle())
	d.graphs[*g] = st.captured
	return driver.Success
}

func (d *Device) launchKernel(f driver.Function, gx, gy, gz, bx, by, bz, shared uint32, s driver.Stream, args, extra unsafe.Pointer) driver.Result {
	return d.in(func() driver.Result {
		k, ok := d.kernels[f]
		switch {
		case !ok:
			return driver.InvalidHandle
		case by != 1 || bz != 1 || extra != nil, int(shared) > k.shared, int(bx) > k.Threads,
			gx == 0, gy == 0 || gy > 65535, gz == 0 || gz > 65535, args == nil && len(k.Params) > 0:
			return driver.InvalidValue
		}
		values := arguments(k.Kernel, args)
		return d.enqueue(s, func() driver.Result {
			return d.launch(k, [3]int{int(gx), int(gy), int(gz)}, int(bx), int(shared), values)
		})
	})
}
