package data

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode/utf8"
)

// Something is held out of every corpus: where no document falls to validation,
// or all do, a stretch of the longest one. Nothing is lost.
func TestHeldOut(t *testing.T) {
	line := func(i int) string { return fmt.Sprintf("wörter in zeile %d\n", i) }
	var whole strings.Builder
	for i := range 5000 {
		whole.WriteString(line(i))
	}
	named := func(held bool, n int, text string) (docs []Document) {
		for i := 0; len(docs) < n; i++ {
			if d := (Document{fmt.Sprintf("d%d", i), []byte(text)}); d.Validation() == held {
				docs = append(docs, d)
			}
		}
		return docs
	}
	for name, docs := range map[string][]Document{
		"one":          named(false, 1, whole.String()),
		"one held":     named(true, 1, whole.String()),
		"three":        named(false, 3, whole.String()),
		"two held":     named(true, 2, whole.String()),
		"one line":     named(false, 1, strings.Repeat("wörter ", 10000)),
		"short":        named(false, 1, strings.Repeat("a\n", minText/2)),
		"no letters":   named(false, 1, strings.Repeat("\x80", 1000)),
		"long and not": append(named(false, 2, "short\n"), named(false, 1, whole.String())...),
	} {
		_, s := prepare(t, docs)
		size, longest := 0, 0
		for _, d := range docs {
			size, longest = size+len(d.Text), max(longest, len(d.Text))
		}
		var text []byte
		for _, split := range []*Split{s.Train, s.Validation} {
			ids, err := split.ReadAll(1 << 30)
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range ids {
				if id < 256 {
					text = append(text, byte(id))
				}
			}
		}
		all := string(text)
		held := int(s.Validation.Len()) - 1
		if want := min(max(size/20, 2048), longest/2); held > want || held < want/2 {
			t.Errorf("%s: %d of %d bytes are held out, want at most %d", name, held, size, want)
		}
		if len(all) != size {
			t.Errorf("%s: %d of %d bytes are left", name, len(all), size)
		}
		if end := all[len(all)-held:]; len(docs) == 1 && all != string(docs[0].Text) {
			t.Errorf("%s: the text differs; the held-out part begins %.20q", name, end)
		} else if utf8.ValidString(all) && !utf8.ValidString(end) {
			t.Errorf("%s: the held-out part begins inside a letter: %.20q", name, end)
		}
	}
	if err := Prepare(t.Context(), t.TempDir(), named(false, 2, "little"), nil, nil); err == nil || !strings.Contains(err.Error(), "12 bytes of text in 2 documents are too few") {
		t.Errorf("too little text: %v", err)
	}
}

// More text than there is memory for is refused before it is read; files that are
// no text take no part in a folder's.
func TestTextSize(t *testing.T) {
	dir := t.TempDir()
	huge := filepath.Join(dir, "huge.txt")
	if err := os.WriteFile(huge, []byte(strings.Repeat("text\n", 2000)), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(huge, 1<<42); err != nil { // of which all but the text is a hole
		t.Fatal(err)
	}
	for _, path := range []string{huge, dir} {
		if _, err := Text(t.Context(), []string{path}); err == nil || !strings.Contains(err.Error(), "bytes of text take about") {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "real.txt"), []byte("some text\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(huge, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, link} {
		docs, err := Text(t.Context(), []string{path})
		if err != nil || len(docs) != 1 || string(docs[0].Text) != "some text\n" {
			t.Errorf("%s: %d documents, %v", path, len(docs), err)
		}
	}
}
