package data

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/internal/frugal"
	"github.com/structuredffn/sffn/model/token"
)

func documents(n int) []Document {
	var docs []Document
	for i := range n {
		docs = append(docs, Document{fmt.Sprintf("d/%d.txt", i), []byte(strings.Repeat(fmt.Sprintf("line %d\n", i), 20))})
	}
	return docs
}

func prepare(t *testing.T, docs []Document) (dir string, s *Set) {
	t.Helper()
	dir = t.TempDir()
	if err := Prepare(t.Context(), dir, docs, token.Bytes{}, func(int, int) {}); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return dir, s
}

func TestRoundTrip(t *testing.T) {
	docs := documents(100)
	_, s := prepare(t, docs)
	var want [2][]int32
	for _, d := range docs {
		i := 0
		if d.Validation() {
			i = 1
		}
		want[i] = append(token.Bytes{}.Encode(want[i], d.Text), 256)
	}
	for i, split := range []*Split{s.Train, s.Validation} {
		got, err := split.ReadAll(1 << 40)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want[i]) {
			t.Errorf("split %d: %d tokens differ from the %d of the documents", i, len(got), len(want[i]))
		}
	}
	if s.Tokenizer.Name() != "byte" || s.Train.Vocab() != 257 {
		t.Errorf("tokenizer %s of %d", s.Tokenizer.Name(), s.Train.Vocab())
	}
}

// A split of several shards reads as one sequence.
func TestShards(t *testing.T) {
	dir := t.TempDir()
	var all []int32
	for i, n := range []int{5, 1, 7} {
		ids := make([]int32, n)
		for j := range ids {
			ids[j] = int32(len(all)+j) % 257
		}
		all = append(all, ids...)
		if err := writeShard(shardName(dir, Train, i), ids, i, 3, token.Bytes{}); err != nil {
			t.Fatal(err)
		}
	}
	s, err := openSplit(dir, Train)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for at := range all {
		for end := at; end <= len(all); end++ {
			got := make([]int32, end-at)
			if err := s.Read(got, int64(at)); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, all[at:end]) {
				t.Fatalf("tokens %d to %d: %v, want %v", at, end, got, all[at:end])
			}
		}
	}
	if err := s.Read(make([]int32, 2), int64(len(all)-1)); err == nil {
		t.Error("reading past the end is no error")
	}
}

