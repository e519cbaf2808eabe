package learn

import (
	"bytes"
	"cmp"
	"hash/maphash"
	"slices"
	"unicode/utf8"
)

// words counts words. Its memory holds no pointers for each of them.
type words struct {
	seed    maphash.Seed
	slots   []uint32 // 1 + the number of an entry; a power of two of them
	entries []entry  // in the order in which words came first
	text    []byte   // of all words
}

type entry struct {
	hash  uint32
	at    uint32 // in text
	size  uint32
	count int64
}

func newWords() *words {
	return &words{seed: maphash.MakeSeed(), slots: make([]uint32, 1<<10)}
}

// reset forgets all words and keeps the memory.
func (w *words) reset() {
	clear(w.slots)
	w.entries, w.text = w.entries[:0], w.text[:0]
}

func (w *words) word(e *entry) []byte { return w.text[e.at:][:e.size] }

// add counts a word n times more.
func (w *words) add(word []byte, n int64) {
	h := maphash.Bytes(w.seed, word)
	mask := uint32(len(w.slots) - 1)
	slot := uint32(h) & mask
	for ; w.slots[slot] != 0; slot = (slot + 1) & mask {
		e := &w.entries[w.slots[slot]-1]
		if e.hash == uint32(h) && bytes.Equal(w.word(e), word) {
			e.count += n
			return
		}
	}
	w.entries = append(w.entries, entry{uint32(h), uint32(len(w.text)), uint32(len(word)), n})
	w.text = append(w.text, word...)
	w.slots[slot] = uint32(len(w.entries))
	if len(w.entries)*2 > len(w.slots) {
		w.index(2 * len(w.slots))
	}
}

// index makes so many slots anew.
func (w *words) index(n int) {
	w.slots = make([]uint32, n)
	mask := uint32(n - 1)
	for i, e := range w.entries {
		slot := e.hash & mask
		for w.slots[slot] != 0 {
			slot = (slot + 1) & mask
		}
		w.slots[slot] = uint32(i + 1)
	}
}

// keep drops all words but the most frequent ones, at most n with so many bytes
// in all; of equally frequent ones those that came first are kept. It returns how often the dropped
// ones had come, in all.
func (w *words) keep(n, size int) (dropped int64) {
	order := make([]uint32, len(w.entries))
	for i := range order {
		order[i] = uint32(i)
	}
	slices.SortFunc(order, func(a, b uint32) int {
		return cmp.Or(cmp.Compare(w.entries[b].count, w.entries[a].count), cmp.Compare(a, b))
	})
	kept := 0
	for ; kept < min(n, len(order)); kept++ {
		if size -= int(w.entries[order[kept]].size); size < 0 {
			break
		}
	}
	for _, i := range order[kept:] {
		dropped += w.entries[i].count
		w.entries[i].count = 0
	}
	entries, text := w.entries[:0], w.text[:0]
	for _, e := range w.entries {
		if e.count > 0 {
			word := w.text[e.at:][:e.size]
			e.at = uint32(len(text))
			entries, text = append(entries, e), append(text, word...)
		}
	}
	w.entries, w.text = entries, text
	w.index(len(w.slots))
	return dropped
}

// cut shortens a word that is too long, at the start of a rune where one is
// near.
func cut(word []byte) []byte {
	if len(word) <= maxWord {
		return word
	}
	for n := maxWord; n > maxWord-utf8.UTFMax; n-- {
		if utf8.RuneStart(word[n]) {
			return word[:n]
		}
	}
	return word[:maxWord]
}
