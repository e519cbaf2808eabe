// Package cuda runs generated kernels on an NVIDIA GPU: devices with their
// memory, streams, graphs and loaded kernels, on any table of driver functions.
// [github.com/structuredffn/sffn/runtime/cuda/libcuda] fills one from the
// machine's driver; a program that wants a GPU imports that on purpose.
package cuda

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"

	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// What keeps a device from being used, beside having no driver.
var (
	// ErrNoDevice says that the driver has no device.
	ErrNoDevice = errors.New("the CUDA driver finds no device")
	// ErrOldDriver says that the driver is too old for the kernels.
	ErrOldDriver = errors.New("the CUDA driver is too old")
	// ErrDevice says that the device is too old for the kernels.
	ErrDevice = errors.New("the device is not supported")
)

// The oldest driver that has all of the functions, and the oldest device that
// has all of the instructions.
const (
	minDriver  = 11040 // CUDA 11.4
	minCompute = 8     // sm_80
)

// EnvSync is the environment variable that sets [Device.Sync], to 1.
const EnvSync = "SFFN_CUDA_SYNC"

// Device is an open GPU. Its methods may be called from any goroutine, one at a
// time.
type Device struct {
	// Name, and the UUID as nvidia-smi prints it.
	Name, UUID string
	// Library is the file of the driver, which is named by its exact version on
	// most systems; Driver the CUDA version that it is for: 1000 times the major
	// plus 10 times the minor one.
	Library string
	Driver  int
	// Compute capability, and what the hardware has: MaxShared and L2Cache in bytes.
	Major, Minor, Multiprocessors, MaxShared, L2Cache int
	// TotalMemory in bytes.
	TotalMemory int64
	// ClockRate of the multiprocessors in Hz, and MemoryBandwidth in bytes a second,
	// both the highest; 0 where the driver does not say.
	ClockRate, MemoryBandwidth float64
	// FromPTX is why the driver compiles PTX although the program has machine
	// code, nil where it does not.
	FromPTX error
	// Sync makes each launch wait for its kernel, so that the error of one that
	// fails names it. No graph is recorded meanwhile. It may be set when nothing is
	// at work.
	Sync bool
	// PTXOnly has the driver compile PTX even where it takes machine code.
	PTXOnly bool
	// Verdicts is the folder where the kernels that have passed the self-test are
	// kept, so that the next program does not try them again; nowhere where it is
	// empty. Tested is how many the last Load tried, and VerdictError why they were
	// not kept.
	Verdicts     string
	Tested       int
	VerdictError error

	api     *driver.API
	device  driver.Device
	context driver.Context
	pool    pool
	kernels map[string]*Kernel
	modules []driver.Module
	// loaded is what the modules were loaded from: a driver that loads lazily may go
	// back to it.
	loaded []*byte
	images map[image]driver.Module // 0 where there is none
}

// Open opens a device: the first one for "", the one of that number (from 0), or
// the one whose UUID begins so ("GPU-.."). Errors are, or wrap, ErrNoDevice,
// ErrOldDriver, ErrDevice or a *driver.Error.
func Open(api *driver.API, which string) (*Device, error) {
	if err := CheckSelector(which); err != nil {
		return nil, err
	}
	if r := api.Init(0); r == driver.NoDevice {
		return nil, ErrNoDevice
	} else if err := api.Err("cuInit", r); err != nil {
		return nil, err
	}
	d := &Device{Library: api.Library, api: api, kernels: map[string]*Kernel{}, images: map[image]driver.Module{}}
	d.pool.d = d
	if v := os.Getenv(EnvSync); v != "" {
		var err error
		if d.Sync, err = strconv.ParseBool(v); err != nil {
			return nil, fmt.Errorf("%s=%s: want 0 or 1", EnvSync, v)
		}
	}
	var version int32
	if err := api.Err("cuDriverGetVersion", api.DriverGetVersion(&version)); err != nil {
		return nil, err
	}
	d.Driver = int(version)
	if version < minDriver {
		return nil, fmt.Errorf("%w: it is for CUDA %d.%d, the kernels need %d.%d or newer", ErrOldDriver, version/1000, version%1000/10, minDriver/1000, minDriver%1000/10)
	}
	all, err := list(api)
	if err != nil {
		return nil, err
	}
	c, err := choose(all, which)
	if err != nil {
		return nil, err
	}
	d.device, d.Name, d.UUID = c.device, c.name, c.uuid
	if err := d.describe(); err != nil {
		return nil, err
	}
	if d.Major < minCompute {
		return nil, fmt.Errorf("%w: %s has compute capability %d.%d, the kernels need %d.0 or newer", ErrDevice, d.Name, d.Major, d.Minor, minCompute)
	}
	if err := api.Err("cuDevicePrimaryCtxRetain", api.PrimaryCtxRetain(&d.context, d.device)); err != nil {
		return nil, err
	}
	return d, nil
}

// describe asks for the device's properties.
func (d *Device) describe() error {
	for _, a := range []struct {
		to *int
		driver.Attribute
	}{{&d.Major, driver.ComputeMajor}, {&d.Minor, driver.ComputeMinor}, {&d.Multiprocessors, driver.Multiprocessors}, {&d.MaxShared, driver.MaxSharedOptin}, {&d.L2Cache, driver.L2CacheSize}} {
		var v int32
		if err := d.api.Err("cuDeviceGetAttribute", d.api.DeviceGetAttribute(&v, a.Attribute, d.device)); err != nil {
			return err
		}
		*a.to = int(v)
	}
	// Drivers may not say how fast parts of a device, or virtual ones, are.
	rate := func(a driver.Attribute) float64 {
		var v int32
		if d.api.DeviceGetAttribute(&v, a, d.device) != driver.Success {
			return 0
		}
		return float64(v)
	}
	const kHz, perClock, bits = 1e3, 2, 8
	d.ClockRate = kHz * rate(driver.ClockRate)
	d.MemoryBandwidth = kHz * rate(driver.MemoryClockRate) * perClock * rate(driver.MemoryBusWidth) / bits
	var total uint64
	err := d.api.Err("cuDeviceTotalMem", d.api.DeviceTotalMem(&total, d.device))
	d.TotalMemory = int64(total)
	return err
}

func (d *Device) String() string {
	return fmt.Sprintf("%s (compute capability %d.%d, %d multiprocessors)", d.Name, d.Major, d.Minor, d.Multiprocessors)
}

// do runs a call of the driver. Contexts belong to the operating system's
// threads, which goroutines change.
func (d *Device) do(call string, f func() driver.Result) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := d.err("cuCtxSetCurrent", d.api.CtxSetCurrent(d.context)); err != nil {
		return err
	}
	return d.err(call, f())
}

// err is the error of a call, which says so where it may be another one's.
func (d *Device) err(call string, r driver.Result) error {
	err := d.api.Err(call, r)
	if err != nil && r.Asynchronous() && !d.Sync {
		err = fmt.Errorf("%w; this is of an earlier launch: with %s=1 each is waited for, and the error names the kernel", err, EnvSync)
	}
	return err
}

// Close frees the kernels and all memory. Streams and graphs must have been
// closed.
func (d *Device) Close() error {
	errs := []error{d.pool.close()}
	for _, m := range d.modules {
		errs = append(errs, d.do("cuModuleUnload", func() driver.Result { return d.api.ModuleUnload(m) }))
	}
	d.modules, d.loaded, d.kernels, d.images = nil, nil, nil, nil
	errs = append(errs, d.api.Err("cuDevicePrimaryCtxRelease", d.api.PrimaryCtxRelease(d.device)))
	return errors.Join(errs...)
}