func TestDamage(t *testing.T) {
	dir, _ := prepare(t, documents(100))
	name := shardName(dir, Train, 0)
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	reseal := func(b []byte) {
		binary.LittleEndian.PutUint32(b[76:], crc32.Checksum(b[:76], castagnoli))
	}
	for _, tt := range []struct {
		what, want string
		edit       func(b []byte) []byte
	}{
		{"flipped bit", "the tokens are damaged", func(b []byte) []byte { b[headerSize+100] ^= 1; return b }},
		{"cut off", "cut off or damaged", func(b []byte) []byte { return b[:len(b)-2] }},
		{"empty", "no data shard", func(b []byte) []byte { return nil }},
		{"header", "the header is damaged", func(b []byte) []byte { b[16]++; return b }},
		{"token", "want less than the vocabulary's", func(b []byte) []byte { b[headerSize+1] = 9; return b }},
		{"promise", "are promised", func(b []byte) []byte { binary.LittleEndian.PutUint64(b[64:], 1<<60); reseal(b); return b }},
		{"version", "version 2 is unknown", func(b []byte) []byte { b[8] = 2; reseal(b); return b }},
		{"shard", "does not belong", func(b []byte) []byte { b[24] = 9; b[20] = 3; reseal(b); return b }},
		{"tokenizer", "different tokenizers", func(b []byte) []byte { b[40]++; reseal(b); return b }},
	} {
		if err := os.WriteFile(name, tt.edit(bytes.Clone(good)), 0o666); err != nil {
			t.Fatal(err)
		}
		if s, err := Open(dir); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want it to contain %q", tt.what, err, tt.want)
			if err == nil {
				s.Close()
			}
		}
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "make the folder with sffn prepare") {
		t.Errorf("missing shard: %v", err)
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
	_, s := prepare(t, documents(100))
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

func TestText(t *testing.T) {
	dir := t.TempDir()
	long := strings.Repeat("wörter und zeilen\n", 20000)
	for name, text := range map[string]string{"a.txt": long, "sub/b.txt": "short\n", "c.bin": "\x00\x01", "empty": ""} {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	docs, err := Text(t.Context(), []string{dir})
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	held := 0
	for _, d := range docs {
		b.Write(d.Text)
		if len(d.Text) > pieceSize {
			t.Errorf("%s has %d bytes", d.Path, len(d.Text))
		}
		if d.Validation() {
			held++
		}
	}
	if b.String() != long+"short\n" {
		t.Error("the pieces are not the files")
	}
	if _, err := Text(t.Context(), []string{filepath.Join(dir, "none")}); err == nil {
		t.Error("a missing file is no error")
	}
	if _, err := Text(t.Context(), []string{filepath.Join(dir, "empty")}); err == nil {
		t.Error("an empty corpus is no error")
	}
}

func TestGoRoot(t *testing.T) {
	docs, err := GoRoot(t.Context())
	if err != nil {
		t.Skip(err)
	}
	size, held := 0, 0
	for _, d := range docs {
		size += len(d.Text)
		if d.Validation() {
			held++
		}
		if strings.HasSuffix(d.Path, "_test.go") || strings.HasPrefix(d.Path, "cmd/") {
			t.Errorf("%s should be left out", d.Path)
		}
	}
	if size < 10e6 || size > 40e6 || held < len(docs)/40 || held > len(docs)/10 {
		t.Errorf("%d bytes in %d files, %d held out", size, len(docs), held)
	}
	t.Logf("%d bytes in %d files, %d held out", size, len(docs), held)
}

// Shards that ask for much are refused before they are read.
func TestHostile(t *testing.T) {
	good := filepath.Join(t.TempDir(), "good"+extension)
	if err := writeShard(good, []int32{1, 2, 256}, 0, 1, token.Bytes{}); err != nil {
		t.Fatal(err)
	}
	head, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	head = head[:headerSize]
	for want, edit := range map[string]func(){
		"tokens, want at most 67108864 in a shard":                   func() { binary.LittleEndian.PutUint64(head[64:], (10<<30-headerSize)/2) },
		"3 tokens of 2 bytes are promised, the file has 10737418160": func() { binary.LittleEndian.PutUint64(head[64:], 3) },
		"shard 0 of 4294967295":                                      func() { binary.LittleEndian.PutUint32(head[24:], 1<<32-1) },
	} {
		edit()
		binary.LittleEndian.PutUint32(head[76:], crc32.Checksum(head[:76], castagnoli))
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
		head = slices.Clone(head)
		binary.LittleEndian.PutUint32(head[24:], 1)
	}
}

func FuzzShard(f *testing.F) {
	dir := f.TempDir()
	name := filepath.Join(dir, "x"+extension)
	if err := writeShard(name, []int32{1, 2, 256}, 0, 1, token.Bytes{}); err != nil {
		f.Fatal(err)
	}
	good, err := os.ReadFile(name)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[:headerSize])
	f.Add([]byte(magic))
	many := slices.Clone(good)
	binary.LittleEndian.PutUint64(many[64:], 1<<40)
	f.Add(many)
	wide := slices.Clone(good)
	binary.LittleEndian.PutUint32(wide[12:], 4)
	f.Add(append(wide, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= headerSize { // a checksum that fits lets the rest be tried
			binary.LittleEndian.PutUint32(b[76:], crc32.Checksum(b[:76], castagnoli))
			binary.LittleEndian.PutUint32(b[28:], crc32.Checksum(b[headerSize:], castagnoli))
			binary.LittleEndian.PutUint32(b[76:], crc32.Checksum(b[:76], castagnoli))
		}
		name := filepath.Join(t.TempDir(), "x"+extension)
		if err := os.WriteFile(name, b, 0o666); err != nil {
			t.Fatal(err)
		}
		s, err := openShard(name)
		if err != nil {
			return
		}
		defer s.file.Close()
		ids := make([]int32, s.tokens)
		if err := s.read(ids, 0); err != nil {
			t.Errorf("a shard that was accepted cannot be read: %v", err)
		}
	})
}

// Preparing a folder again removes the shards that were there, and nothing else.
func TestPrepareForeign(t *testing.T) {
	dir, _ := prepare(t, documents(100))
	if err := writeShard(shardName(dir, Train, 1), []int32{1}, 1, 2, token.Bytes{}); err != nil {
		t.Fatal(err)
	}
	foreign := []string{"notes.tokens", "train-1.tokens", "test-00000.tokens", "train-00000.tokens.bak"}
	for _, name := range foreign {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("mine"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	// A process that was killed left this.
	if err := os.WriteFile(disk.Unfinished(shardName(dir, Train, 2)), []byte("half"), 0o666); err != nil {
		t.Fatal(err)
	}
	again := func() error { return Prepare(t.Context(), dir, documents(90), token.Bytes{}, func(int, int) {}) }
	if err := again(); err != nil {
		t.Fatal(err)
	}
	for _, name := range foreign {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Errorf("%s was removed", name)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != len(foreign)+2 {
		t.Errorf("the folder has %v, want two shards and what is foreign; %v", entries, err)
	}
	// What has a shard's name and is none is not touched, nor is anything else.
	mine := shardName(dir, Validation, 3)
	if err := os.WriteFile(mine, []byte("mine"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := again(); err == nil || !strings.Contains(err.Error(), "val-00003.tokens") {
		t.Errorf("a foreign file with the name of a shard: %v", err)
	}
	if b, err := os.ReadFile(mine); err != nil || string(b) != "mine" {
		t.Errorf("%s holds %q, %v", mine, b, err)
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// Preparing ends when it is told to, at any document, and in reading: what is there is
// not taken for whole, and the next call makes it so.
func TestPrepareEnds(t *testing.T) {
	dir, docs := t.TempDir(), documents(90)
	for at := 1; at <= len(docs); at += 30 {
		ctx, stop := context.WithCancel(t.Context())
		last := 0
		err := Prepare(ctx, dir, docs, token.Bytes{}, func(done, _ int) {
			if last = done; done == at {
				stop()
			}
		})
		if !errors.Is(err, context.Canceled) || last != at {
			t.Errorf("ended at document %d, %v, want %d", last, err, at)
		}
		if s, err := Open(dir); err == nil {
			s.Close()
			t.Error("half a corpus is open")
		}
	}
	if err := Prepare(t.Context(), dir, docs, token.Bytes{}, func(int, int) {}); err != nil {
		t.Fatal(err)
	}
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	ended, stop := context.WithCancel(t.Context())
	stop()
	if _, err := Text(ended, []string{dir}); !errors.Is(err, context.Canceled) {
		t.Errorf("reading text: %v", err)
	}
	if _, err := GoRoot(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("reading Go: %v", err)
	}
}
