// Package gen ties the generator together: spec -> plan -> emit. It turns the
// specs of a package into its files, and writes or compares them.
package gen

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/structuredffn/sffn/gen/bind"
	"github.com/structuredffn/sffn/gen/cuda"
	"github.com/structuredffn/sffn/gen/emit"
	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/plan/cpu"
	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/runtime/cuda/table"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// File is one generated file.
type File = emit.File

// Package says what to generate: the kernels of networks and of single
// linear layers, in one Go package. Kernels that several need are made once.
type Package struct {
	// Name is the Go package name.
	Name    string
	FFNs    []spec.FFN
	Linears []spec.Linear
	// Models are those that FFNs and Linears belong to, if any: on GPUs they have
	// kernels around their products.
	Models []spec.Model
	// Formats of the kernels for CPUs; empty means float32 alone.
	Formats []kernel.FormatName
	// ISAs to emit; empty means all that have assembly. CUDA alone makes a package
	// without anything for CPUs.
	ISAs []kernel.ISA
	// NVCC is the CUDA compiler; empty looks for one. Dir is the folder whose
	// PTX serves where it is fresh.
	NVCC, Dir string
	// Precision of the networks on GPUs; empty means bf16 where their widths
	// allow it, and float32 elsewhere.
	Precision table.Precision
}

// CUDA among the ISAs adds the kernels of the networks for NVIDIA GPUs.
const CUDA kernel.ISA = "cuda"

// CPUs lists the instruction sets that sffngen emits assembly for.
var CPUs = []kernel.ISA{kernel.AVX512, kernel.AVX2}

// Of collects what one or more models need: the networks of their layers,
// the attention's projections and the head.
func Of(name string, models ...spec.Model) Package {
	p := Package{Name: name, Models: models}
	for _, m := range models {
		for i := range m.Layers {
			p.FFNs = appendNew(p.FFNs, m.LayerFFN(i))
		}
		for _, l := range []spec.Linear{m.QKV(), m.Output(), m.Head()} {
			p.Linears = appendNew(p.Linears, l)
		}
	}
	return p
}

func appendNew[T comparable](s []T, v T) []T {
	if slices.Contains(s, v) {
		return s
	}
	return append(s, v)
}

// Validate reports everything that is wrong with the package.
func (p Package) Validate() error {
	var errs []error
	errs = append(errs, emit.ValidName(p.Name))
	for _, f := range p.FFNs {
		errs = append(errs, f.Validate())
	}
	for _, l := range p.Linears {
		errs = append(errs, l.Validate())
	}
	for _, isa := range p.ISAs {
		if isa != CUDA && !slices.Contains(CPUs, isa) {
			errs = append(errs, fmt.Errorf("isa %q: valid are %v and %s", isa, CPUs, CUDA))
		}
	}
	for _, f := range p.Formats {
		_, err := kernel.ParseFormat(string(f))
		errs = append(errs, err)
	}
	if p.Precision != "" && p.Precision != table.BF16 && p.Precision != table.Float32s {
		errs = append(errs, fmt.Errorf("precision %q: valid are auto, %s and %s", p.Precision, table.BF16, table.Float32s))
	}
	return errors.Join(errs...)
}

// gpuKernels plans the models, or else the networks, for GPUs.
func (p Package) gpuKernels() ([]gpu.Kernel, error) {
	var of []interface{ Kernels() []gpu.Kernel }
	for _, m := range p.Models {
		g, err := gpu.NewModel(m, p.Precision)
		if err != nil {
			return nil, err
		}
		of = append(of, g)
	}
	for _, m := range p.Models {
		g, err := gpu.NewPasses(m)
		if err != nil {
			return nil, err
		}
		of = append(of, g)
	}
	if len(p.Models) > 0 {
		return gpu.Table(of...), nil
	}
	for _, f := range p.FFNs {
		g, err := gpu.NewFFN(f, p.Precision)
		if err != nil {
			return nil, err
		}
		of = append(of, g)
	}
	return gpu.Table(of...), nil
}

// Layers plans every layer of the package, in each format.
func (p Package) Layers() []plan.Layer {
	formats := p.Formats
	if len(formats) == 0 {
		formats = []kernel.FormatName{kernel.F32}
	}
	var ls []plan.Layer
	for _, format := range formats {
		for _, f := range p.FFNs {
			pf := plan.NewFFNIn(f, format)
			ls = append(ls, pf.FC1, pf.FC2)
		}
		for _, l := range p.Linears {
			ls = append(ls, plan.NewLayer(l).In(format))
		}
	}
	return ls
}

// targets lists the targets of the package's instruction sets for CPUs.
func (p Package) targets() (ts []kernel.Target) {
	for _, t := range cpu.Targets() {
		if t.ISA != kernel.Portable && (len(p.ISAs) == 0 || slices.Contains(p.ISAs, t.ISA)) {
			ts = append(ts, t)
		}
	}
	return ts
}

