package golden

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/f64ref"
	"github.com/structuredffn/sffn/model/safetensors"
	rt "github.com/structuredffn/sffn/runtime"
)

// layerVectors writes a directory with one layer case, computed in float64.
func layerVectors(t testing.TB, l spec.Linear) (dir string, manifest map[string]any) {
	t.Helper()
	r := rand.New(rand.NewPCG(2, 3))
	const m = 5
	dir = t.TempDir()
	tensors := map[string]any{}
	var values []safetensors.Value
	narrow := func(x []float64) []float32 {
		y := make([]float32, len(x))
		for i, v := range x {
			y[i] = float32(v)
		}
		return y
	}
	add := func(name, role string, x []float64, shape ...int) {
		values = append(values, safetensors.Value{Name: name, Shape: shape, Data: narrow(x)})
		e := map[string]any{"shape": shape, "dtype": "F32", "role": role}
		if role == "expected" {
			e["atol"] = 1e-4
		}
		tensors[name] = e
	}
	draw := func(n int) []float64 {
		x := make([]float64, n)
		for i := range x {
			x[i] = float64(float32(r.NormFloat64()))
		}
		return x
	}
	x, dy, bias := draw(m*l.In), draw(m*l.Out), draw(l.Out)
	var fs [][]float64
	for _, f := range l.Chain() {
		w := draw(f.Weights())
		fs = append(fs, w)
		add("param."+f.Param, "input", w, f.Shape...)
	}
	w := f64ref.Merged(l, fs)
	mixed, share := w, 1.0 // what the layer amounts to, and the factors' share of it
	var guide []float64
	if l.Guide {
		const ratio = 0.375
		guide, mixed, share = draw(l.Out*l.In), slices.Clone(w), 1-ratio
		for i := range mixed {
			mixed[i] = ratio*guide[i] + share*w[i]
		}
		add("param.guide_linear", "input", guide, l.Out, l.In)
		add("ratio", "input", []float64{ratio})
	}
	dx, dw, db := f64ref.LinearBackward(mixed, x, dy, m, l.In, l.Out)
	add("param.bias", "input", bias, l.Out)
	add("x", "input", x, m, l.In)
	add("dy", "input", dy, m, l.Out)
	add("y", "expected", f64ref.Linear(mixed, bias, x, m, l.In, l.Out), m, l.Out)
	add("dx", "expected", dx, m, l.In)
	add("W", "expected", w, l.Out, l.In)
	add("grad.bias", "expected", db, l.Out)
	scaled := func(a float64) []float64 {
		y := slices.Clone(dw)
		for i := range y {
			y[i] *= a
		}
		return y
	}
	if l.Guide {
		add("grad.guide_linear", "expected", scaled(1-share), l.Out, l.In)
	}
	for i, g := range f64ref.FactorGradients(l, fs, scaled(share)) {
		add("grad."+l.Chain()[i].Param, "expected", g, l.Chain()[i].Shape...)
	}
	f, err := os.Create(filepath.Join(dir, "own.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := safetensors.Write(f, values, nil); err != nil {
		t.Fatal(err)
	}
	kind := "layer"
	if l.Guide {
		kind = "guided_layer"
	}
	c := map[string]any{"name": "own", "kind": kind, "file": "own.safetensors", "layer": l.Kind, "in": l.In, "out": l.Out,
		"rank": l.Rank, "nblocks": l.Blocks, "bias": true, "tensors": tensors}
	return dir, map[string]any{"format": 1, "cases": []any{c}}
}

func writeManifest(t testing.TB, dir string, m any) {
	t.Helper()
	b, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "manifest.json"), b, 0o666); err != nil {
		t.Fatal(err)
	}
}

func only(t testing.TB, dir string) Result {
	t.Helper()
	var rs []Result
	if _, err := Verify(os.DirFS(dir), rt.Options{Pool: rt.NewPool(1)}, func(r Result) { rs = append(rs, r) }); err != nil {
		t.Fatal(err)
	}
	if len(rs) != 1 {
		t.Fatalf("%d results", len(rs))
	}
	return rs[0]
}

