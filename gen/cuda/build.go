package cuda

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/internal/gz"
	"github.com/structuredffn/sffn/templates"
)

// Files are the generated files of one folder by name.
type Files map[string][]byte

// Sources writes the CUDA C of the kernels, and the device vocabulary.
func Sources(kernels []gpu.Kernel) (Files, error) {
	header, err := templates.FS.ReadFile("device.cuh")
	if err != nil {
		return nil, err
	}
	files := Files{Header: header}
	for _, name := range gpu.Files(kernels) {
		src, err := Source(name, kernels)
		if err != nil {
			return nil, err
		}
		files[sourceName(name)] = src
	}
	return files, nil
}

// What is made of a source file: the text that any device's driver compiles,
// packed by [gz.Pack], and the machine code of Architectures in one image.
const (
	PTX    = ".ptx.gz"
	Fatbin = ".fatbin"
)

func sourceName(file string) string { return "z_" + file + ".cu" }
func ptxName(file string) string    { return "z_" + file + PTX }
func textName(file string) string   { return "z_" + file + ".ptx" }
func fatbinName(file string) string { return "z_" + file + Fatbin }

// names lists the files of kernels among the sources.
func (f Files) names() []string {
	var names []string
	for name := range f {
		if file, ok := strings.CutSuffix(name, ".cu"); ok {
			names = append(names, strings.TrimPrefix(file, "z_"))
		}
	}
	slices.Sort(names)
	return names
}

// Manifest is the name of the file that ties sources, PTX and machine code
// together.
const Manifest = "z_cuda.txt"

// PTX is the text of a file's kernels.
func (f Files) PTX(file string) ([]byte, error) {
	text, err := gz.Unpack(f[ptxName(file)])
	if err != nil {
		err = fmt.Errorf("%s: %w", ptxName(file), err)
	}
	return text, err
}

// made is what a file's PTX or machine code is known by in the manifest, and its
// content, of PTX the text.
func (f Files) made(file, kind string) (name string, data []byte, err error) {
	if kind == PTX {
		data, err = f.PTX(file)
		return textName(file), data, err
	}
	return fatbinName(file), f[fatbinName(file)], nil
}

// keep takes the PTX and the rows in dir for those which unpack to the same text:
// another version of Go packs them in another way.
func (f Files) keep(dir string) error {
	packed := []string{Rows}
	for _, file := range f.names() {
		packed = append(packed, ptxName(file))
	}
	for _, name := range packed {
		data, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		want, err := gz.Unpack(f[name])
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if text, err := gz.Unpack(data); err == nil && bytes.Equal(text, want) {
			f[name] = data
		}
	}
	return nil
}

// sourceHash is that of everything that a file's PTX or fatbin is made from but
// the toolkit.
func sourceHash(f Files, file, kind string) string {
	h := sha256.New()
	fmt.Fprintln(h, nvccFlags, ptxasFlags, ptxVersion, Architectures)
	if kind == Fatbin {
		fmt.Fprintln(h, fatbinFlags)
	}
	h.Write(f[Header])
	h.Write(f[sourceName(file)])
	return fmt.Sprintf("%x", h.Sum(nil))
}

// Fresh adds the manifest and files of the kinds PTX and Fatbin that lie in dir
// to the sources when they were made from them, and says what is stale otherwise.
// It needs no toolkit.
func Fresh(dir string, sources Files, kinds ...string) error {
	text, err := os.ReadFile(filepath.Join(dir, Manifest))
	if err != nil {
		return err
	}
	m, err := ParseManifest(string(text))
	if err != nil {
		return fmt.Errorf("cuda: %s: %w", filepath.Join(dir, Manifest), err)
	}
	found := Files{Manifest: text}
	for _, file := range sources.names() {
		for _, kind := range kinds {
			path := filepath.Join(dir, "z_"+file+kind)
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			found[filepath.Base(path)] = data
			name, data, err := found.made(file, kind)
			switch {
			case m.Sources[name] != sourceHash(sources, file, kind):
				return fmt.Errorf("cuda: %s is stale: it was made from another %s", path, sourceName(file))
			case err != nil:
				return fmt.Errorf("cuda: %s is not what %s says: it was changed by hand: %w", path, Manifest, err)
			case hash(data) != m.Hashes[name]:
				return fmt.Errorf("cuda: %s is not what %s says: it was changed by hand", path, Manifest)
			}
		}
	}
	for name, data := range found {
		sources[name] = data
	}
	return nil
}

