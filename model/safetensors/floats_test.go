package safetensors

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// both opens a file mapped, where the system maps, and not.
func both(t *testing.T, content []byte) map[string]*File {
	t.Helper()
	mapped, err := Open(write(t, content))
	if err != nil {
		t.Fatal(err)
	}
	read, err := OpenFS(fstest.MapFS{"x": {Data: content}}, "x")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(mapped.Close(), read.Close()); err != nil {
			t.Error(err)
		}
	})
	if read.mapped != nil {
		t.Fatal("what lies in memory is mapped")
	}
	return map[string]*File{"mapped": mapped, "read": read}
}

// halves is a file of all numbers of 16 bits, as both types, after a byte that
// puts them at odd places.
func halves() []byte {
	header := `{"h":{"dtype":"F16","shape":[256,256],"data_offsets":[1,131073]},"b":{"dtype":"BF16","shape":[256,256],"data_offsets":[131073,262145]},` +
		`"odd":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"n":{"dtype":"I64","shape":[1],"data_offsets":[262145,262153]}}`
	b := append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...)
	b = append(b, 0)
	for range 2 {
		for i := range 1 << 16 {
			b = binary.LittleEndian.AppendUint16(b, uint16(i))
		}
	}
	return append(b, make([]byte, 8)...)
}

// float is the value of a number of so many bits of exponent and fraction, by the
// definition of IEEE 754.
func float(bits uint16, exponent, fraction int) float64 {
	e, f := int(bits>>fraction)&(1<<exponent-1), float64(bits&(1<<fraction-1))
	bias := 1<<(exponent-1) - 1
	x := math.Ldexp(1+math.Ldexp(f, -fraction), e-bias)
	switch {
	case e == 0:
		x = math.Ldexp(f, 1-bias-fraction)
	case e == 1<<exponent-1 && f == 0:
		x = math.Inf(1)
	case e == 1<<exponent-1:
		x = math.NaN()
	}
	if bits>>15 != 0 {
		x = -x
	}
	return x
}

// Every number of 16 bits is its value as float32, whole or in parts, by rows or
// by columns.
func TestFloats(t *testing.T) {
	for how, f := range both(t, halves()) {
		for name, format := range map[string][2]int{"h": {5, 10}, "b": {8, 7}} {
			all, err := f.Float32s(name)
			if err != nil || len(all) != 1<<16 {
				t.Fatalf("%s: %d entries of %s, %v", how, len(all), name, err)
			}
			for i, got := range all {
				want := float(uint16(i), format[0], format[1])
				if math.IsNaN(want) != math.IsNaN(float64(got)) || !math.IsNaN(want) && math.Float64bits(want) != math.Float64bits(float64(got)) {
					t.Fatalf("%s: %s %04x is %v, want %v", how, name, i, got, want)
				}
			}
			part := make([]float32, 40_000)
			if err := f.ReadPart(part, name, 3); err != nil || !same(part, all[3:40_003]) {
				t.Errorf("%s: a part of %s: %v", how, name, err)
			}
			columns := make([]float32, 5*256)
			if err := f.ReadColumns(columns, name, 7, 12); err != nil {
				t.Error(err)
			}
			for c := range 5 {
				for r := range 256 {
					if !same(columns[c*256+r:][:1], all[r*256+7+c:][:1]) {
						t.Fatalf("%s: column %d of %s at row %d", how, 7+c, name, r)
					}
				}
			}
		}
	}
}

func same(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

func TestFloatErrors(t *testing.T) {
	for how, f := range both(t, halves()) {
		for want, err := range map[string]error{
			"n is I64, want F32, F16 or BF16":            f.ReadPart(nil, "n", 0),
			"no tensor x":                                f.ReadPart(nil, "x", 0),
			"entries -1 to 0 of h, which has 65536":      f.ReadPart(make([]float32, 1), "h", -1),
			"entries 65536 to 65537 of h":                f.ReadPart(make([]float32, 1), "h", 65536),
			"columns 255 to 257 of h, which has shape":   f.ReadColumns(make([]float32, 512), "h", 255, 257),
			"columns 0 to 1 of h":                        f.ReadColumns(make([]float32, 255), "h", 0, 1),
			"h has 65536 entries, there is room for 1":   f.ReadFloat32s(make([]float32, 1), "h", []int{256, 256}),
			"h has shape [256 256], want [65536]":        f.ReadFloat32s(make([]float32, 65536), "h", []int{65536}),
			"odd is U8, want F32, F16 or BF16":           f.ReadColumns(nil, "odd", 0, 0),
			"odd is U8, want F32":                        func() error { _, err := f.ReadAll([]Value{{Name: "odd"}}); return err }(),
			"b is BF16, want F32":                        func() error { _, err := f.ReadAll([]Value{{Name: "b"}}); return err }(),
			"columns 1 to 0 of h, which has shape [256 ": f.ReadColumns(nil, "h", 1, 0),
		} {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v, want it to contain %q", how, err, want)
			}
		}
	}
}

