package sentencepiece

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// Bounds of the rules of normalization. Those of the library's own tables have
// 12 bytes and become at most 33.
const (
	maxUnits       = 1 << 20
	maxRule        = 1024
	maxReplacement = 256
	// maxRules is how many rules may match at a place: the library looks no
	// further.
	maxRules = 32
)

// charsmap is a precompiled_charsmap: byte sequences and what replaces them. The
// sequences are in a double array of the library Darts-clone, of units with these
// bits:
//
//	0-7    label: the byte that leads here
//	8      a value is at the node's base
//	9      the offset is shifted by 8
//	10-30  offset: what is added to the unit's index, by exclusive or, for the base
//	31     the unit is a value: the place of a replacement in the texts
type charsmap struct {
	units []uint32
	texts string // each ends with a zero
}

func unitOffset(u uint32) uint32 { return u >> 10 << (u >> 6 & 8) }
func unitLabel(u uint32) uint32  { return u & (1<<31 | 0xff) }

// newCharsmap reads such a map, nil for an empty one. All that can be reached in
// it is checked: find needs no checks, and takes bounded time.
func newCharsmap(blob []byte) (*charsmap, error) {
	if len(blob) == 0 {
		return nil, nil
	}
	if len(blob) < 4 {
		return nil, errors.New("precompiled_charsmap: cut short")
	}
	size := uint64(binary.LittleEndian.Uint32(blob))
	blob = blob[4:]
	switch {
	case size >= uint64(len(blob)):
		return nil, fmt.Errorf("precompiled_charsmap: a trie of %d bytes in %d", size, len(blob))
	case size == 0 || size%1024 != 0 || size > 4*maxUnits:
		return nil, fmt.Errorf("precompiled_charsmap: a trie of %d bytes, want a multiple of 1024 up to %d", size, 4*maxUnits)
	case blob[len(blob)-1] != 0:
		return nil, errors.New("precompiled_charsmap: the last replacement does not end")
	}
	m := &charsmap{make([]uint32, size/4), string(blob[size:])}
	for i := range m.units {
		m.units[i] = binary.LittleEndian.Uint32(blob[4*i:])
	}
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("precompiled_charsmap: %w", err)
	}
	return m, nil
}

// check follows all edges: they stay inside of the array, do not run in circles,
// and end in replacements that are short and valid. Bases may be shared.
func (m *charsmap) check() error {
	const active = -1
	depths := make([]int32, len(m.units)) // of the longest sequence below a base, and one; 0 is not visited
	type visit struct {
		base, label, depth uint32
	}
	enter := func(base uint32) (visit, error) {
		if base|0xff >= uint32(len(m.units)) {
			return visit{}, fmt.Errorf("the trie points to unit %d of %d", base|0xff, len(m.units))
		}
		depths[base] = active
		return visit{base: base}, nil
	}
	v, err := enter(unitOffset(m.units[0]))
	if err != nil {
		return err
	}
	stack := []visit{v}
	for len(stack) > 0 {
		v := &stack[len(stack)-1]
		if v.label > 0xff {
			depth := int32(v.depth) + 1
			if depth > maxRule {
				return fmt.Errorf("a rule for more than %d bytes", maxRule)
			}
			depths[v.base] = depth
			if stack = stack[:len(stack)-1]; len(stack) > 0 {
				up := &stack[len(stack)-1]
				up.depth = max(up.depth, uint32(depth))
			}
			continue
		}
		at := v.base ^ v.label
		label := v.label
		v.label++
		u := m.units[at]
		if unitLabel(u) != label {
			continue
		}
		base := at ^ unitOffset(u)
		if base < uint32(len(m.units)) {
			if depths[base] == active {
				return fmt.Errorf("the trie has a circle at unit %d", at)
			}
			if depths[base] > 0 {
				v.depth = max(v.depth, uint32(depths[base]))
			}
		}
		if len(stack) > maxRule {
			return fmt.Errorf("a rule for more than %d bytes", maxRule)
		}
		next := visit{}
		if base >= uint32(len(m.units)) || depths[base] == 0 {
			if next, err = enter(base); err != nil {
				return err
			}
			stack = append(stack, next)
		}
		if u>>8&1 == 0 {
			continue
		}
		value := m.units[base]
		if value>>31 == 0 || value&(1<<31-1) >= uint32(len(m.texts)) {
			return fmt.Errorf("unit %d has no replacement: %#x", base, value)
		}
		if text := m.text(value); len(text) > maxReplacement || !utf8.ValidString(text) {
			return fmt.Errorf("the replacement %.40q of %d bytes, want valid UTF-8 of at most %d bytes", text, len(text), maxReplacement)
		}
	}
	return nil
}

// text returns the replacement of a value. It looks at no more bytes than are
// allowed, and one.
func (m *charsmap) text(value uint32) string {
	text := m.texts[value&(1<<31-1):]
	text = text[:min(len(text), maxReplacement+1)]
	if end := strings.IndexByte(text, 0); end >= 0 {
		text = text[:end]
	}
	return text
}

// find returns the length of the longest rule for what text starts with, and the
// replacement; 0 where there is none.
func (m *charsmap) find(text []byte) (n int, replacement string) {
	var value uint32
	rules := 0
	base := unitOffset(m.units[0])
	for i, c := range text {
		at := base ^ uint32(c)
		u := m.units[at]
		if unitLabel(u) != uint32(c) {
			break
		}
		base = at ^ unitOffset(u)
		if u>>8&1 != 0 {
			n, value = i+1, m.units[base]
			if rules++; rules == maxRules {
				break
			}
		}
	}
	if n == 0 {
		return 0, ""
	}
	return n, m.text(value)
}