func hash(data []byte) string { return fmt.Sprintf("%x", sha256.Sum256(data)) }

// Build returns the sources of the kernels with their PTX, machine code and
// manifest. What lies in dir is taken where it is fresh and no nvcc is named;
// otherwise nvcc, found as [Find] does, makes it, and PTX whose text is the same
// stays as it lies there.
func Build(dir, nvcc string, kernels []gpu.Kernel) (Files, error) {
	files, err := Sources(kernels)
	if err != nil {
		return nil, err
	}
	stale := Fresh(dir, files, PTX, Fatbin)
	if stale == nil && nvcc == "" {
		return files, errors.Join(files.AddRows(kernels), files.keep(dir))
	}
	t, err := Find(nvcc)
	if err != nil {
		if stale != nil && !errors.Is(stale, fs.ErrNotExist) {
			err = fmt.Errorf("%w\n%w", stale, err)
		}
		return nil, err
	}
	if err := t.Compile(files, kernels); err != nil {
		return nil, err
	}
	return files, errors.Join(files.AddRows(kernels), files.keep(dir))
}

// Compile adds PTX, machine code and the manifest to the sources, after it has
// held every kernel to its plan.
func (t *Toolkit) Compile(files Files, kernels []gpu.Kernel) error {
	dir, err := os.MkdirTemp("", "sffn-cuda-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	m := Listing{Toolkit: t.Version, Sources: map[string]string{}, Hashes: map[string]string{}, Kernels: map[string]map[string]Compiled{}}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o666); err != nil {
			return err
		}
	}
	for _, file := range files.names() {
		name := textName(file)
		ptx, err := t.compile(dir, sourceName(file))
		if err != nil {
			return err
		}
		m.Sources[name], m.Hashes[name] = sourceHash(files, file, PTX), hash(ptx)
		files[ptxName(file)] = gz.Pack(ptx)
		if err := os.WriteFile(filepath.Join(dir, name), ptx, 0o666); err != nil {
			return err
		}
		for _, arch := range Architectures {
			cubin, found, err := t.assemble(dir, name, arch)
			if err != nil {
				return err
			}
			m.Hashes[cubinName(file, arch)] = hash(cubin)
			for kernel, c := range found {
				if m.Kernels[kernel] == nil {
					m.Kernels[kernel] = map[string]Compiled{}
				}
				m.Kernels[kernel][arch] = c
			}
		}
		name = fatbinName(file)
		if files[name], err = t.pack(dir, file); err != nil {
			return err
		}
		m.Sources[name], m.Hashes[name] = sourceHash(files, file, Fatbin), hash(files[name])
	}
	files[Manifest] = m.Text()
	return m.Check(kernels)
}

// Listing is the content of the manifest: which toolkit made what from what,
// and what ptxas and the disassembly say about every kernel.
type Listing struct {
	Toolkit string
	// Sources holds, by file of PTX or machine code, the hash of what it was made
	// from; Hashes those of the files themselves, and of the cubins in them.
	Sources, Hashes map[string]string
	// Kernels holds what was found by name and architecture.
	Kernels map[string]map[string]Compiled
}

const kernelLine = "kernel %s %s registers %d barriers %d mma %d ldmatrix %d copies %d stores %d other_copies %d other_stores %d local %d"

