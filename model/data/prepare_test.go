package data

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/data/source"
	"github.com/structuredffn/sffn/model/token"
)

// corpus writes files of each format, compressed and not, below dir.
func corpus(t testing.TB, dir string, documents int) []source.Source {
	t.Helper()
	random := rand.New(rand.NewPCG(5, 6))
	text := func() string {
		return strings.Repeat(fmt.Sprintf("the words of %d\n", random.Uint64()), 1+random.IntN(80))
	}
	write := func(name string, b []byte) string {
		name = filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o666); err != nil {
			t.Fatal(err)
		}
		return name
	}
	var lines []byte
	for range documents {
		line, err := json.Marshal(map[string]string{"body": text()})
		if err != nil {
			t.Fatal(err)
		}
		lines = append(append(lines, line...), '\n')
	}
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	for i := range documents / 4 {
		write(fmt.Sprintf("folder/%d.txt", i), []byte(text()))
	}
	long := strings.Repeat("a line of a long document\n", 5<<20/2/26) // in several pieces
	write("folder/long.jsonl", fmt.Appendf(nil, "{\"body\":%q}\n", long))
	return []source.Source{
		&source.Files{Named: "a", Paths: []string{write("a.jsonl", lines)}, Field: "body"},
		&source.Files{Named: "b", Paths: []string{write("b.jsonl.zst", e.EncodeAll(lines[:bytes.LastIndexByte(lines[:len(lines)/2], '\n')+1], nil)), filepath.Join(dir, "folder")}, Field: "body"},
	}
}

// The bytes of a folder are the same for any number of threads.
func TestThreads(t *testing.T) {
	sources := corpus(t, t.TempDir(), 400)
	for name, p := range map[string]Preparation{
		"one after the other": {Tokenizer: token.Bytes{}},
		"mixed":               {Tokenizer: wide{vocab: 100000}, Mix: map[string]float64{"a": 1, "b": 3}, MaxTokens: 5 << 20, shardTokens: 1 << 20},
	} {
		var want map[string]string
		for _, threads := range []int{1, 2, 7} {
			p.Sources, p.Threads = sources, threads
			dir := t.TempDir()
			if _, err := p.Run(t.Context(), dir); err != nil {
				t.Fatal(err)
			}
			if got := contents(t, dir); want == nil {
				want = got
			} else {
				sameFiles(t, fmt.Sprintf("%s, %d threads", name, threads), got, want)
			}
		}
		if name == "mixed" && len(want) < 7 {
			t.Errorf("%d files, want several shards", len(want))
		}
	}
}

// framed begins and ends a text with tokens of its own, keeps only every second byte of it, and
// takes an X for a special token, which is also what ends documents.
type framed struct{ token.Bytes }

func (framed) Name() string                   { return "framed" }
func (framed) Hash() [32]byte                 { return sha256.Sum256([]byte("framed")) }
func (framed) Vocab() int                     { return 260 }
func (framed) Frame() (before, after []int32) { return []int32{257, 258}, []int32{259} }
func (f framed) Encode(dst []int32, text []byte) []int32 {
	for _, b := range text {
		if b == 'X' {
			dst = append(dst, 256)
		} else {
			dst = append(dst, int32(b))
		}
	}
	return dst
}
func (f framed) Decode(dst []byte, id int32) []byte {
	if id%2 == 0 {
		return dst
	}
	return f.Bytes.Decode(dst, id)
}

// unframed has no frame.
type unframed struct{ framed }

func (unframed) Frame() (before, after []int32) { return nil, nil }

