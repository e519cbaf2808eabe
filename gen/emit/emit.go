// Package emit turns what a planner decided into the files of a Go package for
// CPUs. It imports no planner: a [Package] holds every decision as data, may be
// written as JSON, changed and read again, and gives the same files.
package emit

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"go/token"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/structuredffn/sffn/gen/bind"
	"github.com/structuredffn/sffn/gen/simd"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// File is one generated file; Name has no directory but that of [bind.Cudalib].
type File struct {
	Name string
	Data []byte
}

// Package is all that the files of a package are made of.
type Package struct {
	// Name is the Go package name.
	Name string `json:"package"`
	// Sums are the sizes that decide bits. Generated code asserts that those of the
	// module that it is compiled with are the same.
	Sums kernel.Sums `json:"sums"`
	// Targets are the rows of the table of targets that the kernels were made for.
	// The package registers them, and the runtime follows them. A row with another
	// schedule than that of this module needs a name of its own.
	Targets []kernel.Target `json:"targets"`
	// FFNs and Linears are the layers that the package is for: the first have
	// constructors.
	FFNs    []spec.FFN    `json:"ffns"`
	Linears []spec.Linear `json:"linears"`
	// Kernels are its matrix products, Vecs its elementwise kernels, which only the
	// package of the any-shape kernels has.
	Kernels []kernel.Row    `json:"kernels"`
	Vecs    []kernel.VecRow `json:"vecs"`
}

// ValidName says what is wrong with the name of a package, if anything.
func ValidName(name string) error {
	if !token.IsIdentifier(name) || strings.ToLower(name) != name || name == "_" || strings.HasSuffix(name, "_test") {
		return fmt.Errorf("package name %q: want a lower-case Go identifier, not _, and no name that ends in _test", name)
	}
	return nil
}

// Validate reports everything that makes no package, each with its place.
func (p Package) Validate() error {
	errs := []error{ValidName(p.Name)}
	at := func(place string, i int, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s[%d]: %w", place, i, err))
		}
	}
	if p.Sums != kernel.AllSums {
		errs = append(errs, fmt.Errorf("sums: %+v; this module's kernels and runtime sum by %+v", p.Sums, kernel.AllSums))
	}
	if len(p.Targets) == 0 && len(p.FFNs)+len(p.Linears) > 0 {
		errs = append(errs, errors.New("targets: none, and layers on CPUs follow one"))
	}
	names := map[string]bool{}
	for i, t := range p.Targets {
		switch {
		case t.Name == "" || names[t.Name]:
			at("targets", i, fmt.Errorf("name: %q is empty or the name of another row", t.Name))
		case !slices.Contains(kernel.ISAs, t.ISA):
			at("targets", i, fmt.Errorf("isa: unknown instruction set %q; valid: %v", t.ISA, kernel.ISAs))
		}
		names[t.Name] = true
		at("targets", i, t.Validate())
	}
	for i, f := range p.FFNs {
		at("ffns", i, f.Validate())
	}
	for i, l := range p.Linears {
		at("linears", i, l.Validate())
	}
	rows := map[string]bool{}
	for i, k := range p.Kernels {
		err := k.Validate()
		if err == nil && rows[k.Name()] {
			err = fmt.Errorf("a second kernel %s", k.Name())
		}
		at("kernels", i, err)
		if err == nil {
			rows[k.Name()] = true
		}
	}
	for i, v := range p.Vecs {
		at("vecs", i, v.Validate())
	}
	return errors.Join(errs...)
}

// JSON is the package as text.
func (p Package) JSON() ([]byte, error) {
	b, err := json.MarshalIndent(p, "", " ")
	return append(b, '\n'), err
}

// Read reads what JSON wrote. Fields that are unknown are errors, and so is what
// [Package.Validate] finds.
func Read(r io.Reader) (Package, error) {
	var p Package
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return p, err
	}
	if _, err := d.Token(); err != io.EOF {
		return p, errors.New("something follows the package")
	}
	return p, p.Validate()
}

// Files emits the package: all that this, and nothing else, decides.
func (p Package) Files() ([]File, error) {
	if err := p.Validate(); err != nil {
		return nil, err
	}
	files := map[string][]byte{}
	put := func(name string, data []byte, err error) error {
		files[name] = data
		return err
	}
	if len(p.Targets) > 0 {
		data, err := bind.Targets(p.Name, p.Targets)
		if err := put("z_targets.go", data, err); err != nil {
			return nil, err
		}
	}
	if len(p.Kernels) > 0 { // layers of a few columns have none of their own
		asm, err := simd.Mul(p.Name, p.Kernels)
		if err != nil {
			return nil, err
		}
		maps.Copy(files, asm)
		data, err := bind.Register(p.Name, p.Kernels)
		if err := put("z_register_amd64.go", data, err); err != nil {
			return nil, err
		}
	}
	if len(p.Vecs) > 0 {
		asm, err := simd.Vec(p.Name, p.Vecs)
		if err != nil {
			return nil, err
		}
		maps.Copy(files, asm)
		data, err := bind.RegisterVecs(p.Name, p.Vecs)
		if err := put("z_vec_register_amd64.go", data, err); err != nil {
			return nil, err
		}
	}
	if len(p.FFNs)+len(p.Linears) > 0 {
		data, err := p.Constructors(true)
		if err := put("z_ffn.go", data, err); err != nil {
			return nil, err
		}
		data, err = bind.Test(p.Name, p.FFNs, len(p.Kernels) > 0)
		if err := put("z_kernels_test.go", data, err); err != nil {
			return nil, err
		}
	}
	var out []File
	for name, data := range files {
		out = append(out, File{name, data})
	}
	slices.SortFunc(out, func(a, b File) int { return cmp.Compare(a.Name, b.Name) })
	return out, nil
}

// Constructors writes the specs of the package's networks and, for CPUs, their
// constructors.
func (p Package) Constructors(cpus bool) ([]byte, error) {
	var doc bytes.Buffer
	what := "kernels"
	if !cpus {
		what = "GPU kernels"
	}
	fmt.Fprintf(&doc, "Package %s holds %s specialised for these shapes, registered when the\npackage is linked:\n\n", p.Name, what)
	for _, f := range p.FFNs {
		fmt.Fprintf(&doc, "  - %s\n", f.Name())
	}
	for _, l := range p.Linears {
		fmt.Fprintf(&doc, "  - %s\n", l.Name())
	}
	return bind.FFNs(p.Name, doc.String(), p.FFNs, cpus)
}
