package cuda

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/structuredffn/sffn/internal/gz"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// Kernel is a kernel on a device.
type Kernel struct {
	table.Kernel
	// MachineCode reports whether it is that of the program; the driver has compiled
	// it from PTX otherwise.
	MachineCode bool

	function driver.Function
	hash     string // of what it was made from, and of how it is launched
}

// linked is a row with its kernel's text.
type linked struct {
	table.Kernel
	text table.Text
}

// sources are the folders of kernels that the program links, and what is in those
// that have been read: nothing is before a device needs it. variants are the rows
// that may stand in for each other, by what is asked for. images finds machine code.
var sources struct {
	sync.Mutex
	unread   []fs.FS
	kernels  map[string]linked
	variants map[string][]string
	images   []func(file string) *byte
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
func (d *Device) assembled(p table.Kernel) (*Kernel, error) {
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

// Register adds the kernels of a folder, PTX (*.ptx.gz) with its rows ([table.File]),
// to those that devices load; generated packages call it when they are linked. A
// kernel that several packages bring is the same one. Files are read when a device
// first needs a kernel.
func Register(files fs.FS) {
	sources.Lock()
	defer sources.Unlock()
	sources.unread = append(sources.unread, files)
}

// row looks for one of the role, shape and range of rows of the wanted one, and
// takes the best for the device.
func (d *Device) row(wanted table.Kernel) (best linked, ok bool, err error) {
	sources.Lock()
	defer sources.Unlock()
	for len(sources.unread) > 0 {
		if err := read(sources.unread[0]); err != nil {
			return best, false, err
		}
		sources.unread = sources.unread[1:]
	}
	const tens = 10
	compute := tens*d.Major + d.Minor
	better := func(a, b linked) bool { // where the device runs both
		if fits := a.SharedBytes <= d.MaxShared; fits != (b.SharedBytes <= d.MaxShared) {
			return fits
		}
		if a.Compute != b.Compute {
			return a.Compute > b.Compute
		}
		return a.Name == wanted.Name // the one that this program would make
	}
	variants := sources.variants[wanted.Purpose()]
	for _, name := range variants {
		if k := sources.kernels[name]; k.Compute <= compute && (!ok || better(k, best)) {
			best, ok = k, true
		}
	}
	if ok {
		if err := best.Check(best.text); err != nil {
			return best, false, fmt.Errorf("cuda: %w; generate the kernels again", err)
		}
	} else if len(variants) > 0 {
		return best, false, fmt.Errorf("%w: %s has compute capability %d.%d, all kernels for %s need more", ErrDevice, d.Name, d.Major, d.Minor, wanted.Name)
	}
	return best, ok, nil
}

// read adds what a folder has.
func read(files fs.FS) error {
	entries, err := fs.ReadDir(files, ".")
	if err != nil {
		return fmt.Errorf("cuda: %w", err)
	}
	unpack := func(name string) ([]byte, error) {
		data, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, fmt.Errorf("cuda: %w", err)
		}
		text, err := gz.Unpack(data)
		if err != nil {
			return nil, fmt.Errorf("cuda: %s: %w", name, err)
		}
		return text, nil
	}
	texts := map[string]table.Text{}
	for _, f := range entries {
		if !strings.HasSuffix(f.Name(), packedPTX) {
			continue
		}
		src, err := unpack(f.Name())
		if err != nil {
			return err
		}
		maps.Copy(texts, table.Split(string(src)))
	}
	data, err := unpack(table.File)
	if err != nil {
		return err
	}
	rows, err := table.Decode(data)
	if err != nil {
		return fmt.Errorf("cuda: %s: %w", table.File, err)
	}
	add(rows, texts)
	return nil
}

func add(rows []table.Kernel, texts map[string]table.Text) {
	if sources.kernels == nil {
		sources.kernels, sources.variants = map[string]linked{}, map[string][]string{}
	}
	for _, k := range rows {
		if _, ok := sources.kernels[k.Name]; !ok {
			p := k.Purpose()
			sources.variants[p] = append(sources.variants[p], k.Name)
		}
		sources.kernels[k.Name] = linked{k, texts[k.Name]}
	}
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
func (d *Device) Load(ks []table.Kernel) error {
	var wanted []table.Kernel
	for _, k := range ks {
		if d.kernels[k.Name] == nil && !slices.ContainsFunc(wanted, func(o table.Kernel) bool { return o.Name == k.Name }) {
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

// Compile finds the rows of kernels that are asked for by role, shape and range of
// rows, gives them to the driver, as machine code that it takes or as PTX that it
// compiles, and returns them by the names that were asked for. Nobody has tried them.
func (d *Device) Compile(ks []table.Kernel) (map[string]*Kernel, error) {
	var missing []string
	rows := map[string]linked{} // by what was asked for
	for _, k := range ks {
		row, ok, err := d.row(k)
		if err != nil {
			return nil, err
		}
		if !ok {
			missing = append(missing, k.Name)
		}
		rows[k.Name] = row
	}
	if missing != nil {
		return nil, &MissingError{missing}
	}
	loaded := map[string]*Kernel{} // by name of the row
	var wanted []table.Kernel
	bodies := map[string][]string{} // by head
	for _, k := range ks {
		row := rows[k.Name]
		if loaded[row.Name] != nil {
			continue
		}
		a, err := d.assembled(row.Kernel)
		if err != nil {
			return nil, err
		}
		if a != nil {
			loaded[row.Name] = a
			continue
		}
		wanted = append(wanted, row.Kernel)
		if t := row.text; !slices.Contains(bodies[t.Head], t.Body) {
			bodies[t.Head] = append(bodies[t.Head], t.Body)
		}
	}
	for _, head := range slices.Sorted(maps.Keys(bodies)) {
		if err := d.load(head+strings.Join(bodies[head], "\n"), wanted, loaded); err != nil {
			return nil, err
		}
	}
	for _, k := range loaded {
		if k.hash != "" || !k.MachineCode {
			k.hash += k.Hash
		}
	}
	asked := map[string]*Kernel{}
	for name, row := range rows {
		asked[name] = loaded[row.Name]
	}
	return asked, nil
}

// load has the driver compile a module and finds the wanted kernels in it.
func (d *Device) load(src string, wanted []table.Kernel, loaded map[string]*Kernel) error {
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
func (d *Device) find(p table.Kernel, m driver.Module) (*Kernel, error) {
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

// allowShared lets a kernel have the shared memory that its row says.
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

// Kernel is what Load found for a kernel that was asked for; it panics where it was
// not called for it.
func (d *Device) Kernel(p table.Kernel) *Kernel {
	k := d.kernels[p.Name]
	if k == nil {
		panic("cuda: " + p.Name + " was not loaded")
	}
	return k
}
