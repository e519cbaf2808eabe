package source

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/s2"
	pq "github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress"
	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/internal/frugal"
)

// Files of other programs: see testdata/parquet.py.
func TestParquetOthers(t *testing.T) {
	var want []string
	for i := range 400 {
		switch {
		case i%7 == 3: // null
		case i%11 == 5:
			want = append(want, "")
		case i == 300:
			want = append(want, strings.Repeat("a long line of text, 日本語 too\n", 2000))
		default:
			want = append(want, fmt.Sprintf("document %d: %s\n", i%40, strings.Repeat("words and words ", i%13)))
		}
	}
	files, err := filepath.Glob("testdata/*.parquet")
	if err != nil || len(files) < 9 {
		t.Fatalf("%d files, %v", len(files), err)
	}
	for _, name := range files {
		s := &Files{Paths: []string{name}}
		want := want
		if strings.HasSuffix(name, "plain.parquet") {
			want = want[:150-21] // as many are null
			s.Field = "meta.body"
			if got := read(t, s, true); !slices.Equal(got, want) {
				t.Errorf("%s: a column inside another has %d rows: %.200q", name, len(got), got)
			}
			s.Field = ""
		}
		if got := read(t, s, true); !slices.Equal(got, want) {
			t.Errorf("%s: %d rows: %.200q", name, len(got), got)
		}
		fromEverywhere(t, s, true)
	}
	for field, want := range map[string]string{
		"body":              `no column "body"; there are: id, meta.lang, meta.body, text, tags.list.element`,
		"id":                `column "id" has values of type INT64, want strings`,
		"tags.list.element": "is a list, want one string a row",
	} {
		s := &Files{Paths: []string{"testdata/plain.parquet"}, Field: field}
		if _, err := readFrom(t.Context(), s, Position{}, true); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", field, err, want)
		}
	}
}

// row is a row of the files that the tests write.
type row struct {
	ID   int64   `parquet:"id"`
	Text *string `parquet:"text,optional"`
}

