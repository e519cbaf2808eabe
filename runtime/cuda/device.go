// Package cuda runs generated kernels on an NVIDIA GPU: devices with their
// memory, streams, graphs and loaded kernels, on any table of driver functions.
// [github.com/structuredffn/sffn/runtime/cuda/libcuda] fills one from the
// machine's driver; a program that wants a GPU imports that on purpose.
package cuda

import (
	"bytes"
	"errors"
	"fmt"
	"runtime"

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

// Device is an open GPU. Its methods may be called from any goroutine, one at a
// time.
type Device struct {
	// Name and compute capability, and what the hardware has.
	Name                                     string
	Major, Minor, Multiprocessors, MaxShared int
	// FromPTX is why the driver compiles PTX although the program has machine
	// code, nil where it does not.
	FromPTX error

	api     *driver.API
	device  driver.Device
	context driver.Context
	pool    pool
	kernels map[string]*Kernel
	modules []driver.Module
	images  map[image]driver.Module // 0 where there is none
}

// Open opens the device of that number, from 0. Errors are, or wrap, ErrNoDevice,
// ErrOldDriver, ErrDevice or a *driver.Error.
func Open(api *driver.API, number int) (*Device, error) {
	if r := api.Init(0); r == driver.NoDevice {
		return nil, ErrNoDevice
	} else if err := api.Err("cuInit", r); err != nil {
		return nil, err
	}
	d := &Device{api: api, kernels: map[string]*Kernel{}, images: map[image]driver.Module{}}
	d.pool.d = d
	var version, count int32
	if err := api.Err("cuDriverGetVersion", api.DriverGetVersion(&version)); err != nil {
		return nil, err
	}
	if version < minDriver {
		return nil, fmt.Errorf("%w: it is for CUDA %d.%d, the kernels need %d.%d or newer", ErrOldDriver, version/1000, version%1000/10, minDriver/1000, minDriver%1000/10)
	}
	if err := api.Err("cuDeviceGetCount", api.DeviceGetCount(&count)); err != nil {
		return nil, err
	}
	if count == 0 {
		return nil, ErrNoDevice
	}
	if number < 0 || number >= int(count) {
		return nil, fmt.Errorf("device %d: the driver has %d, counted from 0", number, count)
	}
	if err := api.Err("cuDeviceGet", api.DeviceGet(&d.device, int32(number))); err != nil {
		return nil, err
	}
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
	var name [256]byte
	if err := d.api.Err("cuDeviceGetName", d.api.DeviceGetName(&name[0], int32(len(name)), d.device)); err != nil {
		return err
	}
	d.Name = string(name[:max(0, bytes.IndexByte(name[:], 0))])
	for _, a := range []struct {
		to *int
		driver.Attribute
	}{{&d.Major, driver.ComputeMajor}, {&d.Minor, driver.ComputeMinor}, {&d.Multiprocessors, driver.Multiprocessors}, {&d.MaxShared, driver.MaxSharedOptin}} {
		var v int32
		if err := d.api.Err("cuDeviceGetAttribute", d.api.DeviceGetAttribute(&v, a.Attribute, d.device)); err != nil {
			return err
		}
		*a.to = int(v)
	}
	return nil
}

func (d *Device) String() string {
	return fmt.Sprintf("%s (compute capability %d.%d, %d multiprocessors)", d.Name, d.Major, d.Minor, d.Multiprocessors)
}

// do runs a call of the driver. Contexts belong to the operating system's
// threads, which goroutines change.
func (d *Device) do(call string, f func() driver.Result) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := d.api.Err("cuCtxSetCurrent", d.api.CtxSetCurrent(d.context)); err != nil {
		return err
	}
	return d.api.Err(call, f())
}

// Close frees the kernels and all memory. Streams and graphs must have been
// closed.
func (d *Device) Close() error {
	errs := []error{d.pool.close()}
	for _, m := range d.modules {
		errs = append(errs, d.do("cuModuleUnload", func() driver.Result { return d.api.ModuleUnload(m) }))
	}
	d.modules, d.kernels, d.images = nil, nil, nil
	errs = append(errs, d.api.Err("cuDevicePrimaryCtxRelease", d.api.PrimaryCtxRelease(d.device)))
	return errors.Join(errs...)
}
