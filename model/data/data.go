// Package data prepares corpora and reads them: documents become shards of
// token ids, split into training and validation, and a sampler says which
// stretch of them each sequence of a training run is.
package data

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/token"
)

// The splits of a data folder.
const (
	Train      = "train"
	Validation = "val"
)

// shardTokens bounds one shard.
const shardTokens = 64 << 20

// Prepare encodes documents and writes the shards of both splits into dir. Where
// no document falls to validation, or none to training, the end of the longest
// one is held out, a twentieth of all text. An
// interrupted call leaves nothing that Open would take for whole: the last
// file to appear is the first training shard. Shards that are in dir are replaced;
// nothing else in it is touched. It ends early with ctx.
func Prepare(ctx context.Context, dir string, docs []Document, t token.Tokenizer, progress func(done, total int)) error {
	stretch, err := heldStretch(docs)
	if err != nil {
		return err
	}
	splits := map[string][]int32{}
	add := func(name string, text []byte) {
		splits[name] = append(t.Encode(splits[name], text), t.EndOfDocument())
	}
	for i, d := range docs {
		if err := ctx.Err(); err != nil {
			return err
		}
		switch at, cut := stretch[i]; {
		case cut:
			add(Train, d.Text[:at])
			add(Validation, d.Text[at:])
		case len(stretch) == 0 && d.Validation():
			add(Validation, d.Text)
		default:
			add(Train, d.Text)
		}
		progress(i+1, len(docs))
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	lock, err := disk.Hold(dir)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return err
	}
	defer lock.Release()
	if err := removeShards(dir); err != nil {
		return err
	}
	for _, name := range []string{Validation, Train} {
		shards := slices.Collect(slices.Chunk(splits[name], shardTokens))
		for i, ids := range slices.Backward(shards) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := writeShard(shardName(dir, name, i), ids, i, len(shards), t); err != nil {
				return err
			}
		}
	}
	return nil
}

// removeShards removes the shards of a preparation before, the first training
// shard first, and what one that was killed was writing. It removes nothing
// where a file has a shard's name and is none.
func removeShards(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var old []string
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		switch whole, isUnfinished := strings.CutPrefix(e.Name(), disk.UnfinishedPrefix); {
		case !shardNames.MatchString(whole):
			continue
		case !isUnfinished && !begins(name, magic):
			return fmt.Errorf("%s: no data shard, though it has the name of one, which sffn prepare would replace; move it, or choose another folder", name)
		}
		old = append(old, name)
	}
	// "train" is before "val", and unfinished ones are before both.
	for _, name := range old {
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// shardNames are those that shardName gives.
var shardNames = regexp.MustCompile(`^(` + Train + `|` + Validation + `)-[0-9]{5,}` + regexp.QuoteMeta(extension) + `$`)

// begins tells whether a file begins with a text; an empty one might have.
func begins(name, text string) bool {
	f, err := disk.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, len(text))
	n, err := io.ReadFull(f, b)
	return n == 0 && err == io.EOF || string(b[:n]) == text
}

// heldStretch is what is held out where whole documents cannot be, because the
// hashes of all of them fall to the same split: the document and the place from
// which on it is for validation. It is empty elsewhere.
func heldStretch(docs []Document) (map[int]int, error) {
	held, size, longest := 0, 0, 0
	for i, d := range docs {
		if d.Validation() {
			held++
		}
		size += len(d.Text)
		if len(d.Text) > len(docs[longest].Text) {
			longest = i
		}
	}
	if held > 0 && held < len(docs) {
		return nil, nil
	}
	if size < minText {
		return nil, fmt.Errorf("%d bytes of text in %d documents are too few to hold some out, want %d or more", size, len(docs), minText)
	}
	text := docs[longest].Text
	n := min(max(size/validationShare, minStretch), len(text)/2)
	return map[int]int{longest: len(text) - n + lineEnd(text[len(text)-n:])}, nil
}

// A text of minText bytes is the smallest that is split. A stretch of minStretch
// has room for a sequence of most runs.
const (
	minText    = 64
	minStretch = 2 << 10
)