// Text is the manifest, one fact a line, sorted.
func (m Listing) Text() []byte {
	var lines []string
	for name, h := range m.Sources {
		lines = append(lines, fmt.Sprintf("source %s %s", name, h))
	}
	for name, h := range m.Hashes {
		lines = append(lines, fmt.Sprintf("sha256 %s %s", name, h))
	}
	for name, archs := range m.Kernels {
		for arch, c := range archs {
			lines = append(lines, fmt.Sprintf(kernelLine, name, arch, c.Registers, c.Barriers, c.MMA, c.LDMatrix, c.Copies, c.Stores, c.OtherCopies, c.OtherStores, c.Local))
		}
	}
	slices.Sort(lines)
	return []byte(Mark + "toolkit " + m.Toolkit + "\n" + strings.Join(lines, "\n") + "\n")
}

// ParseManifest reads what Text wrote.
func ParseManifest(text string) (Listing, error) {
	m := Listing{Sources: map[string]string{}, Hashes: map[string]string{}, Kernels: map[string]map[string]Compiled{}}
	rest, ok := strings.CutPrefix(text, Mark)
	if !ok {
		return m, fmt.Errorf("line 1: want %q", strings.TrimSpace(Mark))
	}
	for i, line := range strings.Split(strings.TrimSuffix(rest, "\n"), "\n") {
		var name, value string
		var c Compiled
		switch word, _, _ := strings.Cut(line, " "); word {
		case "toolkit":
			m.Toolkit = strings.TrimPrefix(line, "toolkit ")
			continue
		case "source", "sha256":
			if n, _ := fmt.Sscanf(line, word+" %s %s", &name, &value); n == 2 {
				map[string]map[string]string{"source": m.Sources, "sha256": m.Hashes}[word][name] = value
				continue
			}
		case "kernel":
			n, _ := fmt.Sscanf(line, kernelLine, &name, &value, &c.Registers, &c.Barriers, &c.MMA, &c.LDMatrix, &c.Copies, &c.Stores, &c.OtherCopies, &c.OtherStores, &c.Local)
			if n == 11 {
				if m.Kernels[name] == nil {
					m.Kernels[name] = map[string]Compiled{}
				}
				m.Kernels[name][value] = c
				continue
			}
		}
		return m, fmt.Errorf("line %d: %q is no line of a manifest", i+2, line)
	}
	return m, nil
}

// Check holds every kernel on every architecture to its plan.
func (m Listing) Check(kernels []gpu.Kernel) error {
	var errs []error
	for _, k := range kernels {
		for _, arch := range Architectures {
			c, ok := m.Kernels[k.Name][arch]
			if !ok {
				errs = append(errs, fmt.Errorf("cuda: %s was not compiled for %s", k.Name, arch))
				continue
			}
			for _, g := range []struct {
				what      string
				got, want int
				atMost    bool
			}{
				{"registers", c.Registers, k.MaxRegisters(), true},
				{"tensor-core instructions", c.MMA, k.Counts.MMA, false},
				{"fragment loads", c.LDMatrix, k.Counts.LDMatrix, false},
				{"16-byte copies", c.Copies, k.Counts.Copies, false},
				{"16-byte stores", c.Stores, k.Counts.Stores, false},
				{"copies of other sizes", c.OtherCopies, k.Counts.OtherCopies, false},
				{"stores of other sizes", c.OtherStores, k.Counts.OtherStores, false},
				{"accesses to local memory", c.Local, 0, false},
			} {
				if g.got > g.want || g.got < g.want && !g.atMost {
					errs = append(errs, fmt.Errorf("cuda: %s on %s: %d %s, the plan says %d", k.Name, arch, g.got, g.what, g.want))
				}
			}
		}
		if limit := maxShared[Architectures[0]]; k.BlocksPerSM*(k.SharedBytes+1024) > limit {
			errs = append(errs, fmt.Errorf("cuda: %s: %d blocks of %d bytes of shared memory exceed the %d of %s", k.Name, k.BlocksPerSM, k.SharedBytes, limit, Architectures[0]))
		}
	}
	return errors.Join(errs...)
}

// maxShared is the shared memory of a multiprocessor; each block takes 1 KB
// of it beside its own.
var maxShared = map[string]int{"sm_80": 164 << 10, "sm_90": 228 << 10}
