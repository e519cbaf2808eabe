package cuda

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// The committed reports of ptxas and of the disassembly hold every kernel to
// its plan: registers, tensor-core instructions, 16-byte copies and stores, no
// spills, shared memory. This needs no toolkit.
func TestGates(t *testing.T) {
	tables := map[string][]gpu.Kernel{shippedDir: shipped(t)}
	for dir := range folders {
		tables[dir] = tableOf(t, dir)
	}
	for dir, ks := range tables {
		m, text := manifest(t, dir)
		if !bytes.Equal(m.Text(), text) {
			t.Errorf("%s: the manifest does not survive reading and writing", dir)
		}
		if len(m.Kernels) != len(ks) {
			t.Errorf("%s: %d kernels in the manifest, %d in the plan", dir, len(m.Kernels), len(ks))
		}
		if err := m.Check(ks); err != nil {
			t.Error(err)
		}
		// Each gate must be able to fail.
		k := ks[0].Name
		for _, spoil := range []struct {
			want  string
			spoil func(*Compiled)
		}{
			{"registers", func(c *Compiled) { c.Registers = 240 }},
			{"tensor-core instructions", func(c *Compiled) { c.MMA-- }},
			{"fragment loads", func(c *Compiled) { c.LDMatrix++ }},
			{"16-byte copies", func(c *Compiled) { c.Copies-- }},
			{"16-byte stores", func(c *Compiled) { c.Stores-- }},
			{"copies of other sizes", func(c *Compiled) { c.OtherCopies++ }},
			{"stores of other sizes", func(c *Compiled) { c.OtherStores++ }},
			{"local memory", func(c *Compiled) { c.Local++ }},
		} {
			good := m.Kernels[k]["sm_90"]
			bad := good
			spoil.spoil(&bad)
			m.Kernels[k]["sm_90"] = bad
			if err := m.Check(ks[:1]); err == nil || !strings.Contains(err.Error(), spoil.want) {
				t.Errorf("%s: %v", spoil.want, err)
			}
			m.Kernels[k]["sm_90"] = good
		}
	}
}

// manifest reads that of a folder, and its text.
func manifest(t *testing.T, dir string) (Listing, []byte) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, Manifest))
	if err != nil {
		t.Fatal(err)
	}
	m, err := ParseManifest(string(text))
	if err != nil {
		t.Fatal(err)
	}
	return m, text
}

// committed lists the manifest and the files of some kinds.
func committed(ks []gpu.Kernel, kinds ...string) []string {
	names := []string{Manifest}
	for _, file := range gpu.Files(ks) {
		for _, kind := range kinds {
			names = append(names, "z_"+file+kind)
		}
	}
	return names
}

// Stale or edited PTX or machine code is an error that says so, without a
// toolkit.
func TestStale(t *testing.T) {
	t.Run("PTX", func(t *testing.T) { testStale(t, smallDir, tableOf(t, smallDir), PTX) })
	t.Run("machine code", func(t *testing.T) { testStale(t, shippedDir, shipped(t), Fatbin) })
}

