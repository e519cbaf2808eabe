package data

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/token"
)

// Folders of the first edition have no index, and their shards, of bytes alone,
// another header:
//
//	0  magic "SFFNDATA"
//	8  version, 1
//	12 bytes a token, 2
//	16 size of the vocabulary, 257
//	20 number of this shard, from 0
//	24 number of shards of the split
//	28 CRC-32C of the tokens
//	32 hash of the tokenizer, 32 bytes
//	64 number of tokens, 8 bytes
//	72 zero
//	76 CRC-32C of the header before this
const (
	firstVersion    = 1
	firstHeaderSize = 80
)

// openFirst opens a folder of the first edition. ok says that it is one.
func openFirst(dir string) (s *Set, ok bool, err error) {
	train, err := openFirstSplit(dir, Train)
	if errors.Is(err, errNotFirst) || errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	} else if err != nil {
		return nil, true, err
	}
	val, err := openFirstSplit(dir, Validation)
	if err != nil {
		train.Close()
		return nil, true, err
	}
	return &Set{Train: train, Validation: val, Tokenizer: token.Bytes{}}, true, nil
}

// errNotFirst says that a shard is of another edition.
var errNotFirst = errors.New("not of the first edition")

func openFirstSplit(dir, name string) (*Split, error) {
	s := &Split{lengths: lengthsOf(token.Bytes{})}
	for i, count := 0, 1; i < count; i++ {
		sh, n, err := openFirstShard(shardName(dir, name, i), i)
		if err != nil {
			s.Close()
			return nil, err
		}
		s.shards, s.starts = append(s.shards, sh), append(s.starts, s.size)
		if i > 0 && n != count {
			s.Close()
			return nil, fmt.Errorf("%s: shard %d of %d does not belong to the others; prepare the folder again", sh.name, i, n)
		}
		count, s.size = n, s.size+sh.tokens
		s.totals.Tokens += sh.tokens
		s.totals.Documents += sh.documents
		s.totals.TextBytes += sh.text
		s.totals.DecodedBytes += sh.decoded
	}
	return s, nil
}

// openFirstShard checks a shard, all its tokens included, and returns the number of
// them that the split has.
func openFirstShard(name string, index int) (s *shard, count int, err error) {
	f, err := disk.Open(name)
	if err != nil {
		return nil, 0, err
	}
	s = &shard{name: name, file: f, start: firstHeaderSize}
	if count, err = s.openFirst(index); err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("%s: %w", name, err)
	}
	return s, count, nil
}

func (s *shard) openFirst(index int) (count int, err error) {
	info, err := s.file.Stat()
	if err != nil {
		return 0, err
	}
	var h [firstHeaderSize]byte
	if _, err := s.file.ReadAt(h[:], 0); err != nil && err != io.EOF {
		return 0, err
	}
	u32 := func(at int) int { return int(binary.LittleEndian.Uint32(h[at:])) }
	if string(h[:len(magic)]) != magic || u32(8) != firstVersion {
		return 0, errNotFirst
	}
	if got, want := crc32.Checksum(h[:76], castagnoli), binary.LittleEndian.Uint32(h[76:]); got != want {
		return 0, fmt.Errorf("the header is damaged: checksum %08x, want %08x", got, want)
	}
	s.header = header{width: u32(12), vocab: u32(16), index: u32(20), sum: uint32(u32(28)), hash: [32]byte(h[32:64])}
	if bytes := (token.Bytes{}); s.width != 2 || s.vocab != bytes.Vocab() || s.hash != bytes.Hash() {
		return 0, errors.New("made with an unknown tokenizer, want that of bytes; prepare the folder again")
	}
	if count = u32(24); count < 1 || count > maxShards || s.index != index {
		return 0, fmt.Errorf("shard %d of %d, in the place of %d", s.index, count, index)
	}
	n, size := binary.LittleEndian.Uint64(h[64:]), uint64(info.Size()-firstHeaderSize)
	if n != size/2 || size%2 != 0 || n < 1 || n > maxShardTokens {
		return 0, fmt.Errorf("%d tokens of 2 bytes are promised, the file has %d bytes of them: cut off or damaged", n, size)
	}
	s.tokens, s.size = int64(n), info.Size()
	return count, s.checkFirst()
}

// checkFirst compares the tokens with their checksum, and counts them.
func (s *shard) checkFirst() error {
	sum, end := crc32.New(castagnoli), token.Bytes{}.EndOfDocument()
	r := bufio.NewReaderSize(io.NewSectionReader(s.file, s.start, 2*s.tokens), blockSize)
	buf := make([]byte, 1<<16)
	for {
		n, err := io.ReadFull(r, buf)
		sum.Write(buf[:n])
		for i := 0; i+2 <= n; i += 2 {
			if int32(idAt(buf[i:], 2)) == end {
				s.documents++
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		} else if err != nil {
			return err
		}
	}
	s.text, s.decoded = s.tokens-s.documents, s.tokens-s.documents
	if got := sum.Sum32(); got != s.sum {
		return fmt.Errorf("the tokens are damaged: checksum %08x, want %08x", got, s.sum)
	}
	return nil
}
