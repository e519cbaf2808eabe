package data

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/structuredffn/sffn/internal/disk"
)

// splitWriter writes the shards of a split, one after the other. They lie under the names
// of unfinished files until publish gives them theirs.
type splitWriter struct {
	dir, name string
	limit     int64 // tokens of a shard
	header          // of the shard at work
	file      *os.File
	block     []byte // that is not full yet
	sums      []uint32
	total     Totals
	done      []shardEntry
}

// Totals is what a split has.
type Totals struct {
	Documents int64 `json:"documents"`
	Tokens    int64 `json:"tokens"`
	// TextBytes is the size of the text, DecodedBytes that of what the tokens decode to.
	TextBytes    int64 `json:"text_bytes"`
	DecodedBytes int64 `json:"decoded_bytes"`
}

// add adds tokens of a document: those of text bytes, that decode to so many. The
// document ends with them where last.
func (w *splitWriter) add(ids []int32, text, decoded int64, last bool) error {
	w.total.TextBytes += text
	w.total.DecodedBytes += decoded
	w.total.Tokens += int64(len(ids))
	first := true
	for len(ids) > 0 {
		if w.file == nil {
			if err := w.begin(); err != nil {
				return err
			}
		}
		if first {
			w.text += text
			w.decoded += decoded
			first = false
		}
		n := int(min(int64(len(ids)), w.limit-w.tokens))
		if err := w.pack(ids[:n]); err != nil {
			return err
		}
		ids = ids[n:]
		if last && len(ids) == 0 {
			w.documents++
		}
		if w.tokens == w.limit {
			if err := w.finish(); err != nil {
				return err
			}
		}
	}
	if last {
		w.total.Documents++
	}
	return nil
}