// A file that becomes shorter while it is open is an error, mapped or not.
func TestShrunk(t *testing.T) {
	name := write(t, halves())
	f, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Truncate(name, 100); err != nil {
		t.Fatal(err)
	}
	err = f.ReadPart(make([]float32, 1<<16), "b", 0)
	if f.mapped != nil {
		if want := name + ": b cannot be read: it was cut off since it was opened, or its disk has failed"; err == nil || err.Error() != want {
			t.Errorf("%v, want %s", err, want)
		}
	} else if !errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

// folder writes files that tensors are in, and the index.
func folder(t *testing.T, index string, files map[string][]Value) string {
	t.Helper()
	dir := t.TempDir()
	for name, values := range files {
		f, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(Write(f, values, nil), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	if index != "" {
		if err := os.WriteFile(filepath.Join(dir, IndexFile), []byte(index), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func one(name string, x float32) Value {
	return Value{Name: name, Shape: []int{1}, Data: []float32{x}}
}

// The tensors of a folder are found, whether they lie in one file or in several.
func TestFolder(t *testing.T) {
	shards := map[string][]Value{"1.safetensors": {one("a", 1), one("b", 2)}, "2.safetensors": {one("c", 3)}}
	index := `{"metadata": {"total_size": 12}, "weight_map": {"a": "1.safetensors", "c": "2.safetensors", "b": "1.safetensors"}}`
	for what, dir := range map[string]string{
		"one file": folder(t, "", map[string][]Value{WholeFile: {one("a", 1), one("b", 2), one("c", 3)}}),
		"several":  folder(t, index, shards),
	} {
		d, err := OpenFolder(dir)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		names := slices.Sorted(slices.Values(d.Names()))
		if !slices.Equal(names, []string{"a", "b", "c"}) {
			t.Errorf("%s: %q", what, names)
		}
		for i, name := range names {
			f, _, ok := d.Lookup(name)
			if !ok {
				t.Fatalf("%s: no %s", what, name)
			}
			if x, err := f.Float32s(name); err != nil || x[0] != float32(i+1) {
				t.Errorf("%s: %s is %v, %v", what, name, x, err)
			}
		}
		if _, _, ok := d.Lookup("d"); ok {
			t.Errorf("%s has d", what)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	for want, index := range map[string]string{
		"neither model.safetensors nor model.safetensors.index.json": "",
		"weight_map is missing":                       `{"a": 1}`,
		"unexpected end of JSON":                      `{"weight_map": {"a": `,
		`"a" comes twice`:                             `{"weight_map": {"a": "1.safetensors", "a": "1.safetensors"}}`,
		`"a" is in "../1.safetensors", want the name`: `{"weight_map": {"a": "../1.safetensors"}}`,
		`"a" is in "", want`:                          `{"weight_map": {"a": ""}}`,
		`"a" is in "..", want`:                        `{"weight_map": {"a": ".."}}`,
		`"a": json`:                                   `{"weight_map": {"a": 1}}`,
		"no such file":                                `{"weight_map": {"a": "3.safetensors"}}`,
		`"d" is not in 1.safetensors`:                 `{"weight_map": {"d": "1.safetensors"}}`,
		`"b" of 1.safetensors is not listed`:          `{"weight_map": {"a": "1.safetensors", "c": "2.safetensors"}}`,
	} {
		dir := folder(t, index, shards)
		if d, err := OpenFolder(dir); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), dir) {
			t.Errorf("got %v, want it to contain %q", err, want)
			if err == nil {
				d.Close()
			}
		}
	}
	dir := folder(t, "", nil)
	if err := os.WriteFile(filepath.Join(dir, "pytorch_model.bin"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFolder(dir); err == nil || !strings.Contains(err.Error(), "pytorch_model.bin holds the weights as a program") {
		t.Error(err)
	}
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"weight_map": {"a": "1.safetensors"}}`))
	f.Add([]byte(`{"weight_map": {"a": "../1.safetensors"}}`))
	f.Add([]byte(`{"weight_map": [` + strings.Repeat("[", 100)))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, IndexFile), text, 0o666); err != nil {
			t.Fatal(err)
		}
		out, err := os.Create(filepath.Join(dir, "1.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(Write(out, []Value{one("a", 1)}, nil), out.Close()); err != nil {
			t.Fatal(err)
		}
		d, err := OpenFolder(dir)
		if err != nil {
			return
		}
		defer d.Close()
		if names := d.Names(); len(names) > 1 || len(names) == 1 && names[0] != "a" {
			t.Errorf("%q", names)
		}
	})
}

// What is read of a mapped file does not stay in the process's memory.
func TestForget(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("what of a mapping is in memory is known of /proc/self/statm, which Linux alone has")
	}
	resident := func() int {
		text, err := os.ReadFile("/proc/self/statm")
		if err != nil {
			t.Fatal(err)
		}
		var all, in, shared int
		if _, err := fmt.Sscan(string(text), &all, &in, &shared); err != nil {
			t.Fatal(err)
		}
		return shared * os.Getpagesize()
	}
	const size = 128 << 20
	header := fmt.Sprintf(`{"a":{"dtype":"F32","shape":[1024,%d],"data_offsets":[0,%d]}}`, size/4096, size)
	f, err := Open(file(t, header, size))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.mapped == nil {
		t.Fatal("the file is not mapped")
	}
	before := resident()
	part := make([]float32, 4<<20)
	for at := 0; at < size/4; at += len(part) {
		if err := f.ReadPart(part, "a", at); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.ReadColumns(part[:1024*16], "a", 0, 16); err != nil {
		t.Fatal(err)
	}
	if grown := resident() - before; grown > size/4 {
		t.Errorf("%d bytes of a file of %d are still in memory", grown, size)
	}
}
