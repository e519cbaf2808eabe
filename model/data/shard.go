package data

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"unsafe"

	"github.com/structuredffn/sffn/internal/disk"
)

// A shard is a header of 128 bytes, little-endian, the tokens, and a checksum of
// each block of 1 MiB of them:
//
//	0   magic "SFFNDATA"
//	8   version, 2
//	12  bytes a token: 2, 3 or 4
//	16  size of the vocabulary
//	20  number of this shard of its split, from 0
//	24  number of tokens, 8 bytes
//	32  number of documents that end in it, 8 bytes
//	40  bytes of text that the tokens were made of, 8 bytes
//	48  bytes that the tokens decode to, 8 bytes
//	56  CRC-32C of the checksums
//	60  zero
//	64  hash of the tokenizer, 32 bytes
//	96  zero
//	124 CRC-32C of the header before this
const (
	magic      = "SFFNDATA"
	version    = 2
	headerSize = 128
	blockSize  = 1 << 20
	extension  = ".tokens"
	maxShards  = 1 << 20
	// maxShardTokens bounds one shard.
	maxShardTokens = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// header is that of a shard.
type header struct {
	width, vocab, index              int
	tokens, documents, text, decoded int64
	sum                              uint32
	hash                             [32]byte
}

// widthOf is the number of bytes that the ids of a vocabulary take.
func widthOf(vocab int) int {
	switch {
	case vocab <= 1<<16:
		return 2
	case vocab <= 1<<24:
		return 3
	}
	return 4
}

func (h *header) bytes() []byte {
	b := make([]byte, 0, headerSize)
	b = append(b, magic...)
	for _, v := range []int{version, h.width, h.vocab, h.index} {
		b = binary.LittleEndian.AppendUint32(b, uint32(v))
	}
	for _, v := range []int64{h.tokens, h.documents, h.text, h.decoded} {
		b = binary.LittleEndian.AppendUint64(b, uint64(v))
	}
	b = binary.LittleEndian.AppendUint32(b, h.sum)
	b = append(b, make([]byte, 4)...)
	b = append(b, h.hash[:]...)
	b = append(b, make([]byte, headerSize-4-len(b))...)
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

// blocks is the number of blocks of the tokens.
func (h *header) blocks() int64 { return (h.tokens*int64(h.width) + blockSize - 1) / blockSize }

func (h *header) parse(b []byte, size int64) error {
	u32 := func(at int) int { return int(binary.LittleEndian.Uint32(b[at:])) }
	i64 := func(at int) int64 { return int64(binary.LittleEndian.Uint64(b[at:])) }
	if len(b) < len(magic) || string(b[:len(magic)]) != magic {
		return fmt.Errorf("no data shard: it does not begin with %q", magic)
	}
	if len(b) >= 12 && u32(8) != version {
		return fmt.Errorf("version %d, want %d: it was made by another version of this program; prepare the folder again", u32(8), version)
	}
	if len(b) < headerSize {
		return fmt.Errorf("the header is cut off after %d bytes, want %d", len(b), headerSize)
	}
	if got, want := crc32.Checksum(b[:headerSize-4], castagnoli), binary.LittleEndian.Uint32(b[headerSize-4:]); got != want {
		return fmt.Errorf("the header is damaged: checksum %08x, want %08x", got, want)
	}
	*h = header{width: u32(12), vocab: u32(16), index: u32(20), tokens: i64(24), documents: i64(32), text: i64(40), decoded: i64(48),
		sum: uint32(u32(56)), hash: [32]byte(b[64:96])}
	if h.vocab < 1 || h.vocab > 1<<30 || h.width != widthOf(h.vocab) {
		return fmt.Errorf("%d bytes a token do not go with a vocabulary of %d", h.width, h.vocab)
	}
	if h.index >= maxShards {
		return fmt.Errorf("shard %d, want less than %d", h.index, maxShards)
	}
	if h.tokens < 1 || h.tokens > maxShardTokens {
		return fmt.Errorf("%d tokens, want 1 to %d in a shard", h.tokens, maxShardTokens)
	}
	if h.documents < 0 || h.text < 0 || h.decoded < 0 {
		return errors.New("numbers of documents and bytes are less than 0")
	}
	if want := headerSize + h.tokens*int64(h.width) + 4*h.blocks(); size != want {
		return fmt.Errorf("%d tokens of %d bytes are promised, a file of %d bytes, and it has %d: cut off or damaged", h.tokens, h.width, want, size)
	}
	return nil
}

// shard is one that is open to be read.
type shard struct {
	header
	name   string
	file   *os.File
	start  int64 // of the tokens
	size   int64
	mtime  int64
	id     string // of the file, where the system has one
	mapped []byte // all of it, where the system maps files
	sums   []uint32
}

// openShard checks the header, the size and the list of checksums; check checks the
// tokens.
func openShard(name string) (*shard, error) {
	f, err := disk.Open(name)
	if err != nil {
		return nil, err
	}
	s := &shard{name: name, file: f, start: headerSize}
	if err := s.open(); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	s.mapped = disk.Map(f, s.size)
	return s, nil
}

func (s *shard) open() error {
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	s.size, s.mtime, s.id = info.Size(), info.ModTime().UnixNano(), disk.ID(info)
	var h [headerSize]byte
	n, err := s.file.ReadAt(h[:], 0)
	if err != nil && err != io.EOF {
		return err
	}
	if err := s.parse(h[:n], s.size); err != nil {
		return err
	}
	table := make([]byte, 4*s.blocks())
	if _, err := s.file.ReadAt(table, s.size-int64(len(table))); err != nil {
		return err
	}
	if got := crc32.Checksum(table, castagnoli); got != s.sum {
		return fmt.Errorf("the checksums at byte %d are damaged: their own is %08x, want %08x", s.size-int64(len(table)), got, s.sum)
	}
	s.sums = make([]uint32, s.blocks())
	for i := range s.sums {
		s.sums[i] = binary.LittleEndian.Uint32(table[4*i:])
	}
	return nil
}

// check compares the tokens with their checksums. buf has room for a block.
func (s *shard) check(buf []byte) error {
	for i, want := range s.sums {
		at := int64(i) * blockSize
		b := buf[:min(blockSize, s.tokens*int64(s.width)-at)]
		if _, err := s.file.ReadAt(b, s.start+at); err != nil {
			return fmt.Errorf("%s: at byte %d: %w", s.name, s.start+at, err)
		}
		if got := crc32.Checksum(b, castagnoli); got != want {
			return fmt.Errorf("%s: the block of %d bytes at byte %d is damaged: checksum %08x, want %08x; prepare the folder again, or copy the file again",
				s.name, len(b), s.start+at, got, want)
		}
	}
	return nil
}

func (s *shard) close() error {
	return errors.Join(disk.Unmap(s.mapped), s.file.Close())
}

// idAt is the id at the beginning of b.
func idAt(b []byte, width int) uint32 {
	switch width {
	case 2:
		return uint32(binary.LittleEndian.Uint16(b))
	case 3:
		return uint32(binary.LittleEndian.Uint16(b)) | uint32(b[2])<<16
	}
	return binary.LittleEndian.Uint32(b)
}

func (s *shard) read(dst []int32, at int64) error {
	// The bytes are read into the end of dst and widened from there: entry i
	// ends before the bytes of entry i+1 begin, so that nothing is allocated.
	buf := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(dst))), 4*len(dst))[(4-s.width)*len(dst):]
	if err := s.copy(buf, s.start+at*int64(s.width)); err != nil {
		return err
	}
	for i := range dst {
		id := idAt(buf[i*s.width:], s.width)
		if id >= uint32(s.vocab) {
			return fmt.Errorf("%s: token %d, at byte %d, is %d, want less than the vocabulary's %d: damaged, or changed since it was opened",
				s.name, at+int64(i), s.start+(at+int64(i))*int64(s.width), id, s.vocab)
		}
		dst[i] = int32(id)
	}
	return nil
}

// copy reads bytes of the file. Those of a mapped one may be gone: then the processor
// says so, which is an error as any other.
func (s *shard) copy(b []byte, at int64) error {
	if s.mapped == nil {
		if _, err := s.file.ReadAt(b, at); err != nil {
			return fmt.Errorf("%s: at byte %d: %w", s.name, at, err)
		}
		return nil
	}
	if err := disk.ReadMapped(func() { copy(b, s.mapped[at:]) }); err != nil {
		return fmt.Errorf("%s: at byte %d: cannot be read: %w", s.name, at, err)
	}
	return nil
}
