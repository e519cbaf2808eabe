package gpucheck

import (
	"errors"
	"fmt"
	"runtime"
	"time"

	"github.com/structuredffn/sffn/runtime/cuda"
)

// DeviceInfo describes the device and the driver.
type DeviceInfo struct {
	Name            string  `json:"name"`
	UUID            string  `json:"uuid"`
	Compute         string  `json:"compute_capability"`
	Multiprocessors int     `json:"multiprocessors"`
	Memory          int64   `json:"memory_bytes"`
	L2              int     `json:"l2_bytes"`
	Clock           float64 `json:"clock_hz"`
	Bandwidth       float64 `json:"memory_bytes_per_second"` // of the data sheet: clock times width
	Driver          string  `json:"driver_cuda_version"`
	Library         string  `json:"driver_library"`
	CPUs            int     `json:"host_cpus"`
	// Code is what the driver runs: machine code or PTX; Refused why not the former.
	Code    string `json:"code"`
	Refused string `json:"machine_code_refused,omitempty"`
	// Seconds that loading the kernels took, and compiling them from PTX.
	Loading   float64 `json:"loading_seconds"`
	Compiling float64 `json:"compiling_seconds"`
}

// describe fills in what the driver says.
func (c *check) describe() {
	d := c.d
	c.report.Device = DeviceInfo{Name: d.Name, UUID: d.UUID, Compute: fmt.Sprintf("%d.%d", d.Major, d.Minor), Multiprocessors: d.Multiprocessors,
		Memory: d.TotalMemory, L2: d.L2Cache, Clock: d.ClockRate, Bandwidth: d.MemoryBandwidth,
		Driver: fmt.Sprintf("%d.%d", d.Driver/1000, d.Driver%1000/10), Library: d.Library, CPUs: runtime.NumCPU()}
}

// device loads all kernels as machine code where the driver takes it, and again
// from PTX, and tries one of each family both ways.
func (c *check) device() error {
	ks, err := c.table()
	if err != nil {
		return err
	}
	info := &c.report.Device
	if err := c.at("loading %d kernels", len(ks)); err != nil {
		return err
	}
	start := time.Now()
	if ks, err = c.compile(ks); err != nil {
		return err
	}
	info.Loading = time.Since(start).Seconds()
	code := 0
	for _, k := range ks {
		if c.loaded[k.Name].MachineCode {
			code++
		}
	}
	info.Code = fmt.Sprintf("machine code for %d of %d kernels, PTX for the others", code, len(ks))
	if c.d.FromPTX != nil {
		info.Refused = c.d.FromPTX.Error()
		c.note("the driver refuses machine code: %v", c.d.FromPTX)
	}
	c.note("%s, loaded in %.1f s", info.Code, info.Loading)
	if err := c.at("compiling %d kernels from PTX", len(ks)); err != nil {
		return err
	}
	start = time.Now()
	only := c.d.PTXOnly
	c.d.PTXOnly = true
	compiled, err := c.d.Compile(ks)
	c.d.PTXOnly = only
	if err != nil {
		return fmt.Errorf("from PTX: %w", err)
	}
	info.Compiling = time.Since(start).Seconds()
	c.note("%d kernels compiled from PTX in %.1f s", len(compiled), info.Compiling)
	for _, kind := range []struct {
		what    string
		kernels map[string]*cuda.Kernel
	}{{"as loaded", c.loaded}, {"from PTX", compiled}} {
		p, r, err := c.prover(kind.kernels, proofSamples)
		if err != nil {
			return err
		}
		tried := map[string]bool{}
		for _, k := range ks {
			family := string(k.Role) + " " + k.Family()
			if tried[family] {
				continue
			}
			tried[family] = true
			if err := c.at("%s, %s, %d rows", kind.what, k.Name, quickRows); err != nil {
				return errors.Join(err, r.Close())
			}
			c.check(kind.what, p.Prove(k, quickRows))
		}
		if err := r.Close(); err != nil {
			return err
		}
	}
	return nil
}

// quickRows is the size at which kernels of both kinds of code are tried.
const quickRows = 129