// Documents are framed, also where they come in pieces, and end once.
func TestFrame(t *testing.T) {
	of := func(split, text, end string) []byte {
		for i := 0; ; i++ {
			if d := fmt.Appendf(nil, "%d%s%s", i, text, end); side(textKey(d[:min(len(d), source.MaxPiece)])) == split {
				return d
			}
		}
	}
	docs := [][]byte{of(Train, "a", ""), of(Train, strings.Repeat("abc", source.MaxPiece/2), ""), of(Train, "b", "X"), {}, of(Train, "c", "")}
	p := &Preparation{Sources: []source.Source{&source.Documents{Named: "text", Texts: append(docs, of(Validation, "v", ""))}}}
	for _, c := range []struct {
		tok           token.Tokenizer
		ordinary      bool
		before, after []int32
		x             []int32
	}{
		{framed{}, false, []int32{257, 258}, []int32{259, 256}, []int32{256, 259, 256}},
		{framed{}, true, []int32{257, 258}, []int32{259, 256}, []int32{'X', 259, 256}},
		{unframed{}, false, nil, []int32{256}, []int32{256}},
		{token.Bytes{}, false, nil, []int32{256}, []int32{'X', 256}},
	} {
		var want []int32
		for _, d := range docs {
			if len(d) == 0 {
				continue
			}
			want = append(want, c.before...)
			after := c.after
			if bytes.HasSuffix(d, []byte("X")) {
				d, after = d[:len(d)-1], c.x
			}
			for _, b := range d {
				want = append(want, int32(b))
			}
			want = append(want, after...)
		}
		p.Tokenizer, p.Ordinary = c.tok, c.ordinary
		dir := t.TempDir()
		if _, err := p.Run(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		sh, err := openShard(shardName(dir, Train, 0))
		if err != nil {
			t.Fatal(err)
		}
		defer sh.close()
		ids := make([]int32, sh.tokens)
		if err := sh.read(ids, 0); err != nil || !slices.Equal(ids, want) {
			t.Errorf("%s, ordinary %v: %d ids, want %d: %v, %v", c.tok.Name(), c.ordinary, len(ids), len(want), ids[:min(len(ids), 20)], err)
		}
	}
	p.Tokenizer = small{}
	if _, err := p.Run(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "the tokenizer byte has made the id 48, and has 40 ids") {
		t.Errorf("an id outside the vocabulary: %v", err)
	}
}

// small has ids that it does not have.
type small struct{ token.Bytes }

func (small) Vocab() int { return 40 }

// Targets stand for the bytes of text that they were made of.
func TestBytes(t *testing.T) {
	_, s := prepare(t, of(documents(300)))
	if got := s.Train.Bytes([]int32{'a', 'b', 256, -1, 1000, 'c'}); got != 3 {
		t.Errorf("three bytes are %v", got)
	}
	if all := tokens(t, s.Train); s.Train.Bytes(all) != float64(s.Train.Totals().TextBytes) {
		t.Errorf("all targets are %v bytes, the text has %d", s.Train.Bytes(all), s.Train.Totals().TextBytes)
	}
	// Half of the letters decode to nothing.
	lengths := lengthsOf(framed{})
	split := &Split{lengths: lengths, totals: Totals{TextBytes: 1000, DecodedBytes: 400}}
	if got := split.Bytes([]int32{'a', 'b', 'c', 256}); got != 5 {
		t.Errorf("two bytes of 1000/400 are %v", got)
	}
	if got := (&Split{}).Bytes([]int32{1}); got != 0 {
		t.Errorf("no text has %v bytes", got)
	}
	p := of(documents(300))
	p.Tokenizer = framed{}
	dir := t.TempDir()
	res, err := p.Run(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	text, decoded := int64(0), int64(0)
	for _, d := range documents(300) {
		text += int64(len(d))
		for _, b := range d {
			decoded += int64(b & 1)
		}
	}
	if all := res.Train.TextBytes + res.Validation.TextBytes; all != text {
		t.Errorf("%d bytes of text, want %d", all, text)
	}
	if all := res.Train.DecodedBytes + res.Validation.DecodedBytes; all != decoded {
		t.Errorf("the tokens decode to %d bytes, want %d", all, decoded)
	}
	x, err := readIndex(dir)
	if err != nil || x.Splits[Train].Totals != res.Train || x.Splits[Validation].Totals != res.Validation {
		t.Errorf("the index has %+v, %v, the result %+v", x, err, res)
	}
}

// Something is held out of every corpus: where no document falls to validation,
// or all do, one of them, or a stretch of one that has half of the text. Nothing is lost.
func TestHeldOut(t *testing.T) {
	var whole strings.Builder
	for i := range 5000 {
		fmt.Fprintf(&whole, "wörter in zeile %d\n", i)
	}
	docs := func(held bool, n int, text string) (docs [][]byte) {
		want := Train
		if held {
			want = Validation
		}
		for i := 0; len(docs) < n; i++ {
			if d := fmt.Appendf(nil, "%s%d\n", text, i); side(textKey(d)) == want {
				docs = append(docs, d)
			}
		}
		return docs
	}
	for name, docs := range map[string][][]byte{
		"one":          docs(false, 1, whole.String()),
		"one held":     docs(true, 1, whole.String()),
		"two held":     docs(true, 2, whole.String()),
		"one line":     docs(false, 1, strings.Repeat("wörter ", 10000)),
		"short":        docs(false, 1, strings.Repeat("a\n", minText/2)),
		"no letters":   docs(false, 1, strings.Repeat("\x80", 1000)),
		"long and not": append(docs(false, 2, "short\n"), docs(false, 1, whole.String())...),
	} {
		_, s := prepare(t, of(docs))
		size, longest := 0, 0
		for _, d := range docs {
			size, longest = size+len(d), max(longest, len(d))
		}
		var text []byte
		for _, split := range []*Split{s.Train, s.Validation} {
			for _, id := range tokens(t, split) {
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
		if end := all[len(all)-held:]; len(docs) == 1 && all != string(docs[0]) {
			t.Errorf("%s: the text differs; the held-out part begins %.20q", name, end)
		} else if utf8.ValidString(all) && !utf8.ValidString(end) {
			t.Errorf("%s: the held-out part begins inside a letter: %.20q", name, end)
		}
	}
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := of(docs(false, 2, "little")).Run(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "16 bytes of text in 2 documents are too few") {
		t.Errorf("too little text: %v", err)
	}
	if _, err := of([][]byte{{}, {}}).Run(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "no text in text") {
		t.Errorf("no text: %v", err)
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("what could not be prepared has left a folder")
	}
	p := of([][]byte{[]byte("a")})
	p.holdText = 1
	if _, err := p.Run(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "1 bytes of text in 2 documents are too few") {
		t.Errorf("a split without text: %v", err)
	}
	// A corpus that is larger than what is held, or is at its end before: the document with the smallest hash changes
	// sides, whichever it is on; of one that is longer a stretch of its beginning does.
	for name, c := range map[string]struct {
		docs [][]byte
		held bool
		hold int
	}{
		"none":   {docs: docs(false, 50, strings.Repeat("text of one side\n", 30)), hold: 5000},
		"all":    {docs: docs(true, 50, strings.Repeat("text of one side\n", 30)), held: true, hold: 5000},
		"longer": {docs: docs(false, 1, strings.Repeat("a line\n", 3<<20/7)), hold: 5000},
		"three":  {docs: docs(false, 3, whole.String()), hold: holdText},
		"tiny":   {docs: docs(true, 1000, ""), held: true, hold: holdText},
		"same":   {docs: slices.Repeat(docs(false, 1, "a"), holdDocuments+1000), hold: holdText},
	} {
		p := of(c.docs)
		p.holdText = c.hold
		_, s := prepare(t, p)
		size := int64(0)
		for _, d := range c.docs {
			size += int64(len(d))
		}
		train, held := s.Train.Totals(), s.Validation.Totals()
		if train.TextBytes+held.TextBytes != size {
			t.Errorf("%s: %d and %d bytes of %d", name, train.TextBytes, held.TextBytes, size)
		}
		if name == "longer" {
			if held.Documents != 1 || held.TextBytes > source.MaxPiece/20+10 || train.Documents != 2 {
				t.Errorf("%s: %+v, %+v held out", name, train, held)
			}
			continue
		}
		least, some := 0, 0
		for i := 0; i < len(c.docs) && some < p.holdText; i++ {
			some += len(c.docs[i])
			if textKey(c.docs[i]) < textKey(c.docs[least]) {
				least = i
			}
		}
		split, count := s.Validation, held.Documents
		if c.held {
			split, count = s.Train, train.Documents
		}
		got := tokens(t, split)
		if count != 1 || !slices.Equal(got, append(token.Bytes{}.Encode(nil, c.docs[least]), 256)) {
			t.Errorf("%s: %d documents changed sides, %d tokens", name, count, len(got))
		}
	}
}

// A mixture has the shares that were asked for, and ends with the first source that does;
// with a number of tokens sources begin again.
func TestMix(t *testing.T) {
	texts := func(letter string, n, length int) *source.Documents {
		d := &source.Documents{Named: letter}
		for i := range n {
			d.Texts = append(d.Texts, []byte(strings.Repeat(letter, length-10)+fmt.Sprintf("%10d", i)))
		}
		return d
	}
	a, b := texts("a", 500, 1000), texts("b", 700, 3000)
	var notes []string
	p := Preparation{Sources: []source.Source{a, b}, Tokenizer: token.Bytes{}, Mix: map[string]float64{"a": 0.3, "b": 0.7}, Note: func(s string) { notes = append(notes, s) }}
	res, err := p.Run(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if x, y := res.Sources[0], res.Sources[1]; x.Documents != 500 || y.Documents < 387 || y.Documents > 390 || x.TextBytes != 500000 || y.TextBytes != 3000*y.Documents {
		t.Errorf("mixed %+v", res.Sources)
	}
	if len(notes) != 1 || !strings.HasPrefix(notes[0], "a is at its end; of b 9") || !strings.Contains(notes[0], "of 2.1MB are left") {
		t.Errorf("it says %q", notes)
	}
	p.MaxTokens = 10_000_000
	if res, err = p.Run(t.Context(), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if x, y := res.Sources[0], res.Sources[1]; x.Passes != 5 && x.Passes != 6 || y.Passes != 3 || x.TextBytes < 2_990_000 || x.TextBytes > 3_000_000 {
		t.Errorf("mixed %+v", res.Sources)
	}
	if n := res.Train.Tokens + res.Validation.Tokens; n < 10_000_000 || n > 10_003_000 {
		t.Errorf("%d tokens", n)
	}
	for want, mix := range map[string]map[string]float64{
		"has no share of b; it has to name each of a, b": {"a": 1},
		`a share of "c", which is none of a, b`:          {"a": 1, "b": 1, "c": 1},
		"share of a is -1, want more than 0":             {"a": -1, "b": 1},
	} {
		p.Mix = mix
		if _, err := p.Run(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v, want %q", mix, err, want)
		}
	}
	p.Mix = map[string]float64{"a": 1}
	p.Sources = []source.Source{&source.Documents{Named: "a"}}
	if _, err := p.Run(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), "no text in a") {
		t.Errorf("a source without text that begins again: %v", err)
	}
}

// Whole documents are taken until there are as many tokens as were asked for, also where
// that is before both splits have one.
func TestMaxTokens(t *testing.T) {
	docs := documents(300)
	for _, most := range []int64{1, 100, 5000, 30000} {
		p := of(docs)
		p.MaxTokens = most
		_, s := prepare(t, p)
		want, n := int64(0), 0
		for ; want < most; n++ {
			want += int64(len(docs[n]) + 1)
		}
		got := s.Train.Totals().TextBytes + s.Validation.Totals().TextBytes
		if got != want-int64(n) {
			t.Errorf("%d tokens: %d bytes of text, want %d of %d documents", most, got, want-int64(n), n)
		}
	}
	p := of([][]byte{bytes.Repeat([]byte("a line\n"), 5<<20/14), docs[0]})
	p.MaxTokens = 100
	_, s := prepare(t, p)
	if n := s.Train.Totals().TextBytes + s.Validation.Totals().TextBytes; n != int64(len(p.Sources[0].(*source.Documents).Texts[0])) {
		t.Errorf("100 tokens: %d bytes of text, want all of the first document", n)
	}
}

// A preparation of other sources, or with other options, begins from the beginning, and
// says so.
func TestChanged(t *testing.T) {
	dir, texts := t.TempDir(), t.TempDir()
	sources := corpus(t, texts, 400)
	interrupt := func(p Preparation) {
		t.Helper()
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		p.Progress = func(at Progress) {
			if at.Documents > 0 {
				stop()
			}
		}
		if _, err := p.Run(ctx, dir); !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	}
	edit := func(change func(j *journal)) {
		t.Helper()
		name := filepath.Join(dir, journalFile)
		var j journal
		if ok, err := readJSON(name, journalKind, &j); !ok {
			t.Fatal("no journal", err)
		}
		change(&j)
		if err := writeJSON(name, j); err != nil {
			t.Fatal(err)
		}
	}
	p := Preparation{Sources: sources, Tokenizer: token.Bytes{}, Threads: 1}
	for what, change := range map[string]func(p *Preparation){
		"":        func(p *Preparation) { p.Threads = 3 },
		"tokens":  func(p *Preparation) { p.MaxTokens = 1 << 20 },
		"special": func(p *Preparation) { p.Ordinary = true },
		"file": func(*Preparation) {
			name := sources[0].(*source.Files).Paths[0]
			if err := os.Chtimes(name, time.Now(), time.Now().Add(time.Second)); err != nil {
				t.Fatal(err)
			}
		},
		"damaged": func(*Preparation) {
			if err := os.Truncate(filepath.Join(dir, ".unfinished-train-00000.tokens"), 1000); err != nil {
				t.Fatal(err)
			}
		},
		"journal": func(*Preparation) {
			if err := os.Truncate(filepath.Join(dir, journalFile), 300); err != nil {
				t.Fatal(err)
			}
		},
		"place":  func(*Preparation) { edit(func(j *journal) { j.State.Places[0].At.Inner = -1 }) },
		"record": func(*Preparation) { edit(func(j *journal) { j.State.Places[0].At.Record = -1 }) },
		"source": func(*Preparation) {
			edit(func(j *journal) { j.State.Now, j.State.Inside, j.Inside = len(sources), true, true })
		},
	} {
		interrupt(p)
		p := p
		change(&p)
		var notes []string
		p.Note = func(s string) { notes = append(notes, s) }
		if _, err := p.Run(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		want := "beginning"
		if what == "" {
			want = "going on with " + dir + " after "
		}
		if len(notes) != 1 || !strings.Contains(notes[0], want) {
			t.Errorf("%q: it says %q, want %q", what, notes, want)
		}
		fresh := t.TempDir()
		if _, err := p.Run(t.Context(), fresh); err != nil {
			t.Fatal(err)
		}
		sameFiles(t, what, contents(t, dir), contents(t, fresh))
	}
}

// A preparation that was whole is made again while its folder has a journal still.
func TestJournalLeft(t *testing.T) {
	dir := t.TempDir()
	p := of(documents(20000))
	ctx, stop := context.WithCancel(t.Context())
	p.Progress = func(Progress) { stop() }
	if _, err := p.Run(ctx, dir); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	journal, err := os.ReadFile(filepath.Join(dir, journalFile))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := p.Run(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		want := contents(t, dir)
		if err := os.WriteFile(filepath.Join(dir, journalFile), journal, 0o666); err != nil {
			t.Fatal(err)
		}
		open(t, dir)
		if _, err := p.Run(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		sameFiles(t, "again", contents(t, dir), want)
	}
}

// What is in a folder stays until what replaces it is whole.
func TestKept(t *testing.T) {
	dir, texts := t.TempDir(), t.TempDir()
	p := of(documents(300))
	p.shardTokens = 1000
	if _, err := p.Run(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	want := contents(t, dir)
	lines := filepath.Join(texts, "a.jsonl")
	text := `{"text":"a line, and another one"}` + "\n"
	for i := range 20000 {
		text += fmt.Sprintf(`{"text":"this is line %d"}`+"\n", i)
	}
	for name, b := range map[string]string{"a.jsonl": text + "{\n", "empty.txt": ""} {
		if err := os.WriteFile(filepath.Join(texts, name), []byte(b), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for what, s := range map[string]source.Source{
		"no text":    &source.Files{Named: "a", Paths: []string{filepath.Join(texts, "empty.txt")}},
		"line 20002": &source.Files{Named: "a", Paths: []string{lines}},
		"no field":   &source.Files{Named: "a", Paths: []string{lines}, Field: "body"},
	} {
		p := &Preparation{Sources: []source.Source{s}, Tokenizer: token.Bytes{}, shardTokens: 1000}
		if _, err := p.Run(t.Context(), dir); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
		got := contents(t, dir)
		maps.DeleteFunc(got, func(name, _ string) bool {
			return name == journalFile || name == checkedFile || strings.HasPrefix(name, disk.UnfinishedPrefix)
		})
		sameFiles(t, what, got, want)
		open(t, dir)
	}
	// Of a stream that fails nothing is left.
	p = &Preparation{Sources: []source.Source{&stream{n: 30000}}, Tokenizer: small{}}
	os.Remove(filepath.Join(dir, checkedFile))
	if _, err := p.Run(t.Context(), dir); err == nil {
		t.Error("a stream whose ids are not there is no error")
	}
	sameFiles(t, "stream", contents(t, dir), want)
	p = of(documents(200))
	if _, err := p.Run(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	if got := contents(t, dir); len(got) != 3 {
		t.Errorf("there are %q, want an index and two shards", slices.Sorted(maps.Keys(got)))
	}
}

// A field of text files is an error, unless something else has fields.
func TestFieldOfText(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) source.Source {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
		return &source.Files{Named: filepath.Base(name), Paths: []string{name}, Field: "body"}
	}
	text := write("a.txt", strings.Repeat("text\n", 100))
	p := &Preparation{Sources: []source.Source{text}, Tokenizer: token.Bytes{}}
	if _, err := p.Run(t.Context(), t.TempDir()); err == nil || !strings.Contains(err.Error(), `a field "body" was named, and no file has fields`) {
		t.Errorf("got %v", err)
	}
	p.Sources = append(p.Sources, write("b.jsonl", "{\"body\":\"text\"}\n"))
	if _, err := p.Run(t.Context(), t.TempDir()); err != nil {
		t.Error(err)
	}
}

// Memory does not follow the corpus.
func TestMemory(t *testing.T) {
	name := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(name, []byte("text"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, 400<<20); err != nil { // a hole
		t.Fatal(err)
	}
	p := Preparation{Sources: []source.Source{&source.Files{Named: "text", Paths: []string{name}, Format: source.Text}}, Tokenizer: sparse{}, Threads: 16}
	runtime.GC()
	var most uint64
	p.Progress = func(Progress) {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		most = max(most, m.HeapInuse)
	}
	if _, err := p.Run(t.Context(), t.TempDir()); err != nil {
		t.Fatal(err)
	}
	if most > 200<<20 {
		t.Errorf("the heap has grown to %d MiB", most>>20)
	} else {
		t.Logf("%d MiB", most>>20)
	}
}

// sparse has a token for each KiB.
type sparse struct{ token.Bytes }

func (s sparse) Encode(dst []int32, text []byte) []int32 {
	return append(dst, make([]int32, len(text)>>10+1)...)
}

// stream is a source that never ends by itself.
type stream struct {
	ctx  context.Context
	n    int
	come chan struct{} // closed when n have come
}

func (s *stream) Name() string { return "stream" }
func (s *stream) Scan(context.Context) (source.Inventory, error) {
	return source.Inventory{Stream: true}, nil
}
func (s *stream) Open(ctx context.Context, _ source.Position, _ bool) (source.Reader, error) {
	s.ctx = ctx
	return s, nil
}
func (s *stream) Next() (source.Piece, error) {
	if s.n--; s.n < 0 {
		if s.n == -1 && s.come != nil {
			close(s.come)
		}
		<-s.ctx.Done()
		return source.Piece{}, io.EOF
	}
	return source.Piece{Text: fmt.Appendf(nil, "document %d\n", s.n), First: true, Last: true}, nil
}
func (s *stream) Position() source.Position { return source.Position{} }
func (s *stream) Read() int64               { return 0 }
func (s *stream) Close() error              { return nil }

// A stream that does not end by itself is ended by the number of tokens, or by the context,
// and what came until then is whole.
func TestStream(t *testing.T) {
	p := Preparation{Sources: []source.Source{&stream{n: 100000}}, Tokenizer: token.Bytes{}, MaxTokens: 1000}
	dir := t.TempDir()
	res, err := p.Run(t.Context(), dir)
	if err != nil || res.Ended || res.Train.Tokens+res.Validation.Tokens < 1000 {
		t.Errorf("%+v, %v", res, err)
	}
	open(t, dir)
	for _, mixed := range []bool{false, true} {
		ctx, stop := context.WithCancel(t.Context())
		s := &stream{n: 500, come: make(chan struct{})}
		p = Preparation{Sources: []source.Source{s}, Tokenizer: token.Bytes{}}
		if mixed {
			p.Sources = append(p.Sources, of(documents(300)).Sources[0])
		}
		go func() { <-s.come; stop() }()
		res, err = p.Run(ctx, dir)
		if err != nil || !res.Ended || res.Sources[0].Documents != 500 {
			t.Errorf("%+v, %v", res, err)
		}
		open(t, dir)
		if _, err := os.Stat(filepath.Join(dir, journalFile)); err == nil {
			t.Error("a stream has a journal")
		}
	}
}

// filed has a file that travels.
type filed struct {
	token.Bytes
	name string
}

func (f filed) Hash() [32]byte                   { return sha256.Sum256([]byte(f.name)) }
func (f filed) File() (name string, text []byte) { return f.name, []byte("the file " + f.name) }

// The tokenizer's file lies beside the shards, and goes with those that it made; another
// file of that name is not touched.
func TestTokenizerFile(t *testing.T) {
	dir := t.TempDir()
	p := of(documents(300))
	has := func(want ...string) {
		t.Helper()
		if _, err := p.Run(t.Context(), dir); err != nil {
			t.Fatal(err)
		}
		want = append(want, indexFile, "train-00000.tokens", "val-00000.tokens")
		slices.Sort(want)
		got := contents(t, dir)
		if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, want) {
			t.Errorf("the folder has %q, want %q", names, want)
		}
		if name, text := p.Tokenizer.File(); name != "" && got[name] != string(text) {
			t.Errorf("%s holds %q", name, got[name])
		}
	}
	for _, name := range []string{"tokenizer.json", "tokenizer.json", "tokenizer.model"} {
		p.Tokenizer = filed{name: name}
		has(name)
	}
	p.Tokenizer = token.Bytes{}
	has()
	open(t, dir)
	p.Tokenizer = filed{name: "tokenizer.json"}
	other := t.TempDir()
	mine := filepath.Join(other, "tokenizer.json")
	if err := os.WriteFile(mine, []byte("mine"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Run(t.Context(), other); err == nil || !strings.Contains(err.Error(), mine) {
		t.Errorf("another file: %v", err)
	}
	if b, err := os.ReadFile(mine); err != nil || string(b) != "mine" {
		t.Errorf("it holds %q, %v", b, err)
	}
}
