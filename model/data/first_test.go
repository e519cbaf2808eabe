package data

import (
	"encoding/binary"
	"hash/crc32"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/frugal"
	"github.com/structuredffn/sffn/model/token"
)

// firstShard is what the first edition wrote.
func firstShard(ids []uint16, index, count uint32) []byte {
	var body []byte
	for _, id := range ids {
		body = binary.LittleEndian.AppendUint16(body, id)
	}
	h := []byte(magic)
	for _, v := range []uint32{1, 2, 257, index, count, crc32.Checksum(body, castagnoli)} {
		h = binary.LittleEndian.AppendUint32(h, v)
	}
	hash := token.Bytes{}.Hash()
	h = append(h, hash[:]...)
	h = binary.LittleEndian.AppendUint64(h, uint64(len(ids)))
	return append(sealed(append(h, 0, 0, 0, 0)), body...)
}

// sealed adds the checksum of a header of the first edition, or replaces it.
func sealed(h []byte) []byte {
	return binary.LittleEndian.AppendUint32(h[:76:76], crc32.Checksum(h[:76], castagnoli))
}

func TestFirstEdition(t *testing.T) {
	dir := t.TempDir()
	put := func(split string, i int, b []byte) {
		t.Helper()
		if err := os.WriteFile(shardName(dir, split, i), b, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	good := func() {
		put(Train, 0, firstShard([]uint16{'a', 'b', 256}, 0, 2))
		put(Train, 1, firstShard([]uint16{'c', 256}, 1, 2))
		put(Validation, 0, firstShard([]uint16{'d', 'e', 256}, 0, 1))
	}
	good()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := s.Train.ReadAll(100)
	if want := []int32{'a', 'b', 256, 'c', 256}; err != nil || !slices.Equal(ids, want) {
		t.Errorf("%v, %v, want %v", ids, err, want)
	}
	if got, want := s.Train.Totals(), (Totals{Documents: 2, Tokens: 5, TextBytes: 3, DecodedBytes: 3}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	// The fingerprint that runs of the first edition have, of this data.
	if got, want := s.Fingerprint(), "a6a87e5add7cefd8"; got != want {
		t.Errorf("the fingerprint is %s, want %s", got, want)
	}
	s.Close()
	for want, spoil := range map[string]func(){
		"tokens are damaged":         func() { b := firstShard([]uint16{'a', 'b', 256}, 0, 2); b[80]++; put(Train, 0, b) },
		"header is damaged":          func() { b := firstShard([]uint16{'a', 'b', 256}, 0, 2); b[64]++; put(Train, 0, b) },
		"cut off or damaged":         func() { put(Train, 1, firstShard([]uint16{'c', 256}, 1, 2)[:82]) },
		"in the place of 1":          func() { put(Train, 1, firstShard([]uint16{'c', 256}, 0, 2)) },
		"does not belong":            func() { put(Train, 1, firstShard([]uint16{'c', 256}, 1, 3)) },
		"made with an unknown token": func() { b := firstShard([]uint16{'a'}, 0, 1); b[40]++; put(Train, 0, append(sealed(b), b[80:]...)) },
		"no such file":               func() { os.Remove(shardName(dir, Validation, 0)) },
	} {
		good()
		spoil()
		if s, err := Open(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
			if err == nil {
				s.Close()
			}
		}
	}
	// What a header merely claims is not allocated.
	good()
	h := firstShard([]uint16{'a'}, 0, 1)[:80]
	binary.LittleEndian.PutUint64(h[64:], 5<<30)
	put(Train, 0, sealed(h))
	if err := os.Truncate(shardName(dir, Train, 0), 80+10<<30); err != nil {
		t.Fatal(err)
	}
	frugal.Run(t, 1<<20, func() {
		if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "cut off or damaged") {
			t.Errorf("%v", err)
		}
	})
}
