package source

import (
	"encoding/binary"
	"errors"
)

// thrift reads Thrift's compact protocol, in which Parquet's metadata is, from memory: the
// fields that are asked for, skipping all others. What a file claims is not
// believed: nothing is allocated, and every entry of a list takes a byte.
// Its first error stays.
type thrift struct {
	b   []byte
	at  int
	err error
}

// Types of fields.
const (
	thriftTrue   = 1
	thriftFalse  = 2
	thriftByte   = 3
	thriftI16    = 4
	thriftI32    = 5
	thriftI64    = 6
	thriftDouble = 7
	thriftBinary = 8
	thriftList   = 9
	thriftSet    = 10
	thriftMap    = 11
	thriftStruct = 12
	thriftUUID   = 13
)

// maxThriftDepth bounds structures inside structures.
const maxThriftDepth = 32

var (
	errThriftShort = errors.New("the metadata is cut off")
	errThrift      = errors.New("the metadata is damaged")
)

func (t *thrift) fail(err error) {
	if t.err == nil {
		t.err = err
	}
	t.at = len(t.b)
}

func (t *thrift) byte() byte {
	if t.at >= len(t.b) {
		t.fail(errThriftShort)
		return 0
	}
	t.at++
	return t.b[t.at-1]
}

func (t *thrift) uvarint() uint64 {
	v, n := binary.Uvarint(t.b[t.at:])
	if n <= 0 {
		if n == 0 {
			t.fail(errThriftShort)
		}
		t.fail(errThrift)
		return 0
	}
	t.at += n
	return v
}

// int is an integer of any size.
func (t *thrift) int() int64 {
	v := t.uvarint()
	return int64(v>>1) ^ -int64(v&1)
}

func (t *thrift) skipBytes(n uint64) []byte {
	if n > uint64(len(t.b)-t.at) {
		t.fail(errThriftShort)
		return nil
	}
	t.at += int(n)
	return t.b[t.at-int(n) : t.at]
}

func (t *thrift) binary() []byte { return t.skipBytes(t.uvarint()) }

// fields calls visit for each field of a structure, which reads the field's value and
// returns true, or leaves it to be skipped.
func (t *thrift) fields(depth int, visit func(id int64, kind byte) bool) {
	if depth > maxThriftDepth {
		t.fail(errThrift)
	}
	id := int64(0)
	for t.err == nil {
		head := t.byte()
		if head == 0 || t.err != nil {
			return
		}
		if delta := head >> 4; delta > 0 {
			id += int64(delta)
		} else {
			id = t.int()
		}
		if kind := head & 15; !visit(id, kind) {
			t.skip(depth, kind)
		}
	}
}

// list calls visit for each entry of a list.
func (t *thrift) list(visit func(kind byte)) {
	head := t.byte()
	n := uint64(head >> 4)
	if n == 15 {
		n = t.uvarint()
	}
	for i := uint64(0); i < n && t.err == nil; i++ {
		visit(head & 15)
	}
}

func (t *thrift) skip(depth int, kind byte) {
	switch kind {
	case thriftTrue, thriftFalse: // the value is the type
	case thriftByte:
		t.byte()
	case thriftI16, thriftI32, thriftI64:
		t.uvarint()
	case thriftDouble:
		t.skipBytes(8)
	case thriftUUID:
		t.skipBytes(16)
	case thriftBinary:
		t.binary()
	case thriftList, thriftSet:
		t.list(func(kind byte) { t.skipEntry(depth+1, kind) })
	case thriftMap:
		n := t.uvarint()
		if n == 0 {
			return
		}
		kinds := t.byte()
		for i := uint64(0); i < n && t.err == nil; i++ {
			t.skipEntry(depth+1, kinds>>4)
			t.skipEntry(depth+1, kinds&15)
		}
	case thriftStruct:
		t.fields(depth+1, func(int64, byte) bool { return false })
	default:
		t.fail(errThrift)
	}
}

// skipEntry skips an entry of a container, where truth takes a byte.
func (t *thrift) skipEntry(depth int, kind byte) {
	if depth > maxThriftDepth {
		t.fail(errThrift)
		return
	}
	if kind == thriftTrue || kind == thriftFalse {
		t.byte()
		return
	}
	t.skip(depth, kind)
}
