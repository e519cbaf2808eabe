package gguf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/frugal"
	"github.com/structuredffn/sffn/internal/narrow"
)

// example has each type of metadata and of tensors.
func example() (Metadata, []Tensor) {
	var m Metadata
	for key, v := range map[string]any{"general.architecture": "llama", "empty": ""} {
		m.Add(key, v)
	}
	slices.SortFunc(m, func(a, b Entry) int { return strings.Compare(a.Key, b.Key) })
	for i, v := range []any{uint8(200), int8(-2), uint16(60000), int16(-3), uint32(4e9), int32(-5), float32(1.5), true, false, uint64(1 << 63), int64(-7), 2.25,
		[]uint8{1, 2}, []int8{-1}, []uint16{3}, []int16{-4, 5}, []uint32{6}, []int32{-7, 8, 9}, []float32{0.5, -0.25}, []bool{true, false, true},
		[]uint64{1 << 62}, []int64{-1}, []float64{math.Pi}, []string{"a", "", "▁b"}} {
		m.Add("key."+string(rune('a'+i)), v)
	}
	var tensors []Tensor
	for i, shape := range [][]int{{3, 5}, {7}, {2, 3, 4}, {1, 1}} {
		for _, typ := range []narrow.Type{narrow.F32, narrow.F16, narrow.BF16} {
			t := Tensor{Name: string(typ) + string(rune('0'+i)), Shape: shape, Type: typ}
			t.Stream = func(write func([]float32) error) error {
				for j := range t.size() { // one by one
					if err := write([]float32{float32(j) - 2.5}); err != nil {
						return err
					}
				}
				return nil
			}
			tensors = append(tensors, t)
		}
	}
	return m, tensors
}

func written(t testing.TB, m Metadata, tensors []Tensor) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, m, tensors); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func read(content []byte) (*File, error) {
	return Read(bytes.NewReader(content), int64(len(content)))
}

// What is written comes back, and again as the same bytes.
func TestRoundTrip(t *testing.T) {
	m, tensors := example()
	content := written(t, m, tensors)
	f, err := read(content)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(f.Metadata(), m) {
		t.Errorf("metadata is\n%v, want\n%v", f.Metadata(), m)
	}
	if f.Value("key.a") != uint8(200) || f.Value("none") != nil {
		t.Error("an entry is not found by its key")
	}
	if len(f.Tensors()) != len(tensors) {
		t.Fatalf("%d tensors, want %d", len(f.Tensors()), len(tensors))
	}
	for _, u := range tensors {
		got, ok := f.Lookup(u.Name)
		x, err := f.Float32s(u.Name)
		if !ok || err != nil || !slices.Equal(got.Shape, u.Shape) || got.Type != u.Type {
			t.Fatalf("%s is %v, %v", u.Name, got, err)
		}
		for j, v := range x {
			if v != float32(j)-2.5 {
				t.Fatalf("%s[%d] is %v", u.Name, j, v)
			}
		}
		if (f.data+got.offset)%alignment != 0 {
			t.Errorf("%s begins at %d", u.Name, f.data+got.offset)
		}
	}
	if !bytes.Equal(written(t, f.Metadata(), tensors), content) {
		t.Error("the same input gives other bytes")
	}
}