func parquetOf(t testing.TB, rows []row, codec compress.Codec, page int) []byte {
	t.Helper()
	var b bytes.Buffer
	w := pq.NewGenericWriter[row](&b, pq.Compression(codec), pq.PageBufferSize(page), pq.MaxRowsPerRowGroup(1000))
	if _, err := w.Write(rows); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// What is written by a library is read, with long values and pages, nulls, and copies from
// far back.
func TestParquet(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	var rows []row
	var want []string
	for i := range 2500 {
		var text *string
		if i%5 != 0 {
			s := strings.Repeat(fmt.Sprintf("row %d\n", i), random.IntN(100))
			if i%600 == 7 {
				s = strings.Repeat(s+fmt.Sprint(random.Uint64()), 2<<20/(len(s)+20))
			}
			text, want = &s, append(want, s)
		}
		rows = append(rows, row{int64(i), text})
	}
	for _, codec := range []compress.Codec{&pq.Uncompressed, &pq.Snappy, &pq.Zstd, &pq.Gzip, &pq.Brotli, &pq.Lz4Raw} {
		s := &Files{Paths: []string{write(t, filepath.Join(t.TempDir(), "x.parquet"), parquetOf(t, rows, codec, 300<<10))}}
		if got := read(t, s, true); !slices.Equal(got, want) {
			t.Errorf("%v: %d rows differ", codec, len(got))
		}
		if codec == &pq.Snappy {
			fromEverywhere(t, s, true)
		}
	}
}

// Raw Snappy is decompressed as its library does.
func TestSnappy(t *testing.T) {
	var s snappy
	rapid.Check(t, func(t *rapid.T) {
		var text []byte
		for range rapid.IntRange(0, 20).Draw(t, "parts") {
			text = append(text, bytes.Repeat([]byte(rapid.String().Draw(t, "text")), rapid.IntRange(1, 3000).Draw(t, "times"))...)
			if from := rapid.IntRange(0, len(text)).Draw(t, "from"); rapid.Bool().Draw(t, "copy") {
				text = append(text, text[from:min(len(text), from+10000)]...)
			}
		}
		for _, packed := range [][]byte{s2.EncodeSnappy(nil, text), s2.EncodeSnappyBest(nil, text)} {
			if err := s.reset(newReader(packed), 1<<30); err != nil {
				t.Fatal(err)
			}
			var got bytes.Buffer
			if _, err := got.ReadFrom(&s); err != nil || !bytes.Equal(got.Bytes(), text) {
				t.Fatalf("%d bytes of %d, %v", got.Len(), len(text), err)
			}
		}
	})
	// More than the window, with a copy from its other end.
	far := make([]byte, 40<<20)
	for i := range far {
		far[i] = byte(i * i >> 11 * 31)
	}
	if err := s.reset(newReader(s2.EncodeSnappy(nil, far)), 1<<30); err != nil {
		t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := got.ReadFrom(&s); err != nil || !bytes.Equal(got.Bytes(), far) {
		t.Errorf("%d bytes of %d, %v", got.Len(), len(far), err)
	}
	if cap(s.buf) > 2*(2*snappyWindow+snappyStep) {
		t.Errorf("it holds %d bytes", cap(s.buf))
	}
}

// Files that ask for much, or have been damaged, are errors at little cost.
func TestParquetHostile(t *testing.T) {
	text := strings.Repeat("some words ", 100)
	rows := make([]row, 300)
	for i := range rows {
		rows[i].Text = &text
	}
	good := parquetOf(t, rows, &pq.Snappy, 2000)
	dir := t.TempDir()
	try := func(b []byte) error {
		s := &Files{Paths: []string{write(t, filepath.Join(dir, "x.parquet"), b)}}
		_, err := readFrom(t.Context(), s, Position{}, true)
		return err
	}
	if err := try(good); err != nil {
		t.Fatal(err)
	}
	for want, edit := range map[string]func(b []byte) []byte{
		"no Parquet":            func(b []byte) []byte { return b[:len(b)-1] },
		"a footer of":           func(b []byte) []byte { b[len(b)-5] = 0x7f; return b },
		"the file is encrypted": func(b []byte) []byte { copy(b[len(b)-4:], "PARE"); return b },
	} {
		if err := try(edit(bytes.Clone(good))); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	plain := parquetOf(t, rows, &pq.Uncompressed, 2000)
	plain[bytes.LastIndex(plain[:len(plain)/2], []byte("some words"))] = 'S'
	if err := try(plain); err == nil || !strings.Contains(err.Error(), "a page is damaged: checksum") {
		t.Errorf("another letter: %v", err)
	}
	// A list of 2^31 elements.
	footer := append([]byte{0x15, 2, 0x19, 0xfc, 0xff, 0xff, 0xff, 0xff, 0x7}, make([]byte, 100)...)
	b := append([]byte("PAR1"), footer...)
	b = append(b, byte(len(footer)), 0, 0, 0)
	frugal.Run(t, 1<<20, func() {
		if err := try(append(b, "PAR1"...)); err == nil {
			t.Error("a schema of 2^31 elements is no error")
		}
	})
	random := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		b := bytes.Clone(good)
		for range 1 + random.IntN(3) {
			b[random.IntN(len(b))] ^= byte(1 << random.IntN(8))
		}
		frugal.Run(t, 200<<20, func() { try(b) })
	}
}

func FuzzParquet(f *testing.F) {
	files, err := filepath.Glob("testdata/*.parquet")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		if len(b) < 10000 {
			f.Add(b)
		}
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &Files{Paths: []string{write(t, filepath.Join(dir, "x.parquet"), b)}}
		r, err := s.Open(t.Context(), Position{}, true)
		if err != nil {
			return
		}
		defer r.Close()
		for n := 0; n < 4<<20; n += 100 {
			p, err := r.Next()
			if err != nil {
				return
			}
			n += len(p.Text)
		}
	})
}

func newReader(b []byte) *bufio.Reader { return bufio.NewReader(bytes.NewReader(b)) }
