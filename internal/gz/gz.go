// Package gz keeps texts of generated code in gzip.
package gz

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
)

// Limit is the largest text: sixty times the longest that is shipped.
const Limit = 64 << 20

// Pack compresses a text, without name and time, so that the same text gives the
// same bytes. Another version of Go may give others.
func Pack(text []byte) []byte {
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		panic(err) // there is such a level
	}
	if _, err := w.Write(text); err != nil {
		panic(err) // buffers take all
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// Unpack returns the text that Pack compressed. One of more than Limit bytes is an
// error that costs no more memory than these.
func Unpack(data []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(r, Limit+1))
	if err != nil {
		return nil, err
	}
	if len(text) > Limit {
		return nil, fmt.Errorf("gzip: more than %d bytes of text", Limit)
	}
	return text, nil
}
