package data

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"unsafe"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/token"
)

// A shard is a header of 80 bytes, little-endian, and the tokens:
//
//	0  magic "SFFNDATA"
//	8  version, 1
//	12 bytes a token, 2 or 4
//	16 size of the vocabulary
//	20 number of this shard, from 0
//	24 number of shards of the split
//	28 CRC-32C of the tokens
//	32 hash of the tokenizer, 32 bytes
//	64 number of tokens, 8 bytes
//	72 zero
//	76 CRC-32C of the header before this
const (
	magic      = "SFFNDATA"
	version    = 1
	headerSize = 80
	extension  = ".tokens"
	maxShards  = 1 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type shard struct {
	name         string
	file         *os.File
	width, vocab int
	index, count int
	tokens       int64
	sum          uint32
	hash         [32]byte
}

func writeShard(name string, ids []int32, index, count int, t token.Tokenizer) error {
	width := 2
	if t.Vocab() > 1<<16 {
		width = 4
	}
	body := make([]byte, 0, width*len(ids))
	for _, id := range ids {
		if width == 2 {
			body = binary.LittleEndian.AppendUint16(body, uint16(id))
		} else {
			body = binary.LittleEndian.AppendUint32(body, uint32(id))
		}
	}
	head := make([]byte, 0, headerSize)
	head = append(head, magic...)
	for _, v := range []int{version, width, t.Vocab(), index, count} {
		head = binary.LittleEndian.AppendUint32(head, uint32(v))
	}
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(body, castagnoli))
	hash := t.Hash()
	head = append(head, hash[:]...)
	head = binary.LittleEndian.AppendUint64(head, uint64(len(ids)))
	head = binary.LittleEndian.AppendUint32(head, 0)
	head = binary.LittleEndian.AppendUint32(head, crc32.Checksum(head, castagnoli))
	return disk.Replace(name, func(w io.Writer) error {
		_, err := w.Write(head)
		if err == nil {
			_, err = w.Write(body)
		}
		return err
	})
}

// openShard checks the header, the size and the tokens.
func openShard(name string) (*shard, error) {
	f, err := disk.Open(name)
	if err != nil {
		return nil, err
	}
	s := &shard{name: name, file: f}
	if err := s.check(); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return s, nil
}

func (s *shard) check() error {
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	var h [headerSize]byte
	if _, err := io.ReadFull(s.file, h[:]); err != nil || string(h[:8]) != magic {
		return fmt.Errorf("no data shard: it does not begin with %q", magic)
	}
	u32 := func(at int) int { return int(binary.LittleEndian.Uint32(h[at:])) }
	if got, want := crc32.Checksum(h[:76], castagnoli), binary.LittleEndian.Uint32(h[76:]); got != want {
		return fmt.Errorf("the header is damaged: checksum %08x, want %08x", got, want)
	}
	if v := u32(8); v != version {
		return fmt.Errorf("version %d is unknown, want %d", v, version)
	}
	s.width, s.vocab, s.index, s.count = u32(12), u32(16), u32(20), u32(24)
	s.sum = binary.LittleEndian.Uint32(h[28:])
	if s.width != 2 && s.width != 4 {
		return fmt.Errorf("%d bytes a token, want 2 or 4", s.width)
	}
	if s.vocab < 1 || s.vocab > 1<<30 || s.width == 2 && s.vocab > 1<<16 {
		return fmt.Errorf("a vocabulary of %d does not fit tokens of %d bytes", s.vocab, s.width)
	}
	if s.count < 1 || s.count > maxShards || s.index >= s.count {
		return fmt.Errorf("shard %d of %d", s.index, s.count)
	}
	n := binary.LittleEndian.Uint64(h[64:])
	if size := uint64(info.Size() - headerSize); n != size/uint64(s.width) || size%uint64(s.width) != 0 {
		return fmt.Errorf("%d tokens of %d bytes are promised, the file has %d bytes of them: cut off or damaged", n, s.width, size)
	}
	if n > shardTokens {
		return fmt.Errorf("%d tokens, want at most %d in a shard", n, shardTokens)
	}
	s.tokens = int64(n)
	s.hash = [32]byte(h[32:64])
	return s.checkTokens()
}

func (s *shard) checkTokens() error {
	sum := crc32.New(castagnoli)
	r := bufio.NewReaderSize(io.NewSectionReader(s.file, headerSize, s.tokens*int64(s.width)), 1<<20)
	buf := make([]byte, 1<<16)
	for at := int64(0); ; {
		n, err := io.ReadFull(r, buf)
		sum.Write(buf[:n])
		for i := 0; i+s.width <= n; i += s.width {
			if id := s.id(buf[i:]); id >= uint32(s.vocab) {
				return fmt.Errorf("token %d is %d, want less than the vocabulary's %d", at+int64(i/s.width), id, s.vocab)
			}
		}
		at += int64(n / s.width)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if got := sum.Sum32(); got != s.sum {
		return fmt.Errorf("the tokens are damaged: checksum %08x, want %08x", got, s.sum)
	}
	return nil
}

func (s *shard) id(b []byte) uint32 {
	if s.width == 2 {
		return uint32(binary.LittleEndian.Uint16(b))
	}
	return binary.LittleEndian.Uint32(b)
}

func (s *shard) read(dst []int32, at int64) error {
	// The bytes are read into the end of dst and widened from there: entry i
	// ends before the bytes of entry i+1 begin, so that nothing is allocated.
	buf := unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(dst))), 4*len(dst))[(4-s.width)*len(dst):]
	if _, err := s.file.ReadAt(buf, headerSize+at*int64(s.width)); err != nil {
		return fmt.Errorf("%s: %w", s.name, err)
	}
	for i := range dst {
		id := s.id(buf[i*s.width:])
		if id >= uint32(s.vocab) {
			return fmt.Errorf("%s: token %d is %d: the file changed since it was opened", s.name, at+int64(i), id)
		}
		dst[i] = int32(id)
	}
	return nil
}
