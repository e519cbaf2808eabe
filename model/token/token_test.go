package token

import (
	"strings"
	"testing"
)

func TestRoundTrip(t *testing.T) {
	text := "func main() {\n\tλ := \"日本\" // \xff\x00\n}"
	var b Bytes
	ids := b.Encode(nil, []byte(text))
	var back []byte
	for _, id := range append(ids, b.EndOfDocument(), -1, 1<<30) {
		back = b.Decode(back, id)
	}
	if string(back) != text {
		t.Errorf("%q came back as %q", text, back)
	}
}

func FuzzStream(f *testing.F) {
	f.Add([]byte("añ日🙂"))
	f.Add([]byte("\xf0\x9f\x99"))
	f.Add([]byte{0xff, 'a', 0xc3})
	f.Fuzz(func(t *testing.T, text []byte) {
		s := NewStream(Bytes{}, true)
		var b strings.Builder
		for _, c := range text {
			piece := s.Next(int32(c))
			if strings.ToValidUTF8(piece, "") != piece {
				t.Errorf("%q is cut inside a rune", piece)
			}
			b.WriteString(piece)
		}
		b.WriteString(s.End())
		// Every byte that is no UTF-8 is one U+FFFD.
		want := string([]rune(string(text)))
		if b.String() != want {
			t.Errorf("%q streamed as %q, want %q", text, b.String(), want)
		}
	})
}
