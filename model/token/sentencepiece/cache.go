package sentencepiece

import (
	"bytes"
	"encoding/binary"
)

// Bounds of a cache: it takes 2 MB.
const (
	cacheSlots = 1 << 14
	cacheKeys  = 1 << 19
	cacheIDs   = 1 << 18
	// maxCached is the longest word, in bytes, that is kept.
	maxCached = 64
)

// cache keeps what words became. A word takes the place of another with the same
// hash, and where all the space is used the cache begins anew.
type cache struct {
	slots []entry
	keys  []byte
	ids   []int32
}

// entry is a word and what it became.
type entry struct {
	hash     uint32
	key, ids uint32 // where the bytes of the word and its ids are
	size     uint16 // bytes of the word; 0 is an empty entry
	count    uint16 // ids
	// low and high bound the scores of the word's beginnings: for unigrams.
	low, high float32
}

func newCache() *cache {
	return &cache{make([]entry, cacheSlots), make([]byte, 0, cacheKeys), make([]int32, 0, cacheIDs)}
}

func hash(word []byte) uint32 {
	h := uint64(len(word)) * 0x9e3779b97f4a7c15
	for ; len(word) >= 8; word = word[8:] {
		h = (h ^ binary.LittleEndian.Uint64(word)) * 0xd6e8feb86659fd93
		h ^= h >> 32
	}
	var rest uint64
	for i := len(word) - 1; i >= 0; i-- {
		rest = rest<<8 | uint64(word[i])
	}
	h = (h ^ rest) * 0xd6e8feb86659fd93
	return uint32(h >> 32)
}

// find returns the entry of a word, or nil, and its hash.
func (c *cache) find(word []byte) (*entry, uint32) {
	h := hash(word)
	e := &c.slots[h%cacheSlots]
	if e.hash == h && int(e.size) == len(word) && bytes.Equal(c.keys[e.key:][:len(word)], word) {
		return e, h
	}
	return nil, h
}

// what returns the ids of an entry.
func (c *cache) what(e *entry) []int32 { return c.ids[e.ids:][:e.count] }

// put keeps a word of 1 to maxCached bytes, with as many ids at most.
func (c *cache) put(hash uint32, word []byte, ids []int32) *entry {
	if len(c.keys)+len(word) > cacheKeys || len(c.ids)+len(ids) > cacheIDs {
		clear(c.slots)
		c.keys, c.ids = c.keys[:0], c.ids[:0]
	}
	e := &c.slots[hash%cacheSlots]
	*e = entry{hash: hash, key: uint32(len(c.keys)), ids: uint32(len(c.ids)), size: uint16(len(word)), count: uint16(len(ids))}
	c.keys = append(c.keys, word...)
	c.ids = append(c.ids, ids...)
	return e
}
