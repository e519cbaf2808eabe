package cuda

import (
	"embed"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// Kernel is a kernel on a device.
type Kernel struct {
	plan.GPUKernel
	function driver.Function
}

// text is the PTX of one kernel, and what its file has outside of kernels.
type text struct{ head, body string }

// sources are the folders of PTX that the program links, and what is in those
// that have been read: nothing is before a device needs it.
var sources struct {
	sync.Mutex
	unread  []embed.FS
	kernels map[string]text
}

// Register adds the kernels of a folder's PTX, by name, to those that devices
// load; generated packages call it when they are linked. A kernel that several
// packages bring is the same one.
func Register(files embed.FS) {
	sources.Lock()
	defer sources.Unlock()
	sources.unread = append(sources.unread, files)
}

// registered is the text of a kernel.
func registered(name string) (text, bool) {
	sources.Lock()
	defer sources.Unlock()
	for _, files := range sources.unread {
		names, err := files.ReadDir(".")
		if err != nil {
			panic("cuda: " + err.Error())
		}
		for _, f := range names {
			if path.Ext(f.Name()) != ".ptx" {
				continue
			}
			src, err := files.ReadFile(f.Name())
			if err != nil {
				panic("cuda: " + err.Error())
			}
			add(string(src))
		}
	}
	sources.unread = nil
	t, ok := sources.kernels[name]
	return t, ok
}

// RegisterPTX adds the kernels of one module's text.
func RegisterPTX(src string) {
	sources.Lock()
	defer sources.Unlock()
	add(src)
}

func add(src string) {
	if sources.kernels == nil {
		sources.kernels = map[string]text{}
	}
	for name, t := range split(src) {
		sources.kernels[name] = t
	}
}

var entry = regexp.MustCompile(`(?m)^\.visible \.entry (\w+)\(`)

// split takes a module's text apart, so that a device compiles only what it
// needs.
func split(src string) map[string]text {
	var head strings.Builder
	bodies := map[string]string{}
	at := 0
	for _, m := range entry.FindAllStringSubmatchIndex(src, -1) {
		n := strings.Index(src[m[0]:], "\n}\n")
		if n < 0 {
			n = len(src) - m[0] - len("\n}\n")
		}
		head.WriteString(src[at:m[0]])
		at = m[0] + n + len("\n}\n")
		bodies[src[m[2]:m[3]]] = src[m[0]:at]
	}
	head.WriteString(src[at:])
	ts := map[string]text{}
	for name, b := range bodies {
		ts[name] = text{head.String(), b}
	}
	return ts
}

// Registered reports whether the program has a kernel of that name.
func Registered(name string) bool {
	_, ok := registered(name)
	return ok
}

// MissingError lists kernels that the program does not have.
type MissingError struct{ Kernels []string }

func (e *MissingError) Error() string {
	const shown = 3
	names := strings.Join(e.Kernels[:min(shown, len(e.Kernels))], ", ")
	if len(e.Kernels) > shown {
		names += ", ..."
	}
	return fmt.Sprintf("%d GPU kernels are not in this program (%s)", len(e.Kernels), names)
}

// Load makes kernels ready. Each is compiled by the driver, once for a device,
// and run against the CPU's kernels on a small problem: where one differs, no
// kernel of the device is used, and the error is a *MismatchError.
func (d *Device) Load(ks []plan.GPUKernel) error {
	var missing []string
	var wanted []plan.GPUKernel
	bodies := map[string][]string{} // by head
	for _, k := range ks {
		if d.kernels[k.Name] != nil || slices.ContainsFunc(wanted, func(o plan.GPUKernel) bool { return o.Name == k.Name }) {
			continue
		}
		t, ok := registered(k.Name)
		if !ok {
			missing = append(missing, k.Name)
			continue
		}
		if got := strings.Count(t.body[:strings.Index(t.body, "{")], ".param"); got != len(k.Params) {
			return fmt.Errorf("cuda: %s has %d parameters, the plan says %d: another version of sffngen made it; generate it again", k.Name, got, len(k.Params))
		}
		wanted = append(wanted, k)
		bodies[t.head] = append(bodies[t.head], t.body)
	}
	if missing != nil {
		return &MissingError{missing}
	}
	loaded := map[string]*Kernel{}
	for _, head := range slices.Sorted(maps.Keys(bodies)) {
		if err := d.load(head+strings.Join(bodies[head], "\n"), wanted, loaded); err != nil {
			return err
		}
	}
	if err := d.selfTest(wanted, loaded); err != nil {
		return err
	}
	for name, k := range loaded {
		d.kernels[name] = k
	}
	return nil
}

// load has the driver compile a module and finds the wanted kernels in it.
func (d *Device) load(src string, wanted []plan.GPUKernel, loaded map[string]*Kernel) error {
	var m driver.Module
	err := d.do("cuModuleLoadData", func() driver.Result { return d.api.ModuleLoadData(&m, driver.CString(src)) })
	if errors.Is(err, driver.UnsupportedPTX) {
		return fmt.Errorf("%w for PTX %s: %w", ErrOldDriver, ptxVersion(src), err)
	}
	if err != nil {
		return err
	}
	d.modules = append(d.modules, m)
	for _, p := range wanted {
		k := &Kernel{GPUKernel: p}
		err := d.do("cuModuleGetFunction", func() driver.Result { return d.api.ModuleGetFunction(&k.function, m, driver.CString(p.Name)) })
		if errors.Is(err, driver.NotFound) {
			continue // in another module
		}
		if err != nil {
			return err
		}
		if p.SharedBytes > d.MaxShared {
			return fmt.Errorf("%w: %s needs %d bytes of shared memory, %s has %d", ErrDevice, p.Name, p.SharedBytes, d.Name, d.MaxShared)
		}
		if err := d.do("cuFuncSetAttribute", func() driver.Result {
			return d.api.FuncSetAttribute(k.function, driver.MaxDynamicShared, int32(p.SharedBytes))
		}); err != nil {
			return fmt.Errorf("%s: %w", p.Name, err)
		}
		loaded[p.Name] = k
	}
	return nil
}

func ptxVersion(src string) string {
	_, rest, _ := strings.Cut(src, ".version ")
	v, _, _ := strings.Cut(rest, "\n")
	return v
}

// Kernel is a loaded kernel; it panics where Load was not called for it.
func (d *Device) Kernel(p plan.GPUKernel) *Kernel {
	k := d.kernels[p.Name]
	if k == nil {
		panic("cuda: " + p.Name + " was not loaded")
	}
	return k
}
