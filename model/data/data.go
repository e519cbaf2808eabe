// Package data prepares corpora and reads them: documents become shards of
// token ids, split into training and validation, and a sampler says which
// stretch of them each sequence of a training run is.
package data

import (
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/structuredffn/sffn/model/token"
)

// The splits of a data folder.
const (
	Train      = "train"
	Validation = "val"
)

// Set is an open data folder.
type Set struct {
	Train, Validation *Split
	Tokenizer         token.Tokenizer
}

// Open opens a folder that a Preparation wrote. Shards that have not been compared with
// their checksums since they were written are now; the folder remembers it, where it
// can be written.
func Open(dir string) (*Set, error) {
	x, err := readIndex(dir)
	if errors.Is(err, errNoIndex) {
		if s, ok, err := openFirst(dir); ok {
			return s, err
		}
	}
	if err != nil {
		return nil, err
	}
	s := &Set{}
	if s.Tokenizer, err = x.openTokenizer(dir); err != nil {
		return nil, err
	}
	lengths := lengthsOf(s.Tokenizer)
	for _, split := range []struct {
		name string
		to   **Split
	}{{Train, &s.Train}, {Validation, &s.Validation}} {
		if *split.to, err = openSplit(dir, x, split.name); err != nil {
			s.Close()
			return nil, err
		}
		(*split.to).lengths = lengths
	}
	if err := s.check(dir); err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// lengthsOf is the number of bytes that each id decodes to.
func lengthsOf(t token.Tokenizer) []int32 {
	lengths := make([]int32, t.Vocab())
	var b []byte
	for id := range lengths {
		b = t.Decode(b[:0], int32(id))
		lengths[id] = int32(len(b))
	}
	return lengths
}

// check compares shards with their checksums, unless that was done before.
func (s *Set) check(dir string) error {
	name := filepath.Join(dir, checkedFile)
	var was checked
	readJSON(name, checkedKind, &was) // one that cannot be read says nothing
	var left []*shard
	now := checked{Kind: checkedKind, Shards: map[string]checkedEntry{}}
	for _, split := range []*Split{s.Train, s.Validation} {
		for _, sh := range split.shards {
			base := filepath.Base(sh.name)
			now.Shards[base] = sh.checkedEntry()
			if e, ok := was.Shards[base]; !ok || e != now.Shards[base] {
				left = append(left, sh)
			}
		}
	}
	if len(left) == 0 {
		return nil
	}
	errs := make([]error, len(left))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(len(left), runtime.GOMAXPROCS(0), 4) {
		wg.Go(func() {
			buf := make([]byte, blockSize)
			for i := next.Add(1) - 1; i < int64(len(left)); i = next.Add(1) - 1 {
				errs[i] = left[i].check(buf)
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	writeJSON(name, now) // where that fails they are checked again
	return nil
}

// Close closes the shards. Nothing may be read any more.
func (s *Set) Close() {
	for _, split := range []*Split{s.Train, s.Validation} {
		if split != nil {
			split.Close()
		}
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

// Split is a sequence of tokens, in one or more shards.
type Split struct {
	shards  []*shard
	starts  []int64 // of each shard, in tokens
	size    int64
	totals  Totals
	lengths []int32 // of what each id decodes to
}

func openSplit(dir string, x *index, name string) (*Split, error) {
	span := x.Splits[name]
	s := &Split{totals: span.Totals}
	for i, e := range span.Shards {
		sh, err := openShard(filepath.Join(dir, e.File))
		if err != nil {
			s.Close()
			return nil, err
		}
		s.shards = append(s.shards, sh)
		if sh.index != i || sh.tokens != e.Tokens || sh.sum != e.Sum || sh.vocab != x.Tokenizer.Vocab || hex.EncodeToString(sh.hash[:]) != x.Tokenizer.Hash {
			s.Close()
			return nil, fmt.Errorf("%s: not the shard that %s was written for; prepare the folder again", sh.name, indexFile)
		}
		s.starts = append(s.starts, s.size)
		s.size += sh.tokens
	}
	return s, nil
}

// Close closes the shards.
func (s *Split) Close() error {
	var err error
	for _, sh := range s.shards {
		err = errors.Join(err, sh.close())
	}
	s.shards = nil
	return err
}

// Totals is what the split has.
func (s *Split) Totals() Totals { return s.totals }

// Len is the number of tokens.
func (s *Split) Len() int64 { return s.size }

// Vocab is the size of the vocabulary.
func (s *Split) Vocab() int { return s.shards[0].vocab }

// Read fills dst with the tokens from at on.
func (s *Split) Read(dst []int32, at int64) error {
	if at < 0 || at > s.size || int64(len(dst)) > s.size-at {
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
