package cuda

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/internal/gz"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// Kernel is a kernel on a device.
type Kernel struct {
	gpu.Kernel
	// MachineCode reports whether it is that of the program; the driver has compiled
	// it from PTX otherwise.
	MachineCode bool

	function driver.Function
	hash     string // of what it was made from, and of how it is launched
}

// text is the PTX of one kernel, and what its file has outside of kernels.
type text struct{ head, body string }

// sources are the folders of PTX that the program links, and what is in those
// that have been read: nothing is before a device needs it. images finds
// machine code.
var sources struct {
	sync.Mutex
	unread  []fs.FS
	kernels map[string]text
	images  []func(file string) *byte
}

// Embedded finds the machine code of a file of the kernel table in a folder, as
// RegisterImages wants it.
func Embedded(fatbins fs.FS) func(file string) *byte {
	return func(file string) *byte {
		data, err := fs.ReadFile(fatbins, "z_"+file+".fatbin")
		if err != nil || len(data) == 0 {
			return nil
		}
		return &data[0]
	}
}

// RegisterImages adds machine code by the files of the kernel table, of kernels
// whose PTX is registered, too. image is nil for a file that it has not;
// generated packages call this when they are linked.
func RegisterImages(image func(file string) *byte) {
	sources.Lock()
	defer sources.Unlock()
	sources.images = append(sources.images, image)
}

// image is a file's machine code among those registered.
type image struct {
	of   int
	file string
}

// assembled finds a kernel in machine code, nil where there is none for the
// device: its PTX serves instead. Which devices the code is for is written in it,
// and only the driver, which may be older than the code, knows whether it can
// take it: so it is asked, once a file.
func (d *Device) assembled(p gpu.Kernel) (*Kernel, error) {
	if d.PTXOnly {
		return nil, nil
	}
	sources.Lock()
	defer sources.Unlock()
	for i, find := range sources.images {
		m, ok := d.images[image{i, p.File}]
		if !ok {
			if code := find(p.File); code != nil {
				var err error
				if m, err = d.module(code); err != nil && d.FromPTX == nil {
					d.FromPTX = err
				}
			}
			d.images[image{i, p.File}] = m
		}
		if m == 0 {
			continue
		}
		if k, err := d.find(p, m); k != nil || err != nil {
			if k != nil {
				k.MachineCode, k.hash = true, imageHash(find(p.File))
			}
			return k, err
		}
	}
	return nil, nil
}

// packedPTX is how the names of files of PTX end, in which sffngen packs them.
const packedPTX = ".ptx.gz"

// Register adds the kernels of a folder's PTX (*.ptx.gz), by name, to those that
// devices load; generated packages call it when they are linked. A kernel that
// several packages bring is the same one. Files are read when a device first needs
// a kernel.
func Register(files fs.FS) {
	sources.Lock()
	defer sources.Unlock()
	sources.unread = append(sources.unread, files)
}

// registered is the text of a kernel.
func registered(name string) (t text, ok bool, err error) {
	sources.Lock()
	defer sources.Unlock()
	for len(sources.unread) > 0 {
		if err := read(sources.unread[0]); err != nil {
			return t, false, err
		}
		sources.unread = sources.unread[1:]
	}
	t, ok = sources.kernels[name]
	return t, ok, nil
}

// read adds what a folder has.
func read(files fs.FS) error {
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return fmt.Errorf("cuda: %w", err)
	}
	for _, f := range entries {
		if !strings.HasSuffix(f.Name(), packedPTX) {
			continue
		}
		data, err := fs.ReadFile(files, f.Name())
		if err != nil {
			return fmt.Errorf("cuda: %w", err)
		}
		src, err := gz.Unpack(data)
		if err != nil {
			return fmt.Errorf("cuda: %s: %w", f.Name(), err)
		}
		add(string(src))
	}
	return nil
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

// MissingError lists kernels that the program does not have, or only as another
// version of sffngen made them.
type MissingError struct{ Kernels []string }

func (e *MissingError) Error() string {
	const shown = 3
	names := strings.Join(e.Kernels[:min(shown, len(e.Kernels))], ", ")
	if len(e.Kernels) > shown {
		names += ", ..."
	}
	return fmt.Sprintf("%d GPU kernels are not in this program (%s)", len(e.Kernels), names)
}

