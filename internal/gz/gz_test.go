package gz

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"
)

func TestPack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := []byte(rapid.String().Draw(t, "text"))
		data := Pack(text)
		if got, err := Unpack(data); err != nil || !bytes.Equal(got, text) {
			t.Fatalf("%q, %v, want %q", got, err, text)
		}
		if !bytes.Equal(Pack(text), data) {
			t.Fatal("another time, other bytes")
		}
		if bytes.ContainsFunc(data[3:8], func(r rune) bool { return r != 0 }) {
			t.Fatalf("flags, or a time, in the header %x", data[:10])
		}
		for n := range data {
			if _, err := Unpack(data[:n]); err == nil {
				t.Fatalf("cut to %d of %d bytes: no error", n, len(data))
			}
		}
		n := rapid.IntRange(10, len(data)-1).Draw(t, "at")
		data[n] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		if got, err := Unpack(data); err == nil && !bytes.Equal(got, text) {
			t.Fatalf("byte %d changed: %q", n, got)
		}
	})
}

// What a file inflates to is bounded.
func TestLimit(t *testing.T) {
	if _, err := Unpack(Pack(make([]byte, Limit))); err != nil {
		t.Error(err)
	}
	if _, err := Unpack(Pack(make([]byte, Limit+1))); err == nil || err.Error() != "gzip: more than 67108864 bytes of text" {
		t.Error(err)
	}
	if _, err := Unpack([]byte(".version 7.0\n")); err == nil {
		t.Error("text that is not compressed")
	}
}
