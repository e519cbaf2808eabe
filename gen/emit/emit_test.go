package emit_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen"
	"github.com/structuredffn/sffn/gen/emit"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// small is a package with kernels of every form, few enough to be emitted often.
func small(t *testing.T) emit.Package {
	t.Helper()
	p, err := gen.Package{Name: "small", FFNs: []spec.FFN{{Kind: spec.BlockShuffle, Hidden: 64, FFN: 128, Blocks: 2, Act: spec.SwiGLU, Bias: true}},
		Linears: []spec.Linear{{Kind: spec.Dense, In: 20, Out: 48}}}.Plan()
	if err != nil {
		t.Fatal(err)
	}
	any := gen.AnyShape()
	kernels := p.Kernels
	p.Kernels = nil
	for _, want := range []func(k kernel.Row) bool{
		func(k kernel.Row) bool { return k.MR > 1 && k.ISA == kernel.AVX512 && len(k.Shape.Segs) > 1 },
		func(k kernel.Row) bool { return k.MR == 1 && k.ISA == kernel.AVX2 && k.NR == kernel.LongPanel },
		func(k kernel.Row) bool { return k.MR > 1 && k.ISA == kernel.AVX2 && k.Epilogue.Gated() },
	} {
		i := slices.IndexFunc(kernels, want)
		if i < 0 {
			t.Fatal("no such kernel")
		}
		p.Kernels = append(p.Kernels, kernels[i])
	}
	for _, want := range []func(k kernel.Row) bool{
		func(k kernel.Row) bool { return k.Strip && k.MR == 3 },
		func(k kernel.Row) bool { return !k.Strip && k.MR == 4 && k.NR == 2*kernel.Panel },
		func(k kernel.Row) bool { return k.Across && k.ISA == kernel.AVX2 && k.MR == 3 && k.NR == 2 },
	} {
		p.Kernels = append(p.Kernels, any.Kernels[slices.IndexFunc(any.Kernels, want)])
	}
	return p
}

func read(p []byte) (emit.Package, error) { return emit.Read(bytes.NewReader(p)) }

// Every leaf of the plan matters: a change of any changes the files, or is refused.
func TestEveryLeafMatters(t *testing.T) {
	t.Run("products", func(t *testing.T) { everyLeaf(t, small(t), 150) })
	t.Run("elementwise", func(t *testing.T) {
		everyLeaf(t, emit.Package{Name: "vecs", Sums: kernel.AllSums, Vecs: gen.AnyShape().Vecs[1:]}, 25)
	})
}

func everyLeaf(t *testing.T, p emit.Package, least int) {
	text, err := p.JSON()
	if err != nil {
		t.Fatal(err)
	}
	want, err := p.Files()
	if err != nil {
		t.Fatal(err)
	}
	back, err := read(text)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := back.Files(); err != nil || !reflect.DeepEqual(got, want) {
		t.Fatalf("what was written and read again gives other files (%v)", err)
	}
	var tree any
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	if err := d.Decode(&tree); err != nil {
		t.Fatal(err)
	}
	leaves, refused := 0, 0
	walk(tree, "", func(path string, value any, set func(any)) {
		for _, other := range others(value) {
			if other == value {
				continue
			}
			leaves++
			set(other)
			changed, err := json.Marshal(tree)
			if err != nil {
				t.Fatal(err)
			}
			set(value)
			q, err := read(changed)
			if err == nil {
				var got []emit.File
				if got, err = q.Files(); err == nil && reflect.DeepEqual(got, want) {
					t.Errorf("%s: %v in place of %v changes nothing", path, other, value)
				}
			}
			if err == nil {
				break
			}
			refused++
		}
	})
	t.Logf("%d changes of leaves, %d of them refused", leaves, refused)
	if leaves < least || refused == leaves {
		t.Errorf("%d changes, %d refused", leaves, refused)
	}
}

// others are values that a leaf may be changed to.
func others(v any) []any {
	switch v := v.(type) {
	case json.Number:
		n, _ := v.Int64()
		return []any{n + 1, n + 4}
	case bool:
		return []any{!v}
	case string:
		return []any{v + "x", "avx512", "avx2", "gelu", ""}
	case nil:
		return []any{"x", 1}
	}
	return nil
}