// The bytes are those of the format: of its description, by hand.
func TestBytes(t *testing.T) {
	var m Metadata
	m.Add("a", uint32(7))
	m.Add("b", []string{"x"})
	content := written(t, m, []Tensor{{"t", []int{1, 2}, narrow.F16, func(write func([]float32) error) error { return write([]float32{1, -2}) }}})
	want := "GGUF" + "\x03\x00\x00\x00" + "\x01\x00\x00\x00\x00\x00\x00\x00" + "\x02\x00\x00\x00\x00\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00a" + "\x04\x00\x00\x00" + "\x07\x00\x00\x00" +
		"\x01\x00\x00\x00\x00\x00\x00\x00b" + "\x09\x00\x00\x00" + "\x08\x00\x00\x00" + "\x01\x00\x00\x00\x00\x00\x00\x00" + "\x01\x00\x00\x00\x00\x00\x00\x00x" +
		"\x01\x00\x00\x00\x00\x00\x00\x00t" + "\x02\x00\x00\x00" + "\x02\x00\x00\x00\x00\x00\x00\x00" + "\x01\x00\x00\x00\x00\x00\x00\x00" + "\x01\x00\x00\x00" + "\x00\x00\x00\x00\x00\x00\x00\x00"
	for len(want)%32 != 0 {
		want += "\x00"
	}
	want += "\x00\x3c\x00\xc0"
	for len(want)%32 != 0 {
		want += "\x00"
	}
	if string(content) != want {
		t.Errorf("got\n%q, want\n%q", content, want)
	}
}

