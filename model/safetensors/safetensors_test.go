package safetensors

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func file(t testing.TB, header string, data int) string {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.LittleEndian, uint64(len(header)))
	b.WriteString(header)
	b.Write(make([]byte, data))
	return write(t, b.Bytes())
}

func write(t testing.TB, b []byte) string {
	name := filepath.Join(t.TempDir(), "x.safetensors")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestRoundTrip(t *testing.T) {
	var b bytes.Buffer
	in := []Value{{Name: "a", Shape: []int{2, 3}, Data: []float32{1, 2, 3, 4, 5, 6}}, {Name: "scalar", Data: []float32{7}}}
	if err := Write(&b, in, map[string]string{"k": "v"}); err != nil {
		t.Fatal(err)
	}
	f, err := Open(write(t, b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if f.Metadata()["k"] != "v" {
		t.Error("metadata is lost")
	}
	for _, v := range in {
		got, err := f.Float32s(v.Name)
		if err != nil || !slices.Equal(got, v.Data) {
			t.Errorf("%s: %v %v", v.Name, got, err)
		}
	}
	if err := f.ReadFloat32s(make([]float32, 6), "a", []int{3, 2}); err == nil || !strings.Contains(err.Error(), "shape [2 3], want [3 2]") {
		t.Errorf("wrong shape: %v", err)
	}
}

// A tensor that comes in pieces makes the same file; too few or too many entries
// make none.
func TestStream(t *testing.T) {
	data := []float32{1, 2, 3, 4, 5, 6}
	stream := func(pieces ...int) []byte {
		var b bytes.Buffer
		at := 0
		err := Write(&b, []Value{{Name: "a", Shape: []int{3, 2}, Stream: func(write func([]float32) error) error {
			for _, n := range pieces {
				if err := write(data[at : at+n]); err != nil {
					return err
				}
				at += n
			}
			return nil
		}}, {Name: "b", Shape: []int{1}, Data: data[:1]}}, nil)
		if err != nil {
			return []byte(err.Error())
		}
		return b.Bytes()
	}
	var want bytes.Buffer
	if err := Write(&want, []Value{{Name: "a", Shape: []int{3, 2}, Data: data}, {Name: "b", Shape: []int{1}, Data: data[:1]}}, nil); err != nil {
		t.Fatal(err)
	}
	if got := stream(2, 0, 4); !bytes.Equal(got, want.Bytes()) {
		t.Errorf("%q, want %q", got, want.Bytes())
	}
	if got := string(stream(2, 3)); got != "a: 1 of the 6 entries of shape [3 2] are missing" {
		t.Error(got)
	}
	data = append(data, 7)
	if got := string(stream(6, 1)); got != "a: more than the 6 entries of shape [3 2]" {
		t.Error(got)
	}
}

func TestBadFiles(t *testing.T) {
	for want, name := range map[string]string{
		"no safetensors file":   write(t, []byte("abc")),
		"cut off, or not":       write(t, bytes.Repeat([]byte{0xff}, 64)),
		"no JSON object":        file(t, "[1]", 0),
		"comes twice":           file(t, `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`, 8),
		"unknown dtype":         file(t, `{"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}`, 4),
		"is impossible":         file(t, `{"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,4]}}`, 4),
		"has 4 bytes, data_off": file(t, `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}`, 8),
		"want a begin and":      file(t, `{"a":{"dtype":"F32","shape":[1],"data_offsets":[8,4]}}`, 8),
		"overlap":               file(t, `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 4),
		"tensors take 4 bytes":  file(t, `{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, 3),
	} {
		if _, err := Open(name); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to contain %q", err, want)
		}
	}
}

func FuzzOpen(f *testing.F) {
	var b bytes.Buffer
	_ = Write(&b, []Value{{Name: "a", Shape: []int{2}, Data: []float32{1, 2}}}, nil)
	f.Add(b.Bytes())
	f.Add([]byte{})
	f.Add([]byte("\x02\x00\x00\x00\x00\x00\x00\x00{}"))
	for _, header := range []string{
		`{"a":{"dtype":"F32","shape":[0,4611686018427387904],"data_offsets":[0,0]},"b":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}`,
		`{"a":{"dtype":"I64","shape":[` + strings.Repeat("1,", maxDims) + `1],"data_offsets":[0,8]}}`,
		`{"__metadata__":{"a":"b"},"__metadata__":` + strings.Repeat(`{"a":`, 20),
	} {
		f.Add(slices.Concat(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), []byte(header), make([]byte, 8)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Open(write(t, data))
		if err != nil {
			return
		}
		defer s.Close()
		if sum, err := s.ReadAll(nil); err != nil || sum != crc32.Checksum(data, Castagnoli) {
			t.Errorf("sum %08x: %v", sum, err)
		}
		for _, x := range s.Tensors() {
			if x.Float() {
				if v, err := s.Float32s(x.Name); err != nil || 2*len(v) > len(data) {
					t.Errorf("%s: %d entries from %d bytes: %v", x.Name, len(v), len(data), err)
				}
			}
		}
	})
}
