package safetensors

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/frugal"
	"github.com/structuredffn/sffn/internal/narrow"
)

func random(n int) []float32 {
	r := rand.New(rand.NewPCG(1, uint64(n)))
	x := make([]float32, n)
	for i := range x {
		x[i] = r.Float32()
	}
	return x
}

// A file that is read whole gives the tensors that are wanted, and the sum of
// every byte, whatever it is cut into.
func TestReadAll(t *testing.T) {
	in := []Value{{Name: "big", Shape: []int{1<<21 + 3}, Data: random(1<<21 + 3)}, {Name: "none", Shape: []int{0}}, {Name: "small", Shape: []int{2, 3}, Data: random(6)}}
	var b bytes.Buffer
	if err := Write(&b, in, map[string]string{"k": "v"}); err != nil {
		t.Fatal(err)
	}
	name := write(t, b.Bytes())
	f, err := Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, wanted := range [][]int{{0, 1, 2}, {2}, {}} {
		var out []Value
		for _, i := range wanted {
			out = append(out, Value{Name: in[i].Name, Shape: in[i].Shape, Data: make([]float32, len(in[i].Data))})
		}
		sum, err := f.ReadAll(out)
		if want := crc32.Checksum(b.Bytes(), Castagnoli); err != nil || sum != want {
			t.Errorf("sum %08x, want %08x, %v", sum, want, err)
		}
		for i, v := range out {
			if !slices.Equal(v.Data, in[wanted[i]].Data) {
				t.Errorf("%s is not what was written", v.Name)
			}
		}
	}
	if _, err := f.ReadAll([]Value{{Name: "small", Shape: []int{6}}}); err == nil || !strings.Contains(err.Error(), "small has shape [2 3], want [6]") {
		t.Error(err)
	}
	if err := os.Truncate(name, int64(b.Len()-1)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.ReadAll(nil); err == nil || !strings.Contains(err.Error(), "EOF") {
		t.Errorf("a file that shrank: %v", err)
	}
}

func TestCombine(t *testing.T) {
	b := narrow.Bytes(random(1000))
	want := crc32.Checksum(b, Castagnoli)
	for _, at := range []int{0, 1, 7, 2048, len(b) - 1, len(b)} {
		if got := combine(crc32.Checksum(b[:at], Castagnoli), crc32.Checksum(b[at:], Castagnoli), int64(len(b)-at)); got != want {
			t.Errorf("cut at %d: %08x, want %08x", at, got, want)
		}
	}
}

// Headers that ask for much are refused at little cost.
func TestHostile(t *testing.T) {
	var many strings.Builder
	many.WriteString(`{`)
	for i := range 70_000 {
		fmt.Fprintf(&many, `"t%d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},`, i)
	}
	huge := func(header string) string {
		name := file(t, header, 0)
		if err := os.Truncate(name, 10<<30); err != nil {
			t.Fatal(err)
		}
		return name
	}
	for _, tt := range []struct{ name, want string }{
		{file(t, many.String(), 0), "header: more than 65536 tensors"},
		{file(t, "{"+strings.Repeat(" ", 17<<20)+"}", 0), "header of 17825794 bytes, want at most 16777216"},
		{file(t, `{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},`+strings.Repeat(`"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},`, 100_000), 0), `header: "a" comes twice`},
		{file(t, `{"a":{"dtype":"F32",`+strings.Repeat(`"shape":[0],`, 300_000)+`"data_offsets":[0,4]}}`, 0), "has 0 bytes, data_offsets give 4"},
		{file(t, `{"a":`+strings.Repeat("[", 100_000), 0), "header: a: "},
		{file(t, `{"__metadata__":`+strings.Repeat(`{"a":`, 100_000), 0), "header: metadata: "},
		{file(t, `{"a":{"dtype":"F32","shape":[`+strings.Repeat("1,", 300_000)+`1],"data_offsets":[0,8]}}`, 0), "shape of 300001 dimensions"},
		{huge(`{"a":{"dtype":"F32","shape":[2684354560],"data_offsets":[0,10737418240]}}`), "tensors take 10737418240 bytes"},
		{huge("{"), "header: "},
		{huge(strings.Repeat("x", 40)), "no JSON object"},
	} {
		frugal.Run(t, 160<<20, func() {
			_, err := Open(tt.name)
			if err == nil || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 1000 {
				t.Errorf("got %.300v, want it to contain %q", err, tt.want)
			}
		})
	}
	// A file of 10 GB of which nothing is there: opened, and not allocated.
	name := huge(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[10737418102],"data_offsets":[4,10737418106]}}`)
	frugal.Run(t, 1<<20, func() {
		f, err := Open(name)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		if err := f.ReadFloat32s(make([]float32, 1), "b", []int{1}); err == nil || !strings.Contains(err.Error(), "b is U8, want F32") {
			t.Error(err)
		}
	})
}

// The cost of the sum: reading a file with it takes no longer than reading its
// tensors one by one.
func BenchmarkRead(b *testing.B) {
	const n = 1 << 26 // 256 MiB
	name := filepath.Join(b.TempDir(), "x.safetensors")
	out, err := os.Create(name)
	if err != nil {
		b.Fatal(err)
	}
	v := []Value{{Name: "a", Shape: []int{n}, Data: random(n)}}
	if err := Write(out, v, nil); err != nil {
		b.Fatal(err)
	}
	out.Close()
	f, err := Open(name)
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	for way, read := range map[string]func() error{
		"plain":   func() error { return f.ReadFloat32s(v[0].Data, "a", v[0].Shape) },
		"checked": func() error { _, err := f.ReadAll(v); return err },
		"sum":     func() error { crc32.Checksum(narrow.Bytes(v[0].Data), Castagnoli); return nil },
	} {
		b.Run(way, func(b *testing.B) {
			b.SetBytes(4 * n)
			for b.Loop() {
				if err := read(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