func testStale(t *testing.T, from string, ks []gpu.Kernel, kind string) {
	sources, err := Sources(ks)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range committed(ks, kind) {
		data, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := Fresh(dir, sources, kind); err != nil {
		t.Fatal(err)
	}
	changed, err := Sources(ks[1:])
	if err != nil {
		t.Fatal(err)
	}
	if err := Fresh(dir, changed, kind); err == nil || !strings.Contains(err.Error(), "is stale: it was made from another") {
		t.Error(err)
	}
	name := filepath.Join(dir, "z_"+string(table.Forward)+kind)
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(name, data, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := Fresh(dir, sources, kind); err == nil || !strings.Contains(err.Error(), kind+" is not what z_cuda.txt says: it was changed by hand") {
		t.Error(err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if err := Fresh(dir, sources, kind); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if err := os.WriteFile(filepath.Join(dir, Manifest), []byte(Mark+"toolkit 1\nkernel x\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := Fresh(dir, sources, kind); err == nil || !strings.Contains(err.Error(), `line 3: "kernel x" is no line of a manifest`) {
		t.Error(err)
	}
}

// Without a toolkit Build takes the committed files, and refuses edited machine
// code.
func TestBuildWithoutToolkit(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv(EnvHome, "")
	ks, dir := shipped(t), t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(shippedDir)); err != nil {
		t.Fatal(err)
	}
	files, err := Build(dir, "", ks)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range committed(ks, PTX, Fatbin) {
		if len(files[name]) == 0 {
			t.Errorf("no %s", name)
		}
	}
	name := filepath.Join(dir, fatbinName(string(table.Forward)))
	if err := os.WriteFile(name, files[fatbinName(string(table.BackwardData))], 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Build(dir, "", ks); !errors.Is(err, ErrNoToolkit) || !strings.Contains(err.Error(), "z_forward.fatbin is not what z_cuda.txt says") {
		t.Error(err)
	}
}

func FuzzManifest(f *testing.F) {
	text, err := os.ReadFile(filepath.Join(smallDir, Manifest))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(text[:2000]))
	f.Add(Mark + "source a b\n")
	f.Fuzz(func(t *testing.T, text string) {
		if m, err := ParseManifest(text); err == nil {
			if _, err := ParseManifest(string(m.Text())); err != nil && !strings.ContainsAny(m.Toolkit, "\r\n") {
				t.Error(err)
			}
		}
	})
}

// toolkit skips the test where the toolkit that made the committed files is
// not here.
func toolkit(t *testing.T) *Toolkit {
	t.Helper()
	m, _ := manifest(t, smallDir)
	tk, err := Find("")
	if errors.Is(err, ErrNoToolkit) {
		t.Skip("skipped: ", err)
	} else if err != nil {
		t.Fatal(err)
	}
	if tk.Version != m.Toolkit {
		t.Skipf("skipped: nvcc is %s, the committed files were made by %s", tk.Version, m.Toolkit)
	}
	return tk
}

// The pinned toolkit makes the committed files again, byte for byte.
func TestReproducible(t *testing.T) {
	tk := toolkit(t)
	for dir := range folders {
		ks := tableOf(t, dir)
		files, err := Sources(ks)
		if err != nil {
			t.Fatal(err)
		}
		if err := tk.Compile(files, ks); err != nil {
			t.Fatal(err)
		}
		if err := files.keep(dir); err != nil {
			t.Fatal(err)
		}
		// The manifest holds the hashes of the machine code.
		for _, name := range committed(ks, PTX) {
			name = filepath.Join(dir, name)
			want, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(files[filepath.Base(name)], want) {
				t.Errorf("%s is not what the toolkit makes of the sources", name)
			}
		}
	}
}

// NVIDIA's own tool finds in the committed machine code the very cubins that the
// gates were read from.
func TestFatbins(t *testing.T) {
	tk := toolkit(t)
	m, _ := manifest(t, shippedDir)
	for _, file := range gpu.Files(shipped(t)) {
		fatbin, err := filepath.Abs(filepath.Join(shippedDir, fatbinName(file)))
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if _, err := tk.run(dir, "cuobjdump", "-xelf", "all", fatbin); err != nil {
			t.Fatal(err)
		}
		cubins, err := os.ReadDir(dir)
		if err != nil || len(cubins) != len(Architectures) {
			t.Fatalf("%s holds %v, want cubins for %v", fatbin, cubins, Architectures)
		}
		for i, arch := range Architectures {
			data, err := os.ReadFile(filepath.Join(dir, cubins[i].Name()))
			if err != nil {
				t.Fatal(err)
			}
			if want := m.Hashes[cubinName(file, arch)]; want == "" || hash(data) != want {
				t.Errorf("%s: %s is not the cubin of the manifest", fatbin, cubins[i].Name())
			}
		}
	}
}

// A kernel that spills is an error, and the compilers' words are shown.
func TestSpill(t *testing.T) {
	tk := toolkit(t)
	var ks []gpu.Kernel
	for _, k := range gpu.Table(planned(t, small[:1])...) {
		if p, ok := k.Plan.(gpu.Product); ok {
			p.BlocksPerSM = 8
			ks = append(ks, p.Kernel())
		}
	}
	ks = gpu.Unique(ks)
	files, err := Sources(ks)
	if err != nil {
		t.Fatal(err)
	}
	if err := tk.Compile(files, ks); err == nil || !strings.Contains(err.Error(), "spill") {
		t.Errorf("%v, want ptxas' error about spills", err)
	}
	first := sourceName(files.names()[0])
	files[first] = append(files[first], "int x = y;\n"...)
	if err := tk.Compile(files, ks); err == nil || !strings.Contains(err.Error(), `identifier "y" is undefined`) {
		t.Errorf("%v, want nvcc's error about y", err)
	}
}

// The words of ptxas differ: only newer ones name barriers.
func TestParseLog(t *testing.T) {
	const log = "ptxas info    : Compiling entry function 'a' for 'sm_80'\nptxas info    : Used 40 registers, used 1 barriers, 400 bytes cmem[0]\n" +
		"ptxas info    : Compiling entry function 'b' for 'sm_80'\nptxas info    : Used 32 registers, 388 bytes cmem[0]\n"
	found := map[string]Compiled{}
	if err := parseLog([]byte(log), found); err != nil {
		t.Fatal(err)
	}
	if want := (map[string]Compiled{"a": {Registers: 40, Barriers: 1}, "b": {Registers: 32}}); !maps.Equal(found, want) {
		t.Errorf("%v, want %v", found, want)
	}
	if err := parseLog([]byte(log[strings.Index(log, "\n")+1:]), found); err == nil {
		t.Error("registers of no kernel")
	}
}

func TestFind(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	t.Setenv(EnvHome, "")
	if _, err := Find(""); !errors.Is(err, ErrNoToolkit) {
		t.Error(err)
	}
	t.Setenv(EnvHome, "/no/toolkit")
	if _, err := Find(""); err == nil || !strings.Contains(err.Error(), "no nvcc at /no/toolkit/bin/nvcc") {
		t.Error(err)
	}
	fake := filepath.Join(t.TempDir(), "nvcc")
	if err := os.WriteFile(fake, []byte("#!/bin/sh\necho broken >&2\nexit 3\n"), 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(fake); err == nil || !strings.Contains(err.Error(), "exit status 3\nbroken") {
		t.Error(err)
	}
}