// walk calls f for every leaf below v; set replaces it.
func walk(v any, path string, f func(path string, value any, set func(any))) {
	visit := func(child any, path string, set func(any)) {
		switch child.(type) {
		case map[string]any, []any:
			walk(child, path, f)
		default:
			f(path, child, set)
		}
	}
	switch v := v.(type) {
	case map[string]any:
		for k, child := range v {
			visit(child, path+"."+k, func(x any) { v[k] = x })
		}
	case []any:
		for i, child := range v {
			visit(child, fmt.Sprintf("%s[%d]", path, i), func(x any) { v[i] = x })
		}
	}
}

// What is no package says where and what would be right.
func TestRead(t *testing.T) {
	for _, c := range []struct {
		name, want string
		change     func(p *emit.Package)
	}{
		{"name", `package name "Small"`, func(p *emit.Package) { p.Name = "Small" }},
		{"sums", "this module's kernels and runtime sum by", func(p *emit.Package) { p.Sums.MaxKC = 512 }},
		{"target", "targets[1]: name", func(p *emit.Package) { p.Targets[1].Name = p.Targets[0].Name }},
		{"schedule", "targets[0]: row_tiles: 0 is out of range, want 1 to 15", func(p *emit.Package) { p.Targets[0].RowTiles = 0 }},
		{"isa", `kernels[0]: isa: "neon" has no assembly`, func(p *emit.Package) { p.Kernels[0].ISA = "neon" }},
		{"registers", "kernels[2]: sweeps: ", func(p *emit.Package) { p.Kernels[2].Sweeps = 3 }},
		{"tile", "mr: 16 is out of range", func(p *emit.Package) { p.Kernels[0].MR = 16 }},
		{"depth", "segments[0].length: 769 is out of range", func(p *emit.Package) { p.Kernels[1].Shape.Segs[0].Len = 769 }},
		{"twice", "kernels[1]: a second kernel", func(p *emit.Package) { p.Kernels[1] = p.Kernels[0] }},
		{"across", "kernels[5]: across: ", func(p *emit.Package) { p.Kernels[5].Epilogue = kernel.GELU }},
		{"across width", "kernels[5]: nr: 6 is out of range, want 1 to 5", func(p *emit.Package) { p.Kernels[5].NR = 6 }},
		{"across sweeps", "kernels[5]: sweeps: 1; avx2 has 2 in 16 lanes", func(p *emit.Package) { p.Kernels[5].Sweeps = 1 }},
		{"across unroll", "kernels[5]: unroll: 2", func(p *emit.Package) { p.Kernels[5].Unroll = 2 }},
		{"across tile", "across.rows: 0 is out of range", func(p *emit.Package) { p.Targets[0].Across.Rows = 0 }},
		{"layer", "ffns[0]: blocks", func(p *emit.Package) { p.FFNs[0].Blocks = 3 }},
	} {
		p := small(t)
		c.change(&p)
		text, err := p.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := read(text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	for text, want := range map[string]string{
		`{"package": "p", "kernel": []}`: "unknown field",
		`{"package": "p"} {}`:            "something follows",
		``:                               "EOF",
	} {
		if _, err := read([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// More registers than there are is an error of the emitter, not a kernel.
func TestTooManyRegisters(t *testing.T) {
	p := emit.Package{Name: "p", Sums: kernel.AllSums, Kernels: []kernel.Row{{ISA: kernel.AVX2, MR: 6, NR: 32, Sweeps: 1, Unroll: 4}}}
	if _, err := p.Files(); err == nil {
		t.Error("6x32 in one sweep fits 16 registers")
	}
}

// The emitters know no planner.
func TestNoPlanner(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(out), "gen/simd") || strings.Contains(string(out), "gen/plan") {
		t.Errorf("package emit depends on %s", out)
	}
}

func FuzzRead(f *testing.F) {
	text, err := emit.Package{Name: "p", Sums: kernel.AllSums, Targets: gen.AnyShape().Targets[:1], Kernels: gen.AnyShape().Kernels[:2]}.JSON()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Fuzz(func(t *testing.T, text []byte) {
		if p, err := read(text); err == nil && len(p.Kernels) < 4 && len(p.Vecs) < 2 {
			p.Files() // no panic
		}
	})
}