// Plan decides everything that the files for CPUs are made of.
func (p Package) Plan() (emit.Package, error) {
	if err := p.Validate(); err != nil {
		return emit.Package{}, err
	}
	out := emit.Package{Name: p.Name, Sums: kernel.AllSums, Targets: p.targets(), FFNs: p.FFNs, Linears: p.Linears}
	layers := p.Layers()
	for _, t := range out.Targets {
		out.Kernels = addKernels(out.Kernels, cpu.Specialised(t, layers...))
	}
	return out, nil
}

// addKernels adds kernels that are not there yet: targets of one instruction set
// share most of them.
func addKernels(ks, more []kernel.Row) []kernel.Row {
	known := map[string]bool{}
	for _, k := range ks {
		known[k.Name()] = true
	}
	for _, k := range more {
		if !known[k.Name()] {
			known[k.Name()] = true
			ks = append(ks, k)
		}
	}
	return ks
}

// Files generates the package.
func (p Package) Files() ([]File, error) {
	cpus, err := p.Plan()
	if err != nil {
		return nil, err
	}
	var files []File
	if slices.Contains(p.ISAs, CUDA) {
		if files, err = p.cudaFiles(); err != nil {
			return nil, err
		}
	}
	if len(cpus.Targets) > 0 {
		more, err := cpus.Files()
		return append(files, more...), err
	}
	if len(p.FFNs) > 0 {
		src, err := cpus.Constructors(false)
		return append(files, File{Name: "z_ffn.go", Data: src}), err
	}
	return files, nil
}

// cudaFiles are the files of the kernels for GPUs.
func (p Package) cudaFiles() (files []File, err error) {
	gpu, err := p.gpuKernels()
	if err != nil {
		return nil, err
	}
	built, err := cuda.Build(p.Dir, p.NVCC, gpu)
	if err != nil {
		return nil, err
	}
	var ptx, fatbins []string
	for name, data := range built {
		switch {
		case strings.HasSuffix(name, cuda.PTX), name == cuda.Rows:
			ptx = append(ptx, name)
		case strings.HasSuffix(name, cuda.Fatbin):
			fatbins = append(fatbins, name)
		}
		files = append(files, File{Name: name, Data: data})
	}
	slices.Sort(ptx)
	slices.Sort(fatbins)
	// Only builds with the tag cuda link the library, and they need a toolkit.
	if t, err := cuda.Find(p.NVCC); err == nil {
		if err := t.Library(p.Name, built); err != nil {
			return nil, err
		}
	}
	bound, err := bind.CUDA(p.Name, built.ImageFunc(p.Name), ptx, fatbins)
	for name, src := range bound {
		files = append(files, File{Name: name, Data: src})
	}
	return files, err
}

// AnyShape plans the package of the kernels that serve every shape: matrix
// products with all strides in registers, and the elementwise kernels.
func AnyShape() emit.Package {
	out := emit.Package{Name: "anyshape", Sums: kernel.AllSums, Targets: cpu.Targets()}
	for _, t := range out.Targets {
		if t.ISA != kernel.Portable {
			out.Kernels = addKernels(out.Kernels, cpu.Any(t))
		}
	}
	out.Vecs = cpu.Vecs()
	return out
}

// generatedMark is in the first line of every file that sffngen wrote.
const generatedMark = "// Code generated by sffngen. DO NOT EDIT."

// stale lists the files that sffngen once wrote into dir and that are not
// among files. Machine code and packed PTX have no mark.
func stale(dir string, files []File) ([]string, error) {
	var names []string
	for _, sub := range []string{"", bind.Cudalib} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, e := range entries {
			name := path.Join(sub, e.Name())
			if !strings.HasPrefix(e.Name(), "z") || slices.ContainsFunc(files, func(f File) bool { return f.Name == name }) {
				continue
			}
			data, err := readFile(filepath.Join(dir, name))
			if err != nil {
				return nil, err
			}
			if bytes.HasPrefix(data, []byte(generatedMark)) || strings.HasSuffix(name, cuda.Fatbin) || strings.HasSuffix(name, cuda.PTX) || name == cuda.Rows {
				names = append(names, name)
			}
		}
	}
	return names, nil
}

// Write puts the files into dir: only what changed, each atomically, and
// removes what an earlier run left there.
func Write(dir string, files []File) error {
	changed, err := Diff(dir, files)
	if err != nil || len(changed) == 0 {
		return err
	}
	old, err := stale(dir, files)
	if err != nil {
		return err
	}
	for _, f := range files {
		if slices.Contains(changed, f.Name) {
			if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, f.Name)), 0o777); err != nil {
				return err
			}
			if err := disk.Replace(filepath.Join(dir, f.Name), func(w io.Writer) error { _, err := w.Write(f.Data); return err }); err != nil {
				return err
			}
		}
	}
	for _, name := range old {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// Diff lists the names of the files in dir that Write would create, change or
// remove.
func Diff(dir string, files []File) ([]string, error) {
	changed, err := stale(dir, files)
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		have, err := readFile(filepath.Join(dir, f.Name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if err != nil || !bytes.Equal(have, f.Data) {
			changed = append(changed, f.Name)
		}
	}
	slices.Sort(changed)
	return changed, nil
}

func readFile(name string) ([]byte, error) {
	f, err := disk.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}