// Vectors of our own: right ones pass, and whatever is wrong with a directory
// fails and says where.
func TestOwnVectors(t *testing.T) {
	l := spec.Linear{Kind: spec.BlockShuffle, In: 12, Out: 20, Blocks: 4, Bias: true}
	dir, m := layerVectors(t, l)
	c := m["cases"].([]any)[0].(map[string]any)
	tensors := c["tensors"].(map[string]any)
	writeManifest(t, dir, m)
	if r := only(t, dir); r.Status != Passed || r.Worst <= 0 || r.Worst > 1 {
		t.Fatalf("%+v", r)
	}
	for _, tt := range []struct {
		want string
		edit func() (undo func())
	}{
		{"y[", func() func() { return set(tensors["y"], "atol", 1e-12) }},
		{"gives no tolerance", func() func() { return set(tensors["dx"], "atol", 0) }},
		{"nothing computed for more", func() func() { return set(tensors, "more", map[string]any{"role": "expected"}) }},
		{"blocks: 5 does not divide in 12", func() func() { return set(c, "nblocks", 5) }},
		{"param.blkdiag1 has shape [4 3 3], want [2 6 6]", func() func() { return set(c, "nblocks", 2) }},
		{"in: -3 is out of range", func() func() { return set(c, "in", -3) }},
		{"unknown kind \"layers\"", func() func() { return set(c, "kind", "layers") }},
		{"is not inside the directory", func() func() { return set(c, "file", "../own.safetensors") }},
		{"no such file", func() func() { return set(c, "file", "none.safetensors") }},
	} {
		undo := tt.edit()
		writeManifest(t, dir, m)
		undo()
		if r := only(t, dir); r.Status != Failed || !strings.Contains(r.Reason, tt.want) {
			t.Errorf("got %+v, want a failure with %q", r, tt.want)
		}
	}
	for text, want := range map[string]string{"{}": "format 0 is unknown", "[": "unexpected end", `{"format":1}`: "no cases"} {
		if err := os.WriteFile(filepath.Join(dir, "manifest.json"), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := Verify(os.DirFS(dir), rt.Options{}, func(Result) {}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// A guided layer of our own, and one whose ratio is another.
func TestOwnGuided(t *testing.T) {
	for _, l := range []spec.Linear{
		{Kind: spec.LowRank, In: 12, Out: 20, Rank: 5, Bias: true, Guide: true},
		{Kind: spec.BlockShuffle, In: 12, Out: 20, Blocks: 4, Bias: true, Guide: true},
	} {
		dir, m := layerVectors(t, l)
		writeManifest(t, dir, m)
		if r := only(t, dir); r.Status != Passed || r.Worst <= 0 {
			t.Errorf("%+v", r)
		}
		set(m["cases"].([]any)[0], "kind", "layer")
		writeManifest(t, dir, m)
		if r := only(t, dir); r.Status != Failed {
			t.Errorf("without its guide: %+v", r)
		}
	}
}

func set(m any, key string, v any) (undo func()) {
	o := m.(map[string]any)
	old, had := o[key]
	o[key] = v
	return func() {
		if had {
			o[key] = old
		} else {
			delete(o, key)
		}
	}
}

// Whatever a manifest says of a file, the case passes or fails.
func FuzzManifest(f *testing.F) {
	dir, m := layerVectors(f, spec.Linear{Kind: spec.LowRank, In: 4, Out: 6, Rank: 2, Bias: true})
	b, err := json.Marshal(m)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add([]byte(`{"format":1,"cases":[{"kind":"model","file":"own.safetensors","model":{"hidden_dim":1048576,"vocab_size":1048576}}]}`))
	f.Add([]byte(`{"format":1,"cases":[{"kind":"trajectory","file":"own.safetensors","steps":-1},{"kind":"lr_schedule","file":"own.safetensors","schedules":[{}]}]}`))
	f.Add([]byte(`{"format":1,"cases":[{"kind":"layer","file":"../own.safetensors"},{"kind":"mlp","file":"/dev/zero"},{"kind":"init","file":""}]}`))
	f.Add([]byte(`{"format":1,"cases":` + strings.Repeat(`[{"tensors":`, 20)))
	tensors, err := os.ReadFile(filepath.Join(dir, "own.safetensors"))
	if err != nil {
		f.Fatal(err)
	}
	pool := rt.NewPool(1)
	f.Fuzz(func(t *testing.T, manifest []byte) {
		dir := t.TempDir()
		for name, b := range map[string][]byte{"manifest.json": manifest, "own.safetensors": tensors} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		_, err := Verify(os.DirFS(dir), rt.Options{Pool: pool}, func(r Result) {
			if r.Status == Failed && r.Reason == "" {
				t.Errorf("%s fails without a reason", fmt.Sprint(r))
			}
		})
		_ = err // a manifest that cannot be read
	})
}
