package source

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"
	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/internal/frugal"
)

// read reads the documents of a source, and checks that its pieces and positions are what
// they should be: from each position the rest is read as it was.
func read(t testing.TB, s Source, cut bool) []string {
	t.Helper()
	docs, err := readFrom(t.Context(), s, Position{}, cut)
	if err != nil {
		t.Fatal(err)
	}
	return docs
}

func readFrom(ctx context.Context, s Source, from Position, cut bool) (docs []string, err error) {
	r, err := s.Open(ctx, from, cut)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	inside := from.Inner > 0
	if inside {
		docs = append(docs, "")
	}
	for {
		p, err := r.Next()
		if err == io.EOF {
			if inside {
				return docs, errors.New("the last document has no end")
			}
			return docs, nil
		}
		if err != nil {
			return docs, err
		}
		if p.First == inside {
			return docs, fmt.Errorf("piece %d: first %v inside %v", len(docs), p.First, inside)
		}
		if len(p.Text) > MaxPiece || len(p.Text) == 0 && !(p.First && p.Last) {
			return docs, fmt.Errorf("a piece of %d bytes", len(p.Text))
		}
		if p.First {
			docs = append(docs, "")
		}
		docs[len(docs)-1] += string(p.Text)
		inside = !p.Last
	}
}

// fromEverywhere reads a source again from the place behind each of its pieces.
func fromEverywhere(t *testing.T, s Source, cut bool) {
	t.Helper()
	r, err := s.Open(t.Context(), Position{}, cut)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var pieces []string
	var places []Position
	for {
		p, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		pieces, places = append(pieces, string(p.Text)), append(places, r.Position())
	}
	step := max(1, len(places)/15)
	for i := 0; i < len(places); i += step {
		docs, err := readFrom(t.Context(), s, places[i], cut)
		if err != nil {
			t.Fatalf("from %+v: %v", places[i], err)
		}
		if got, want := strings.Join(docs, ""), strings.Join(pieces[i+1:], ""); got != want {
			t.Fatalf("from %+v, behind piece %d of %d: %d bytes, want %d", places[i], i, len(pieces), len(got), len(want))
		}
	}
}

func write(t testing.TB, name string, content []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, content, 0o666); err != nil {
		t.Fatal(err)
	}
	return name
}

func zstdOf(t testing.TB, b []byte, options ...zstd.EOption) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil, options...)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	return e.EncodeAll(b, nil)
}