// lineEnd is the place behind the first line of a text, or, where that is more
// than half of it, where a rune begins.
func lineEnd(text []byte) int {
	if i := bytes.IndexByte(text, '\n') + 1; i > 0 && i <= len(text)/2 {
		return i
	}
	for i := range min(utf8.UTFMax, len(text)) {
		if utf8.RuneStart(text[i]) {
			return i
		}
	}
	return 0
}

func shardName(dir, split string, i int) string {
	return filepath.Join(dir, fmt.Sprintf("%s-%05d%s", split, i, extension))
}

// Set is an open data folder.
type Set struct {
	Train, Validation *Split
	Tokenizer         token.Tokenizer
}

// Open opens a folder that Prepare wrote, and checks every shard.
func Open(dir string) (*Set, error) {
	s := &Set{}
	var err error
	if s.Train, err = openSplit(dir, Train); err != nil {
		return nil, err
	}
	if s.Validation, err = openSplit(dir, Validation); err != nil {
		s.Train.Close()
		return nil, err
	}
	if s.Train.hash != s.Validation.hash {
		s.Close()
		return nil, fmt.Errorf("%s: the splits were made with different tokenizers; prepare the folder again", dir)
	}
	if s.Tokenizer, err = token.ByHash(s.Train.hash); err != nil {
		s.Close()
		return nil, fmt.Errorf("%s: %w", dir, err)
	}
	return s, nil
}

// Close closes the shards.
func (s *Set) Close() {
	s.Train.Close()
	s.Validation.Close()
}

// Split is a sequence of tokens, in one or more shards.
type Split struct {
	shards []*shard
	starts []int64 // of each shard, in tokens
	size   int64
	hash   [32]byte
}

func openSplit(dir, name string) (*Split, error) {
	s := &Split{}
	for i := 0; ; i++ {
		sh, err := openShard(shardName(dir, name, i))
		if err != nil {
			s.Close()
			if os.IsNotExist(err) && i == 0 {
				return nil, fmt.Errorf("%s: no shard %s; make the folder with sffn prepare", dir, filepath.Base(shardName(dir, name, 0)))
			}
			return nil, err
		}
		s.shards = append(s.shards, sh)
		if sh.index != i || sh.count != s.shards[0].count || sh.hash != s.shards[0].hash || sh.vocab != s.shards[0].vocab {
			s.Close()
			return nil, fmt.Errorf("%s: shard %d of %d does not belong to the others; prepare the folder again", sh.name, sh.index, sh.count)
		}
		s.starts = append(s.starts, s.size)
		s.size += sh.tokens
		if i+1 == sh.count {
			break
		}
	}
	s.hash = s.shards[0].hash
	return s, nil
}

// Close closes the shards.
func (s *Split) Close() {
	for _, sh := range s.shards {
		sh.file.Close()
	}
}

// Fingerprint tells this data from any other.
func (s *Set) Fingerprint() string {
	h := fnv.New64a()
	for _, split := range []*Split{s.Train, s.Validation} {
		for _, sh := range split.shards {
			fmt.Fprintln(h, sh.tokens, sh.sum)
		}
	}
	return fmt.Sprintf("%016x", h.Sum64())
}

// Len is the number of tokens.
func (s *Split) Len() int64 { return s.size }

// Vocab is the size of the vocabulary.
func (s *Split) Vocab() int { return s.shards[0].vocab }

// Read fills dst with the tokens from at on.
func (s *Split) Read(dst []int32, at int64) error {
	if at < 0 || at+int64(len(dst)) > s.size {
		return fmt.Errorf("tokens %d to %d of %d", at, at+int64(len(dst)), s.size)
	}
	i, found := slices.BinarySearch(s.starts, at)
	if !found {
		i--
	}
	for ; len(dst) > 0; i++ {
		n := int(min(int64(len(dst)), s.starts[i]+s.shards[i].tokens-at))
		if err := s.shards[i].read(dst[:n], at-s.starts[i]); err != nil {
			return err
		}
		dst, at = dst[n:], at+int64(n)
	}
	return nil
}

// ReadAll reads up to limit tokens from the start.
func (s *Split) ReadAll(limit int64) ([]int32, error) {
	ids := make([]int32, min(limit, s.size))
	return ids, s.Read(ids, 0)
}
