package data

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"go/build"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/internal/frugal"
	"github.com/structuredffn/sffn/model/data/source"
	"github.com/structuredffn/sffn/model/token"
)

func documents(n int) (docs [][]byte) {
	for i := range n {
		docs = append(docs, []byte(strings.Repeat(fmt.Sprintf("line %d\n", i), 20)))
	}
	return docs
}

// of is a preparation of documents in memory.
func of(docs [][]byte) *Preparation {
	return &Preparation{Sources: []source.Source{&source.Documents{Named: "text", Texts: docs}}, Tokenizer: token.Bytes{}, Threads: 2}
}

// prepare runs a preparation in a new folder, and opens it.
func prepare(t testing.TB, p *Preparation) (dir string, s *Set) {
	t.Helper()
	dir = t.TempDir()
	if _, err := p.Run(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	return dir, open(t, dir)
}

func open(t testing.TB, dir string) *Set {
	t.Helper()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

func tokens(t testing.TB, s *Split) []int32 {
	t.Helper()
	ids, err := s.ReadAll(1 << 40)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

// contents are the files of a folder, by name.
func contents(t testing.TB, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if e.Name() != checkedFile {
			all[e.Name()] = string(b)
		}
	}
	return all
}

// sameFiles compares two folders.
func sameFiles(t testing.TB, what string, got, want map[string]string) {
	t.Helper()
	for name := range want {
		if got[name] != want[name] {
			t.Errorf("%s: %s differs", what, name)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s: there is %s", what, name)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	docs := documents(100)
	_, s := prepare(t, of(docs))
	var want [2][]int32
	for _, d := range docs {
		i := 0
		if textKey(d)%20 == 0 {
			i = 1
		}
		want[i] = append(token.Bytes{}.Encode(want[i], d), 256)
	}
	for i, split := range []*Split{s.Train, s.Validation} {
		if got := tokens(t, split); !slices.Equal(got, want[i]) || len(got) == 0 {
			t.Errorf("split %d: %d tokens differ from the %d of the documents", i, len(got), len(want[i]))
		}
	}
	if s.Tokenizer.Name() != "byte" || s.Train.Vocab() != 257 {
		t.Errorf("tokenizer %s of %d", s.Tokenizer.Name(), s.Train.Vocab())
	}
}

// The Go source is what it was when it was read file by file, without any of this.
func TestGoRootTokens(t *testing.T) {
	p := &Preparation{Sources: []source.Source{source.GoRoot{}}, Tokenizer: token.Bytes{}}
	if _, err := os.Stat(filepath.Join(build.Default.GOROOT, "src", "fmt", "print.go")); err != nil {
		t.Skipf("this toolchain comes without Go's source: %v", err)
	}
	_, s := prepare(t, p)
	var want [2][]int32
	size := 0
	for _, f := range goFiles(t) {
		i := 0
		if source.Key([]byte(f.path))%20 == 0 {
			i = 1
		}
		size += len(f.text)
		for _, b := range []byte(f.text) {
			want[i] = append(want[i], int32(b))
		}
		want[i] = append(want[i], 256)
	}
	if size < 10e6 || size > 40e6 {
		t.Errorf("%d bytes of Go", size)
	}
	for i, split := range []*Split{s.Train, s.Validation} {
		if !slices.Equal(tokens(t, split), want[i]) {
			t.Errorf("split %d has %d tokens, the files have %d, or others", i, split.Len(), len(want[i]))
		}
	}
}

// shardOf is a shard that a writer makes of ids.
func shardOf(t testing.TB, dir, split string, ids ...int32) string {
	t.Helper()
	w := newWriter(dir, split, 257)
	if err := w.add(ids, int64(len(ids)), int64(len(ids)), true); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(w.finish(), w.publish()); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, w.done[0].File)
}

func newWriter(dir, split string, vocab int) *splitWriter {
	return &splitWriter{dir: dir, name: split, limit: maxShardTokens, header: header{width: widthOf(vocab), vocab: vocab, hash: token.Bytes{}.Hash()}}
}

// wide is a tokenizer of bytes with a large vocabulary.
type wide struct {
	token.Bytes
	vocab int
}

func (w wide) Vocab() int           { return w.vocab }
func (w wide) EndOfDocument() int32 { return int32(w.vocab - 1) }
func (w wide) Encode(dst []int32, text []byte) []int32 {
	for _, b := range text {
		dst = append(dst, int32(w.vocab)-2-int32(b))
	}
	return dst
}

// Splits of several shards read as one sequence, whatever the width of their tokens, and
// wherever blocks end.
func TestShards(t *testing.T) {
	for _, c := range []struct{ vocab, width, count int }{{1 << 16, 2, 10}, {1<<16 + 1, 3, 10}, {1 << 24, 3, blockSize/3*2 + 5}, {1<<24 + 1, 4, 10}} {
		w := newWriter(t.TempDir(), Train, c.vocab)
		if w.width != c.width {
			t.Errorf("%d bytes a token of %d, want %d", w.width, c.vocab, c.width)
		}
		w.limit = int64(c.count/2 + 3)
		ids := make([]int32, c.count)
		for i := range ids {
			ids[i] = int32((uint64(i)*0x9e3779b97f4a7c15>>20 + 1) % uint64(c.vocab))
		}
		ids[0], ids[1] = int32(c.vocab-1), 0
		for some := range slices.Chunk(ids, c.count/3+1) {
			if err := w.add(some, 1, 1, true); err != nil {
				t.Fatal(err)
			}
		}
		if err := errors.Join(w.finish(), w.publish()); err != nil {
			t.Fatal(err)
		}
		if len(w.done) != 2 {
			t.Fatalf("%d shards, want 2", len(w.done))
		}
		s := &Split{}
		for i := range w.done {
			sh, err := openShard(shardName(w.dir, Train, i))
			if err == nil {
				err = sh.check(make([]byte, blockSize))
			}
			if err != nil {
				t.Fatal(err)
			}
			s.shards, s.starts, s.size = append(s.shards, sh), append(s.starts, s.size), s.size+sh.tokens
		}
		defer s.Close()
		for _, mapped := range []bool{true, false} {
			if !mapped {
				for _, sh := range s.shards {
					disk.Unmap(sh.mapped)
					sh.mapped = nil
				}
			}
			if got := tokens(t, s); !slices.Equal(got, ids) {
				t.Fatalf("%+v: other tokens, mapped %v", c, mapped)
			}
			for at := range min(len(ids), 12) {
				for end := at; end <= min(len(ids), 12); end++ {
					got := make([]int32, end-at)
					if err := s.Read(got, int64(at)); err != nil {
						t.Fatal(err)
					}
					if !slices.Equal(got, ids[at:end]) {
						t.Fatalf("tokens %d to %d: %v, want %v", at, end, got, ids[at:end])
					}
				}
			}
		}
		if err := s.Read(make([]int32, 2), int64(len(ids)-1)); err == nil {
			t.Error("reading past the end is no error")
		}
	}
}

// A damaged shard is an error with its name and the place.
func TestDamage(t *testing.T) {
	dir, _ := prepare(t, of(documents(100)))
	name := shardName(dir, Train, 0)
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	was, err := os.ReadFile(filepath.Join(dir, indexFile))
	if err != nil {
		t.Fatal(err)
	}
	reseal := func(b []byte) {
		binary.LittleEndian.PutUint32(b[headerSize-4:], crc32.Checksum(b[:headerSize-4], castagnoli))
	}
	for _, tt := range []struct {
		what, want string
		edit       func(b []byte) []byte
	}{
		{"flipped bit", "the block of 32000 bytes at byte 128 is damaged", func(b []byte) []byte { b[headerSize+100] ^= 1; return b }},
		{"cut off", "cut off or damaged", func(b []byte) []byte { return b[:len(b)-2] }},
		{"empty", "no data shard", func(b []byte) []byte { return nil }},
		{"a part of the header", "cut off after 100 bytes", func(b []byte) []byte { return b[:100] }},
		{"header", "the header is damaged", func(b []byte) []byte { b[16]++; return b }},
		{"sums", "the checksums at byte", func(b []byte) []byte { b[len(b)-1]++; return b }},
		{"promise", "want 1 to 67108864", func(b []byte) []byte { binary.LittleEndian.PutUint64(b[24:], 1<<60); reseal(b); return b }},
		{"version", "version 1, want 2", func(b []byte) []byte { b[8] = 1; reseal(b); return b }},
		{"shard", "not the shard that data.json was written for", func(b []byte) []byte { b[20] = 3; reseal(b); return b }},
		{"tokenizer", "not the shard that data.json", func(b []byte) []byte { b[70]++; reseal(b); return b }},
		{"width", "3 bytes a token do not go with", func(b []byte) []byte { b[12] = 3; reseal(b); return b }},
	} {
		b := tt.edit(bytes.Clone(good))
		// Of as many bytes as the test of damaged blocks expects.
		if tt.what == "flipped bit" {
			tt.want = fmt.Sprintf("the block of %d bytes at byte 128 is damaged", len(good)-headerSize-4)
		}
		if err := os.WriteFile(name, b, 0o666); err != nil {
			t.Fatal(err)
		}
		if s, err := Open(dir); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), name) {
			t.Errorf("%s: got %v, want it to contain %q", tt.what, err, tt.want)
			if err == nil {
				s.Close()
			}
		}
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), name) {
		t.Errorf("missing shard: %v", err)
	}
	if err := os.WriteFile(name, good, 0o666); err != nil {
		t.Fatal(err)
	}
	edit := func(change func(x *index)) {
		x := &index{}
		if err := json.Unmarshal(was, x); err != nil {
			t.Fatal(err)
		}
		change(x)
		if err := writeJSON(filepath.Join(dir, indexFile), x); err != nil {
			t.Fatal(err)
		}
	}
	for want, change := range map[string]func(x *index){
		"not a file of sffn prepare":          func(x *index) { x.Kind = "mine" },
		"version 3, want 2":                   func(x *index) { x.Version = 3 },
		"0 splits, want train and val":        func(x *index) { x.Splits = nil },
		"is no hash of a tokenizer":           func(x *index) { x.Tokenizer.Hash = "abc" },
		"split val has 0 shards":              func(x *index) { x.Splits[Validation] = span{} },
		`is "../x", want train-00000.tokens`:  func(x *index) { x.Splits[Train].Shards[0].File = "../x" },
		"has -1 tokens":                       func(x *index) { x.Splits[Train].Shards[0].Tokens = -1 },
		"the split 7, of":                     func(x *index) { s := x.Splits[Train]; s.Tokens = 7; x.Splits[Train] = s },
		"is another tokenizer":                func(x *index) { x.Tokenizer.Hash = strings.Repeat("ab", 32) },
		"has 257 ids, the data was made with": func(x *index) { x.Tokenizer.Vocab = 258 },
		`the tokenizer mine: `:                func(x *index) { x.Tokenizer.Name = "mine" },
	} {
		edit(change)
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	edit(func(*index) {})
	open(t, dir)
	if err := os.Remove(filepath.Join(dir, indexFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "make the folder with sffn prepare") {
		t.Errorf("no index: %v", err)
	}
	if _, err := Open(filepath.Join(dir, "none")); err == nil || !strings.Contains(err.Error(), "make the folder with sffn prepare") {
		t.Errorf("no folder: %v", err)
	}
}

// Tokens are compared with their checksums once, on each disk that they come to.
func TestChecked(t *testing.T) {
	dir, _ := prepare(t, of(documents(100)))
	name := shardName(dir, Train, 0)
	info, err := os.Stat(name)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{'X', 0}, headerSize+10); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("changed: %v", err)
	}
	if err := os.Chtimes(name, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	// Taken for checked, as it is now, it is not read again; a copy is.
	was := checked{Kind: checkedKind, Shards: map[string]checkedEntry{}}
	for _, split := range []string{Train, Validation} {
		sh, err := openShard(shardName(dir, split, 0))
		if err != nil {
			t.Fatal(err)
		}
		was.Shards[filepath.Base(sh.name)] = sh.checkedEntry()
		sh.close()
	}
	if err := writeJSON(filepath.Join(dir, checkedFile), was); err != nil {
		t.Fatal(err)
	}
	s := open(t, dir)
	if disk.ID(info) != "" {
		copied := t.TempDir()
		for base, content := range contents(t, dir) {
			if err := os.WriteFile(filepath.Join(copied, base), []byte(content), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		for base, e := range was.Shards {
			if err := os.Chtimes(filepath.Join(copied, base), e.Time, e.Time); err != nil {
				t.Fatal(err)
			}
		}
		if err := writeJSON(filepath.Join(copied, checkedFile), was); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(copied); err == nil || !strings.Contains(err.Error(), "is damaged") {
			t.Errorf("a copy: %v", err)
		}
	}
	if ids := tokens(t, s.Train); ids[5] != 'X' {
		t.Errorf("token 5 is %d", ids[5])
	}
	if _, err := f.WriteAt([]byte{9, 9}, headerSize+10); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Train.ReadAll(100); err == nil || !strings.Contains(err.Error(), name+": token 5, at byte 138, is 2313, want less than the vocabulary's 257") {
		t.Errorf("an id that there is not: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, checkedFile), []byte("{"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "is damaged") {
		t.Errorf("a list of what was checked that cannot be read: %v", err)
	}
}

// A file that is cut off while it is open is an error of reading, not the end of the
// process.
func TestCutWhileOpen(t *testing.T) {
	dir, s := prepare(t, of(documents(1000)))
	name := shardName(dir, Train, 0)
	if err := os.Truncate(name, headerSize); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Train.ReadAll(1 << 30); err == nil || !strings.Contains(err.Error(), name) {
		t.Errorf("got %v", err)
	}
}

func TestSampler(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := uint64(rapid.IntRange(1, 300).Draw(t, "n"))
		key := rapid.Uint64().Draw(t, "key")
		seen := make([]bool, n)
		for i := range n {
			p := permute(i, n, key)
			if seen[p] {
				t.Fatalf("%d comes twice", p)
			}
			seen[p] = true
		}
	})
	_, s := prepare(t, of(documents(100)))
	const seq = 16
	a, err := NewSampler(s.Train, seq, 7)
	if err != nil {
		t.Fatal(err)
	}
	n := int(a.windows) * 3
	read := func(first uint64, rows int) (ids, targets []int32) {
		ids, targets = make([]int32, rows*seq), make([]int32, rows*seq)
		if err := a.Read(ids, targets, first, rows); err != nil {
			t.Fatal(err)
		}
		return ids, targets
	}
	whole, targets := read(0, n)
	for i := range n {
		if one, _ := read(uint64(i), 1); !slices.Equal(one, whole[i*seq:(i+1)*seq]) {
			t.Fatalf("sequence %d depends on how it is read", i)
		}
		if !slices.Equal(whole[i*seq+1:(i+1)*seq], targets[i*seq:(i+1)*seq-1]) {
			t.Fatalf("sequence %d: the targets do not follow the inputs", i)
		}
	}
	if slices.Equal(whole[:10*seq], whole[int(a.windows)*seq:][:10*seq]) {
		t.Error("two epochs have the same order")
	}
	if _, err := NewSampler(s.Train, 1<<20, 7); err == nil {
		t.Error("sequences longer than the split are no error")
	}
}

// Shards that ask for much are refused before they are read.
func TestHostile(t *testing.T) {
	good, err := os.ReadFile(shardOf(t, t.TempDir(), Train, 1, 2, 256))
	if err != nil {
		t.Fatal(err)
	}
	for want, edit := range map[string]func(head []byte){
		"tokens, want 1 to 67108864 in a shard":          func(head []byte) { binary.LittleEndian.PutUint64(head[24:], (10<<30-headerSize)/2) },
		"0 tokens, want 1":                               func(head []byte) { binary.LittleEndian.PutUint64(head[24:], 0) },
		"promised, a file of 138 bytes, and it has 1073": func([]byte) {},
		"shard 4294967295":                               func(head []byte) { binary.LittleEndian.PutUint32(head[20:], 1<<32-1) },
		"do not go with a vocabulary of 4294967295":      func(head []byte) { binary.LittleEndian.PutUint32(head[16:], 1<<32-1) },
	} {
		head := bytes.Clone(good[:headerSize])
		edit(head)
		binary.LittleEndian.PutUint32(head[headerSize-4:], crc32.Checksum(head[:headerSize-4], castagnoli))
		name := filepath.Join(t.TempDir(), "huge"+extension)
		if err := os.WriteFile(name, head, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(name, 10<<30); err != nil {
			t.Fatal(err)
		}
		frugal.Run(t, 1<<20, func() {
			if _, err := openShard(name); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("got %v, want it to contain %q", err, want)
			}
		})
	}
}

func FuzzShard(f *testing.F) {
	good, err := os.ReadFile(shardOf(f, f.TempDir(), Train, 1, 2, 256))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:headerSize])
	f.Add([]byte(magic))
	many := slices.Clone(good)
	binary.LittleEndian.PutUint64(many[24:], 1<<40)
	f.Add(many)
	wide := slices.Clone(good)
	binary.LittleEndian.PutUint32(wide[12:], 4)
	f.Add(append(wide, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= headerSize+4 { // checksums that fit let the rest be tried
			binary.LittleEndian.PutUint32(b[len(b)-4:], crc32.Checksum(b[headerSize:len(b)-4], castagnoli))
			binary.LittleEndian.PutUint32(b[56:], crc32.Checksum(b[len(b)-4:], castagnoli))
			binary.LittleEndian.PutUint32(b[headerSize-4:], crc32.Checksum(b[:headerSize-4], castagnoli))
		}
		name := filepath.Join(t.TempDir(), "x"+extension)
		if err := os.WriteFile(name, b, 0o666); err != nil {
			t.Fatal(err)
		}
		s, err := openShard(name)
		if err != nil {
			return
		}
		defer s.close()
		if err := s.check(make([]byte, blockSize)); err != nil {
			return
		}
		ids := make([]int32, s.tokens)
		if err := s.read(ids, 0); err != nil && !strings.Contains(err.Error(), "want less than the vocabulary's") {
			t.Errorf("a shard that was accepted cannot be read: %v", err)
		}
	})
}

// Preparing a folder again removes the shards that were there, and nothing else.
func TestPrepareForeign(t *testing.T) {
	dir, _ := prepare(t, of(documents(100)))
	foreign := []string{"notes.tokens", "train-1.tokens", "test-00000.tokens", "train-00000.tokens.bak"}
	for _, name := range foreign {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("mine"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	shardOf(t, dir, "train-0000", 1) // none of ours, though it is one
	if err := os.Rename(filepath.Join(dir, "train-0000-00000.tokens"), shardName(dir, Train, 1)); err != nil {
		t.Fatal(err)
	}
	// A process that was killed left this.
	if err := os.WriteFile(disk.Unfinished(shardName(dir, Train, 2)), []byte("half"), 0o666); err != nil {
		t.Fatal(err)
	}
	again := func() error {
		_, err := of(documents(90)).Run(t.Context(), dir)
		return err
	}
	if err := again(); err != nil {
		t.Fatal(err)
	}
	for _, name := range foreign {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Errorf("%s was removed", name)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != len(foreign)+3 {
		t.Errorf("the folder has %v, want two shards, their index and what is foreign; %v", entries, err)
	}
	// What has the name of one of our files and is none is not touched, nor is anything else.
	before := contents(t, dir)
	for _, name := range []string{"val-00003.tokens", indexFile, checkedFile, journalFile} {
		mine := filepath.Join(dir, name)
		was, _ := os.ReadFile(mine)
		if err := os.WriteFile(mine, []byte("mine"), 0o666); err != nil {
			t.Fatal(err)
		}
		if err := again(); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "move it") {
			t.Errorf("a foreign file with the name %s: %v", name, err)
		}
		if b, err := os.ReadFile(mine); err != nil || string(b) != "mine" {
			t.Errorf("%s holds %q, %v", mine, b, err)
		}
		if was == nil {
			err := os.Remove(mine)
			if err != nil {
				t.Fatal(err)
			}
		} else if err := os.WriteFile(mine, was, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	sameFiles(t, "foreign", contents(t, dir), before)
	open(t, dir)
}

// A preparation ends when it is told to: what is there is not taken for whole, and the
// next one makes it so.
func TestPrepareEnds(t *testing.T) {
	docs := documents(20000)
	want, _ := prepare(t, of(docs))
	dir := t.TempDir()
	p := of(docs)
	for ends := 1; ; ends++ {
		ctx, stop := context.WithCancel(t.Context())
		calls := 0
		p.Progress = func(Progress) {
			if calls++; calls == 2 {
				stop()
			}
		}
		_, err := p.Run(ctx, dir)
		stop()
		if err == nil {
			if ends < 3 {
				t.Errorf("it was ended %d times only", ends)
			}
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "its preparation was interrupted; the same sffn prepare goes on with it") {
			t.Fatalf("half a corpus: %v", err)
		}
	}
	sameFiles(t, "in parts", contents(t, dir), contents(t, want))
	ended, stop := context.WithCancel(t.Context())
	stop()
	for _, s := range []source.Source{source.GoRoot{}, &source.Files{Paths: []string{dir}}} {
		if _, err := (&Preparation{Sources: []source.Source{s}, Tokenizer: token.Bytes{}}).Run(ended, t.TempDir()); !errors.Is(err, context.Canceled) {
			t.Errorf("reading: %v", err)
		}
	}
}