func gzipOf(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// Text files are documents, or are cut into some; nothing is lost, whatever the
// compression.
func TestText(t *testing.T) {
	for name, line := range map[string]string{"lines": "wörter und zeilen\n", "one line": "wörter ohne ende ", "no letters": "\x80", "empty lines": "\n"} {
		long := strings.Repeat(line, 3<<20/len(line))
		for packed, content := range map[string][]byte{"plain": []byte(long), "gzip": gzipOf(t, []byte(long)), "zstd": zstdOf(t, []byte(long)),
			"two gzips": append(gzipOf(t, []byte(long[:1000])), gzipOf(t, []byte(long[1000:]))...),
			"two zstds": append(zstdOf(t, []byte(long[:1000])), zstdOf(t, []byte(long[1000:]))...)} {
			s := &Files{Paths: []string{write(t, filepath.Join(t.TempDir(), "a.txt"), content)}}
			if docs := read(t, s, false); len(docs) != 1 || docs[0] != long {
				t.Errorf("%s, %s: %d documents, %d bytes of %d", name, packed, len(docs), len(docs[0]), len(long))
			}
			docs := read(t, s, true)
			if strings.Join(docs, "") != long {
				t.Errorf("%s, %s: the pieces are not the file", name, packed)
			}
			for i, d := range docs {
				if len(d) > CutSize || i < len(docs)-1 && (len(d) < CutSize-100 || name == "one line" && !utf8.ValidString(d) || name == "lines" && !strings.HasSuffix(d, "\n")) {
					t.Errorf("%s, %s: document %d of %d has %d bytes, and ends %q", name, packed, i, len(docs), len(d), d[len(d)-5:])
				}
			}
			if packed == "plain" || packed == "zstd" {
				fromEverywhere(t, s, false)
				fromEverywhere(t, s, true)
			}
		}
	}
}

// Files below folders come in the order of their names, folder by folder, and those that
// are no text not at all.
func TestFolder(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"a.txt": "1", "b/a.md": "2", "b/z/x": "3", "b/zz": "4", "c.jsonl": `{"text":"5"}`, "d.bin": "\x00\x01", "e": "",
		"f.ndjson.gz": string(gzipOf(t, []byte(`{"text":"6"}`))), "g.zst": string(zstdOf(t, []byte("7"))), "h.tar.gz": string(gzipOf(t, []byte("8\x00")))} {
		write(t, filepath.Join(dir, "d", name), []byte(text))
	}
	if err := os.Symlink(filepath.Join(dir, "d"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "d", "a.txt"), filepath.Join(dir, "d", "link")); err != nil {
		t.Fatal(err)
	}
	for _, root := range []string{"d", "link"} {
		s := &Files{Paths: []string{filepath.Join(dir, root)}}
		got := slices.DeleteFunc(read(t, s, false), func(d string) bool { return d == "" })
		if !slices.Equal(got, []string{"1", "2", "3", "4", "5", "6", "7"}) {
			t.Errorf("%s: %q", root, got)
		}
		inv, err := s.Scan(t.Context())
		if err != nil || inv.Files != 5 || inv.Stream || inv.Bytes < 50 {
			t.Errorf("%s has %+v, %v", root, inv, err)
		}
		fromEverywhere(t, s, false)
		again, err := s.Scan(t.Context())
		if err != nil || again != inv {
			t.Errorf("scanned again: %+v, %v", again, err)
		}
	}
	s := &Files{Paths: []string{filepath.Join(dir, "d")}}
	before, err := s.Scan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "d", "b", "zz"), []byte("44"))
	if after, err := s.Scan(t.Context()); err != nil || after.Fingerprint == before.Fingerprint {
		t.Errorf("a changed file has the fingerprint of the one before, %v", err)
	}
	if docs := read(t, &Files{Paths: []string{filepath.Join(dir, "d", "c.jsonl")}, Format: Text}, false); !slices.Equal(docs, []string{`{"text":"5"}`}) {
		t.Errorf("as text: %q", docs)
	}
	for want, s := range map[string]*Files{
		"no such file":                             {Paths: []string{filepath.Join(dir, "none")}},
		"which are not followed":                   {Paths: []string{filepath.Join(dir, "links")}},
		"a.txt: line 1: want a JSON object in":     {Paths: []string{filepath.Join(dir, "d", "a.txt")}, Format: JSONL},
		`a.txt: no Parquet: it does not begin and`: {Paths: []string{filepath.Join(dir, "d", "a.txt")}, Format: Parquet},
	} {
		if strings.Contains(want, "followed") {
			if err := os.Mkdir(filepath.Join(dir, "links"), 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink("../d/a.txt", filepath.Join(dir, "links", "l")); err != nil {
				t.Fatal(err)
			}
		}
		_, err := s.Scan(t.Context())
		if err == nil {
			_, err = readFrom(t.Context(), s, Position{}, false)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// What is no text is none because it has no name of another format; the format text takes
// it as it is. Below a folder it is passed over.
func TestBinary(t *testing.T) {
	for what, content := range map[string]string{"bzip2 data": "BZh91AY&SY\x01\x02\x03", "xz data": "\xfd7zXZ\x00\x01", "a zip archive": "PK\x03\x04\x01",
		"UTF-16": "\xff\xfea", "Parquet": "PAR1a", "zero bytes": strings.Repeat("a", 7000) + "\x00"} {
		dir := t.TempDir()
		name := write(t, filepath.Join(dir, "x"), []byte(content))
		packed := write(t, filepath.Join(dir, "x.gz"), gzipOf(t, []byte(content)))
		for _, name := range []string{name, packed} {
			if _, err := readFrom(t.Context(), &Files{Paths: []string{name}}, Position{}, true); err == nil || !strings.HasPrefix(err.Error(), name+" is ") || !strings.Contains(err.Error(), what) {
				t.Errorf("%s: %v", what, err)
			}
			if docs := read(t, &Files{Paths: []string{name}, Format: Text}, true); len(docs) != 1 || docs[0] != content {
				t.Errorf("%s as text: %q", what, docs)
			}
		}
		if docs := read(t, &Files{Paths: []string{dir}}, true); len(docs) != 0 {
			t.Errorf("%s below a folder: %q", what, docs)
		}
	}
	if formatOf("A.JSONL.GZ") != JSONL || formatOf("a.Parquet") != Parquet {
		t.Error("the case of a name makes another format of it")
	}
}

// A .json file is JSON lines by its first line.
func TestJSON(t *testing.T) {
	dir := t.TempDir()
	lines, one := "{\"text\":\"a\"}\n{\"text\":\"b\"}\n", "{\n \"text\": \"a\"\n}\n"
	good := write(t, filepath.Join(dir, "a", "A.JSON"), []byte(lines))
	packed := write(t, filepath.Join(dir, "a", "b.json.gz"), gzipOf(t, []byte(lines)))
	bad := write(t, filepath.Join(dir, "a", "c.json"), []byte(one))
	other := write(t, filepath.Join(dir, "a", "d.json"), []byte("{\"name\":\"x\"}\n"))
	for _, name := range []string{good, packed} {
		if docs := read(t, &Files{Paths: []string{name}}, true); !slices.Equal(docs, []string{"a", "b"}) {
			t.Errorf("%s: %q", name, docs)
		}
	}
	if _, err := (&Files{Paths: []string{bad}}).Scan(t.Context()); err == nil || !strings.Contains(err.Error(), "name the format, jsonl or text") {
		t.Errorf("an object of several lines: %v", err)
	}
	if docs := read(t, &Files{Paths: []string{bad}, Format: Text}, true); !slices.Equal(docs, []string{one}) {
		t.Errorf("as text: %q", docs)
	}
	if _, err := readFrom(t.Context(), &Files{Paths: []string{other}}, Position{}, true); err == nil || !strings.Contains(err.Error(), `line 1: no field "text"; there are: name`) {
		t.Errorf("lines of another field: %v", err)
	}
	if docs := read(t, &Files{Paths: []string{filepath.Join(dir, "a")}}, true); !slices.Equal(docs, []string{"a", "b", "a", "b", one, "{\"name\":\"x\"}\n"}) {
		t.Errorf("below a folder: %q", docs)
	}
}

// A folder of many names is read in parts, in the same order.
func TestWalkInParts(t *testing.T) {
	dir := t.TempDir()
	var want []string
	for i := range 100 {
		name := fmt.Sprint(i * 7919 % 100)
		if i%10 == 0 {
			name += "/deeper"
		}
		write(t, filepath.Join(dir, name), nil)
		want = append(want, filepath.Join(dir, name))
	}
	slices.SortFunc(want, func(a, b string) int {
		return strings.Compare(strings.TrimSuffix(a, "/deeper"), strings.TrimSuffix(b, "/deeper"))
	})
	for _, names := range []int{1, 3, 99, 100, 1000} {
		w, err := newWalker(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		w.names = names
		var got []string
		for {
			f, err := w.next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, f.name)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%d names at a time: %d files, %q", names, len(got), got[:min(len(got), 5)])
		}
	}
}

func TestJSONL(t *testing.T) {
	long := strings.Repeat("eine lange zeile\\n", 200000)
	lines := `{"text": "one"}` + "\n\n  \r\n" + `{"a":{"text":"not","b":[1,{"text":"this"}]}, "text" : "zwei \"\u00fc\ud83d\ude00\ud800\/", "z":null}` + "\r\n" +
		`{"text":null}` + "\n" + `{"text":""}` + "\n" + `{"text":"` + long + `"}` + "\n" + `{"te\u0078t":"x","text":"last"}`
	want := []string{"one", "zwei \"ü😀\ufffd/", "", "", strings.ReplaceAll(long, `\n`, "\n"), "last"}
	dir := t.TempDir()
	s := &Files{Paths: []string{write(t, filepath.Join(dir, "a.jsonl"), []byte(lines))}}
	if got := read(t, s, true); !slices.Equal(got, want) {
		t.Errorf("%d documents: %.100q", len(got), got)
	}
	fromEverywhere(t, s, false)
	s.Paths[0] = write(t, filepath.Join(dir, "a.jsonl.zst"), zstdOf(t, []byte(lines)))
	fromEverywhere(t, s, false)
	s.Paths[0] = write(t, filepath.Join(dir, "b.jsonl"), []byte("\xef\xbb\xbf"+`{"text":"behind a mark"}`))
	if got := read(t, s, true); !slices.Equal(got, []string{"behind a mark"}) {
		t.Errorf("%q", got)
	}
	s = &Files{Field: "body", Paths: []string{""}}
	for want, text := range map[string]string{
		`line 2: no field "body"; there are: text, id`: `{"body":"x"}` + "\n" + `{"text":"y","id":1}`,
		`line 1: field "body" is 12, want a string`:    `{"body": 12}`,
		"line 3: no JSON: byte 9":                      `{"body":"x"}` + "\n\n" + `{"body":"`,
		"line 1: want a JSON object in each line":      `["a"]`,
		"line 2: no JSON":                              "{\"body\":\"\"}\n{\"body\":\"\x01\"}",
	} {
		s.Paths[0] = write(t, filepath.Join(dir, "bad.jsonl"), []byte(text))
		if _, err := readFrom(t.Context(), s, Position{}, false); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), s.Paths[0]) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}

// A line that has no end is an error in bounded memory.
func TestLongLine(t *testing.T) {
	name := write(t, filepath.Join(t.TempDir(), "x.jsonl"), []byte(`{"text":"`))
	if err := os.Truncate(name, 1<<40); err != nil {
		t.Fatal(err)
	}
	frugal.Run(t, 200<<20, func() {
		if _, err := readFrom(t.Context(), &Files{Paths: []string{name}}, Position{}, false); err == nil || !strings.Contains(err.Error(), "line 1: longer than 64 MiB") {
			t.Errorf("got %v", err)
		}
	})
}

// textField finds what encoding/json does.
func TestTextField(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		object := map[string]any{}
		for range rapid.IntRange(0, 5).Draw(t, "fields") {
			object[rapid.String().Draw(t, "name")] = rapid.OneOf(rapid.Map(rapid.String(), func(s string) any { return s }),
				rapid.Just[any](map[string]any{"text": []any{"no", 1.5, true, map[string]any{}}}), rapid.Just[any]([]any{}), rapid.Just[any](-1e9)).Draw(t, "value")
		}
		text := rapid.String().Draw(t, "text")
		object["text"] = text
		line, err := json.MarshalIndent(object, "", rapid.SampledFrom([]string{"", " ", "\t"}).Draw(t, "indent"))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(line, &object); err != nil {
			t.Fatal(err)
		}
		if got, err := textField(line, "text"); err != nil || string(got) != object["text"] {
			t.Fatalf("%q, %v, want %q", got, err, object["text"])
		}
	})
}