func (w *splitWriter) pack(ids []int32) error {
	w.tokens += int64(len(ids))
	for _, id := range ids {
		w.block = binary.LittleEndian.AppendUint32(w.block, uint32(id))
		w.block = w.block[:len(w.block)-4+w.width]
		if len(w.block) >= blockSize {
			if err := w.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// at is where the block at work begins.
func (w *splitWriter) at() int64 { return headerSize + int64(len(w.sums))*blockSize }

// flush writes a block that is full; of a token that lies across its end the rest stays.
func (w *splitWriter) flush() error {
	b := w.block[:blockSize]
	disk.At("write", w.file.Name())
	if _, err := w.file.WriteAt(b, w.at()); err != nil {
		return err
	}
	w.sums = append(w.sums, crc32.Checksum(b, castagnoli))
	w.block = append(w.block[:0], w.block[blockSize:]...)
	return nil
}

func (w *splitWriter) shardName() string { return shardName(w.dir, w.name, w.index) }

func (w *splitWriter) begin() error {
	name := disk.Unfinished(w.shardName())
	disk.At("create", name)
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC|disk.NoFollow, 0o666)
	if err != nil {
		return err
	}
	w.file, w.sums = f, w.sums[:0]
	w.block = slices.Grow(w.block[:0], blockSize+4)
	w.tokens, w.documents, w.text, w.decoded = 0, 0, 0, 0
	return nil
}

// table is the list of checksums, with that of the block at work.
func (w *splitWriter) table() []byte {
	b := make([]byte, 0, 4*len(w.sums)+4)
	for _, s := range w.sums {
		b = binary.LittleEndian.AppendUint32(b, s)
	}
	if len(w.block) > 0 {
		b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(w.block, castagnoli))
	}
	return b
}

// finish makes the shard whole.
func (w *splitWriter) finish() error {
	if w.file == nil {
		return nil
	}
	if w.index >= maxShards {
		return fmt.Errorf("%s: more than %d shards", w.dir, maxShards)
	}
	table := w.table()
	w.sum = crc32.Checksum(table, castagnoli)
	tmp := w.file.Name()
	disk.At("write", tmp)
	_, err := w.file.WriteAt(append(w.block, table...), w.at())
	if err == nil {
		_, err = w.file.WriteAt(w.header.bytes(), 0)
	}
	if err == nil {
		disk.At("sync", tmp)
		err = w.file.Sync()
	}
	if err = errors.Join(err, w.file.Close()); err != nil {
		return err
	}
	w.done = append(w.done, shardEntry{File: filepath.Base(w.shardName()), Tokens: w.tokens, Sum: w.sum})
	w.file = nil
	w.index++
	return nil
}

// publish gives the shards their names.
func (w *splitWriter) publish() error {
	for _, e := range w.done {
		name := filepath.Join(w.dir, e.File)
		if err := disk.Rename(disk.Unfinished(name), name); err != nil {
			return err
		}
	}
	return nil
}

// splitState is what a journal keeps of a split.
type splitState struct {
	Total Totals       `json:"total"`
	Done  []shardEntry `json:"done,omitempty"`
	// Of the shard at work; no tokens where there is none.
	Tokens    int64  `json:"tokens,omitempty"`
	Documents int64  `json:"shard_documents,omitempty"`
	Text      int64  `json:"shard_text_bytes,omitempty"`
	Decoded   int64  `json:"shard_decoded_bytes,omitempty"`
	Sum       uint32 `json:"sum,omitempty"`
}

// save makes what was added last, and says what it is.
func (w *splitWriter) save() (splitState, error) {
	s := splitState{Total: w.total, Done: w.done}
	if w.file == nil {
		return s, nil
	}
	disk.At("write", w.file.Name())
	if _, err := w.file.WriteAt(w.block, w.at()); err != nil {
		return s, err
	}
	disk.At("sync", w.file.Name())
	s.Tokens, s.Documents, s.Text, s.Decoded, s.Sum = w.tokens, w.documents, w.text, w.decoded, crc32.Checksum(w.table(), castagnoli)
	return s, w.file.Sync()
}

// errOtherShard says that a shard is not what the journal says.
var errOtherShard = errors.New("it is not what was written")

// resume goes on with what was saved. The end of a preparation may have given shards
// their names since: where there is no index they are its own.
func (w *splitWriter) resume(s splitState) error {
	w.total, w.done, w.index = s.Total, s.Done, len(s.Done)
	for i, e := range s.Done {
		name := shardName(w.dir, w.name, i)
		if e.File != filepath.Base(name) {
			return fmt.Errorf("%q: %w", e.File, errOtherShard)
		}
		if err := takeBack(name); err != nil {
			return err
		}
		sh, err := openShard(disk.Unfinished(name))
		if err != nil {
			return err
		}
		sh.close()
		if sh.tokens != e.Tokens || sh.sum != e.Sum || sh.hash != w.hash {
			return fmt.Errorf("%s: %w", sh.name, errOtherShard)
		}
	}
	if s.Tokens == 0 {
		return nil
	}
	if s.Tokens < 0 || s.Tokens >= w.limit {
		return fmt.Errorf("%d tokens: %w", s.Tokens, errOtherShard)
	}
	// It may have become whole since the journal was written.
	if err := takeBack(w.shardName()); err != nil {
		return err
	}
	tmp := disk.Unfinished(w.shardName())
	f, err := os.OpenFile(tmp, os.O_RDWR|disk.NoFollow, 0)
	if err != nil {
		return err
	}
	w.file = f
	size := s.Tokens * int64(w.width)
	w.block = slices.Grow(w.block[:0], blockSize+4)[:blockSize]
	w.sums = w.sums[:0]
	for ; size >= blockSize; size -= blockSize {
		if _, err := f.ReadAt(w.block, w.at()); err != nil {
			return fmt.Errorf("%s: %w", tmp, err)
		}
		w.sums = append(w.sums, crc32.Checksum(w.block, castagnoli))
	}
	w.block = w.block[:size]
	if _, err := f.ReadAt(w.block, w.at()); err != nil && size > 0 {
		return fmt.Errorf("%s: %w", tmp, err)
	}
	w.tokens, w.documents, w.text, w.decoded = s.Tokens, s.Documents, s.Text, s.Decoded
	if crc32.Checksum(w.table(), castagnoli) != s.Sum {
		return fmt.Errorf("%s: %w", tmp, errOtherShard)
	}
	return nil
}

// takeBack gives a shard the name of an unfinished one again, if there is none.
func takeBack(name string) error {
	if _, err := os.Lstat(disk.Unfinished(name)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if _, err := os.Lstat(filepath.Join(filepath.Dir(name), indexFile)); err == nil {
		return fmt.Errorf("%s is gone", disk.Unfinished(name))
	}
	sh, err := openShard(name)
	if err != nil {
		return err
	}
	sh.close()
	return disk.Rename(name, disk.Unfinished(name))
}

// discard removes what was written.
func (w *splitWriter) discard() {
	w.close()
	for i := range w.index + 1 {
		disk.Remove(disk.Unfinished(shardName(w.dir, w.name, i)))
	}
}

// close leaves the shard at work as it is.
func (w *splitWriter) close() {
	if w.file != nil {
		w.file.Close()
		w.file = nil
	}
}