// Load makes kernels ready for use. Each is proven once for a device and a driver,
// on a problem of some tiles: where one stores something else than float64 says,
// none of them is used, and the error is a *MismatchError.
func (d *Device) Load(ks []gpu.Kernel) error {
	var wanted []gpu.Kernel
	for _, k := range ks {
		if d.kernels[k.Name] == nil && !slices.ContainsFunc(wanted, func(o gpu.Kernel) bool { return o.Name == k.Name }) {
			wanted = append(wanted, k)
		}
	}
	loaded, err := d.Compile(wanted)
	if err != nil {
		return err
	}
	if err := d.selfTest(wanted, loaded); err != nil {
		return err
	}
	maps.Copy(d.kernels, loaded)
	return nil
}

// Compile gives kernels to the driver, as machine code that it takes or as PTX
// that it compiles, and returns them by name. Nobody has tried them.
func (d *Device) Compile(ks []gpu.Kernel) (map[string]*Kernel, error) {
	var missing []string
	texts, loaded := map[string]text{}, map[string]*Kernel{}
	bodies := map[string][]string{} // by head
	for _, k := range ks {
		t, ok, err := registered(k.Name)
		if err != nil {
			return nil, err
		}
		if !ok {
			missing = append(missing, k.Name)
		}
		texts[k.Name] = t
	}
	if missing != nil {
		return nil, &MissingError{missing}
	}
	for _, k := range ks {
		if loaded[k.Name] != nil {
			continue
		}
		a, err := d.assembled(k)
		if err != nil {
			return nil, err
		}
		if a != nil {
			loaded[k.Name] = a
			continue
		}
		t := texts[k.Name]
		if !slices.Contains(bodies[t.head], t.body) {
			bodies[t.head] = append(bodies[t.head], t.body)
		}
	}
	for _, head := range slices.Sorted(maps.Keys(bodies)) {
		if err := d.load(head+strings.Join(bodies[head], "\n"), ks, loaded); err != nil {
			return nil, err
		}
	}
	for name, k := range loaded {
		if k.hash != "" || !k.MachineCode {
			k.hash += identify(k, texts[name])
		}
	}
	return loaded, nil
}

// load has the driver compile a module and finds the wanted kernels in it.
func (d *Device) load(src string, wanted []gpu.Kernel, loaded map[string]*Kernel) error {
	m, err := d.module(driver.CString(src))
	if errors.Is(err, driver.UnsupportedPTX) {
		return fmt.Errorf("%w for PTX %s: %w", ErrOldDriver, ptxVersion(src), err)
	}
	if err != nil {
		return err
	}
	for _, p := range wanted {
		if loaded[p.Name] != nil {
			continue
		}
		k, err := d.find(p, m)
		if err != nil {
			return err
		}
		if k != nil { // it is in another module otherwise
			loaded[p.Name] = k
		}
	}
	return nil
}

// module gives an image to the driver. The error has what its compiler says.
func (d *Device) module(image *byte) (m driver.Module, err error) {
	log, err := d.newJITLog()
	if err != nil {
		return 0, err
	}
	if err = log.load(&m, image); err == nil {
		d.modules = append(d.modules, m)
		d.loaded = append(d.loaded, image)
	}
	if e := log.Close(); err == nil {
		err = e
	}
	return m, err
}

// find looks a kernel up in a module, and is nil where that has it not.
func (d *Device) find(p gpu.Kernel, m driver.Module) (*Kernel, error) {
	k := &Kernel{Kernel: p}
	err := d.do("cuModuleGetFunction of "+p.Name, func() driver.Result { return d.api.ModuleGetFunction(&k.function, m, driver.CString(p.Name)) })
	if errors.Is(err, driver.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return k, d.allowShared(k)
}

// allowShared lets a kernel have the shared memory that its plan says.
func (d *Device) allowShared(k *Kernel) error {
	if k.SharedBytes > d.MaxShared {
		return fmt.Errorf("%w: %s needs %d bytes of shared memory, %s has %d", ErrDevice, k.Name, k.SharedBytes, d.Name, d.MaxShared)
	}
	return d.do("cuFuncSetAttribute of "+k.Name, func() driver.Result {
		return d.api.FuncSetAttribute(k.function, driver.MaxDynamicShared, int32(k.SharedBytes))
	})
}

func ptxVersion(src string) string {
	_, rest, _ := strings.Cut(src, ".version ")
	v, _, _ := strings.Cut(rest, "\n")
	return v
}

// Kernel is a loaded kernel; it panics where Load was not called for it.
func (d *Device) Kernel(p gpu.Kernel) *Kernel {
	k := d.kernels[p.Name]
	if k == nil {
		panic("cuda: " + p.Name + " was not loaded")
	}
	return k
}