func FuzzJSONL(f *testing.F) {
	for _, s := range []string{`{"text":"a\u00e9\ud83d\ude00\ud800x"}`, `{"a":[1,{"b":"\\\""}],"text":"\\"}`, `{"text":null}`, `{"text":"a","text":"b"}`, `{}`, `{"\u0074ext":"1"}`, "[", ` {"text" : "x" } `} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, line []byte) {
		got, err := textField(bytes.Clone(line), "text")
		var want map[string]any
		if jerr := json.Unmarshal(line, &want); (jerr != nil || want == nil) && err == nil {
			t.Fatalf("%q is text of what is no object: %v", got, jerr)
		}
		if err != nil || !utf8.Valid(line) {
			return
		}
		if string(got) != want["text"] {
			t.Fatalf("%q, want %q", got, want["text"])
		}
	})
}

// What is cut off, or damaged, is named with its place.
func TestCompressedErrors(t *testing.T) {
	var text []byte
	for i := range 20000 {
		text = fmt.Appendf(text, "line %d %d\n", i, i*i*7919)
	}
	dir := t.TempDir()
	for name, b := range map[string][]byte{"gzip": gzipOf(t, text), "zstd": zstdOf(t, text)} {
		flipped := bytes.Clone(b)
		flipped[len(b)/2] ^= 1
		for what, content := range map[string][]byte{"cut off": b[:len(b)/2], "": flipped} {
			s := &Files{Paths: []string{write(t, filepath.Join(dir, name), content)}}
			if _, err := readFrom(t.Context(), s, Position{}, true); err == nil || !strings.HasPrefix(err.Error(), s.Paths[0]+": byte ") || !strings.Contains(err.Error(), what) {
				t.Errorf("%s, %q: %v", name, what, err)
			}
		}
	}
	// A window of 512 MiB takes as much memory.
	huge := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 19 << 3, 0x03, 0, 0}
	s := &Files{Paths: []string{write(t, filepath.Join(dir, "huge"), huge)}}
	frugal.Run(t, 8<<20, func() {
		if _, err := readFrom(t.Context(), s, Position{}, true); err == nil || !strings.Contains(err.Error(), "window of more than 128 MiB; compress it again without --long") {
			t.Errorf("got %v", err)
		}
	})
}

func FuzzCompressed(f *testing.F) {
	text := bytes.Repeat([]byte("some text\n"), 100)
	f.Add(gzipOf(f, text))
	f.Add(zstdOf(f, text))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 19 << 3, 0x03, 0, 0})
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, b []byte) {
		s := &Files{Paths: []string{write(t, filepath.Join(dir, "x"), b)}}
		r, err := s.Open(t.Context(), Position{}, true)
		if err != nil {
			return
		}
		defer r.Close()
		for n := 0; n < 64<<20; {
			p, err := r.Next()
			if err != nil {
				return
			}
			n += len(p.Text)
		}
	})
}