func TestWriteErrors(t *testing.T) {
	stream := func(x ...float32) func(write func([]float32) error) error {
		return func(write func([]float32) error) error { return write(x) }
	}
	full := errors.New("no room")
	for want, c := range map[string]struct {
		m Metadata
		t Tensor
	}{
		"t: 1 of the 2 entries of shape [2] are missing": {nil, Tensor{"t", []int{2}, narrow.F32, stream(1)}},
		"t: more than the 2 entries of shape [2]":        {nil, Tensor{"t", []int{2}, narrow.F32, stream(1, 2, 3)}},
		"t: 100000 is too large for F16":                 {nil, Tensor{"t", []int{1}, narrow.F16, stream(1e5)}},
		`t: unknown type "Q4_0"`:                         {nil, Tensor{"t", []int{1}, "Q4_0", stream(1)}},
		"k: map[string]int is no type of metadata":       {Metadata{{"k", map[string]int{}}}, Tensor{"t", []int{1}, narrow.F32, stream(1)}},
		"t: no room": {nil, Tensor{"t", []int{1}, narrow.F32, func(func([]float32) error) error { return full }}},
	} {
		if err := Write(&bytes.Buffer{}, c.m, []Tensor{c.t}); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if err := Write(failing{}, nil, nil); err == nil {
		t.Error("a writer that fails is taken")
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, errors.New("no room") }

// Files that claim what they do not have, or lie, are refused at little cost.
func TestHostile(t *testing.T) {
	number := func(n uint64) string { return string(binary.LittleEndian.AppendUint64(nil, n)) }
	kind := func(n uint32) string { return string(binary.LittleEndian.AppendUint32(nil, n)) }
	begin := "GGUF" + kind(3)
	text := func(s string) string { return number(uint64(len(s))) + s }
	tensor := func(name string, typ uint32, offset uint64, dims ...uint64) string {
		s := text(name) + kind(uint32(len(dims)))
		for _, d := range dims {
			s += number(d)
		}
		return s + kind(typ) + number(offset)
	}
	filled := func(s string) string { return s + strings.Repeat("\x00", 256) }
	for want, content := range map[string]string{
		"no GGUF file":                                        "GGML" + kind(3),
		"version 2, want 3":                                   filled("GGUF" + kind(2)),
		"0 are left: cut off":                                 begin,
		"18446744073709551615 tensors, want at most":          begin + number(math.MaxUint64) + number(0),
		"9999999999 pieces of metadata, want at most":         begin + number(0) + number(9999999999),
		"10737418240 bytes are announced":                     begin + number(0) + number(1) + text("a") + kind(uint32(kindArray)) + kind(uint32(kindUint8)) + number(10<<30),
		"bytes are announced, and 0 are left":                 begin + number(0) + number(1) + text("a") + kind(uint32(kindArray)) + kind(uint32(kindUint64)) + number(math.MaxUint64),
		`metadata "a": 8 bytes are announced, and 0 are left`: begin + number(0) + number(1) + text("a") + kind(uint32(kindArray)) + kind(uint32(kindString)) + number(1<<40),
		"a string of 10737418240 bytes":                       begin + number(0) + number(1) + number(10<<30),
		`metadata "a": unknown type 13`:                       filled(begin + number(0) + number(1) + text("a") + kind(13)),
		`metadata "a": unknown type 9`:                        filled(begin + number(0) + number(1) + text("a") + kind(9) + kind(9) + number(1)),
		`metadata "a" comes twice`:                            filled(begin + number(0) + number(2) + text("a") + kind(0) + "x" + text("a") + kind(0) + "x"),
		`tensor "t": 5 dimensions`:                            filled(begin + number(1) + number(0) + tensor("t", 0, 0, 1, 1, 1, 1, 1)),
		`tensor "t": a dimension of 4294967296 is impossible`: filled(begin + number(1) + number(0) + tensor("t", 0, 0, 1<<32, 1<<32)),
		`tensor "t" ends at `:                                 filled(begin + number(1) + number(0) + tensor("t", 0, 0, 10<<30)),
		`tensor "t" comes twice`:                              filled(begin + number(2) + number(0) + tensor("t", 0, 0, 1) + tensor("t", 0, 32, 1)),
		`tensor "t" begins at 1099511627776 in a file`:        filled(begin + number(1) + number(0) + tensor("t", 0, 1<<40, 1)),
		`tensor "t" begins at 4, want a multiple of 32`:       filled(begin + number(1) + number(0) + tensor("t", 0, 4, 1)),
		`tensors "t" and "u" overlap`:                         filled(begin + number(2) + number(0) + tensor("t", 0, 0, 16) + tensor("u", 0, 32, 1)),
		"general.alignment is 0, want a power of two":         filled(begin + number(0) + number(1) + text("general.alignment") + kind(uint32(kindUint32)) + kind(0)),
		"general.alignment is uint8, want uint32":             filled(begin + number(0) + number(1) + text("general.alignment") + kind(uint32(kindUint8)) + "\x20"),
	} {
		frugal.Run(t, 4<<20, func() {
			if _, err := read([]byte(content)); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 500 {
				t.Errorf("got %.600v, want it to contain %q", err, want)
			}
		})
	}
	// A type that is not read is listed.
	f, err := read([]byte(filled(begin + number(1) + number(0) + tensor("t", 2, 0, 32))))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Float32s("t"); err == nil || err.Error() != `"t" has type 2, want F32, F16 or BF16` {
		t.Error(err)
	}
	if _, err := f.Float32s("u"); err == nil || err.Error() != `no tensor "u"` {
		t.Error(err)
	}
	// Every file that is cut short is refused.
	m, tensors := example()
	whole := written(t, m, tensors)
	last := len(whole) - alignment // behind it there is only filling
	for n := range last {
		if _, err := read(whole[:n]); err == nil {
			t.Fatalf("%d bytes of %d are taken", n, len(whole))
		}
	}
}

// Whatever the bytes, reading gives an error or a file whose tensors can be read, and
// that is written as it was read.
func FuzzRead(f *testing.F) {
	m, tensors := example()
	f.Add(written(f, m, tensors))
	f.Add(written(f, nil, nil))
	f.Fuzz(func(t *testing.T, content []byte) {
		file, err := read(content)
		if err != nil {
			return
		}
		var again []Tensor
		for _, u := range file.Tensors() {
			if u.Type == "" {
				return
			}
			x, err := file.Float32s(u.Name)
			if err != nil {
				t.Fatal(err)
			}
			again = append(again, Tensor{u.Name, u.Shape, u.Type, func(write func([]float32) error) error { return write(x) }})
		}
		if file.Value("general.alignment") != nil {
			return
		}
		second, err := read(written(t, file.Metadata(), again))
		if err != nil {
			t.Fatal(err)
		}
		if len(second.Metadata()) != len(file.Metadata()) || len(second.Tensors()) != len(file.Tensors()) {
			t.Fatal("entries are missing")
		}
	})
}
