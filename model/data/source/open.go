package source

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"github.com/klauspost/compress/gzip"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"

	"github.com/structuredffn/sffn/internal/disk"
)

// maxWindow bounds the memory that a zstd file may ask for: that of the strongest
// level of its command, without --long beyond it.
const maxWindow = 128 << 20

var (
	gzipMagic = []byte{0x1f, 0x8b}
	zstdMagic = []byte{0x28, 0xb5, 0x2f, 0xfd}
)

// isStream tells what can be read from its beginning only, and may never end.
func isStream(m fs.FileMode) bool {
	return m&fs.ModeNamedPipe != 0 || m&fs.ModeCharDevice != 0
}

// content is the decompressed content of a file or a stream.
type content struct {
	*bufio.Reader
	file  io.Closer
	zstd  *zstd.Decoder
	bytes *counter // of the file that were read
	pump  *pump    // of a stream
	// compressed names how, or is empty.
	compressed string
}

// openFile opens a file, and looks whether it is compressed. Plain files begin at from.
func openFile(name string, from int64) (*content, error) {
	f, err := disk.Open(name)
	if err != nil {
		return nil, err
	}
	c, err := open(f, f)
	if err == nil && from > 0 {
		if c.compressed == "" {
			if _, err = f.Seek(from, io.SeekStart); err == nil {
				c.bytes.n.Store(from)
				c.Reset(c.bytes)
			}
		} else {
			_, err = io.CopyN(io.Discard, c, from)
		}
	}
	if err != nil {
		c.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// openStream opens a stream, "-" for standard input, which ends with ctx at the latest.
func openStream(ctx context.Context, name string) (*content, error) {
	p := newPump(ctx, name)
	c, err := open(p, p)
	if err != nil && !p.cut.Load() {
		return nil, fmt.Errorf("%s: %w", streamName(name), err)
	}
	c.pump = p
	return c, nil
}

func streamName(name string) string {
	if name == Stdin {
		return "standard input"
	}
	return name
}

// Stdin is the path of standard input.
const Stdin = "-"

func open(r io.Reader, file io.Closer) (*content, error) {
	c := &content{file: file, bytes: &counter{r: r}}
	c.Reader = bufio.NewReaderSize(c.bytes, 256<<10)
	head, err := c.Peek(len(zstdMagic))
	if err != nil && err != io.EOF {
		return c, err
	}
	switch {
	case bytes.HasPrefix(head, gzipMagic):
		c.compressed = "gzip"
		z, err := gzip.NewReader(c.Reader)
		if err != nil {
			return c, err
		}
		c.Reader = bufio.NewReaderSize(z, 256<<10)
	case bytes.Equal(head, zstdMagic) || isSkippable(head):
		c.compressed = "zstd"
		c.zstd, err = zstd.NewReader(c.Reader, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return c, err
		}
		c.Reader = bufio.NewReaderSize(c.zstd, 256<<10)
	}
	return c, nil
}

// isSkippable tells the beginning of a frame of zstd that holds no data; parallel
// compressors begin with one.
func isSkippable(head []byte) bool {
	return len(head) == 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:], []byte{0x2a, 0x4d, 0x18})
}

// cut says that the stream was ended early: what is wrong at its end is no error.
func (c *content) cut() bool { return c.pump != nil && c.pump.cut.Load() }

// binary says what the beginning is if it is no text, and what to do. As git has it, text
// has no zero byte.
func (c *content) binary() (string, error) {
	head, err := c.Peek(8000)
	if err == io.EOF {
		err = nil
	}
	starts := func(magic string) bool { return bytes.HasPrefix(head, []byte(magic)) }
	switch {
	case err != nil:
		return "", err
	case starts("BZh") && len(head) > 10 && string(head[4:10]) == "1AY&SY":
		return "bzip2 data, which is not read: decompress it", nil
	case starts("\xfd7zXZ\x00"):
		return "xz data, which is not read: decompress it", nil
	case starts("PK\x03\x04"):
		return "a zip archive, which is not read: unpack it", nil
	case starts("\xff\xfe"), starts("\xfe\xff"):
		return "UTF-16, by its first bytes: make UTF-8 of it, as iconv does", nil
	case starts("PAR1"):
		return "Parquet, by its first bytes: name the format parquet", nil
	case bytes.IndexByte(head, 0) >= 0:
		return "no text: it has zero bytes", nil
	}
	return "", nil
}

// explain adds the place in the file to an error of its content.
func (c *content) explain(err error) error {
	switch {
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("byte %d: the %s data is cut off", c.bytes.n.Load(), c.compressed)
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		return fmt.Errorf("byte %d: the zstd data asks for a window of more than %d MiB; compress it again without --long", c.bytes.n.Load(), maxWindow>>20)
	case c.compressed != "":
		return fmt.Errorf("byte %d: %w", c.bytes.n.Load(), err)
	}
	return err
}

func (c *content) Close() error {
	if c.zstd != nil {
		c.zstd.Close()
	}
	return c.file.Close()
}

// counter counts bytes.
type counter struct {
	r io.Reader
	n atomic.Int64
}

func (c *counter) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.n.Add(int64(n))
	return n, err
}

// pump reads a stream in a goroutine of its own, as opening and reading may never return.
type pump struct {
	ctx    context.Context
	filled chan []byte
	free   chan []byte
	err    error // of the stream, once filled is closed
	rest   []byte
	whole  []byte      // of which rest is the end
	cut    atomic.Bool // by ctx
	closed chan struct{}
}

func newPump(ctx context.Context, name string) *pump {
	p := &pump{ctx: ctx, filled: make(chan []byte, 2), free: make(chan []byte, 3), closed: make(chan struct{})}
	for range cap(p.free) {
		p.free <- make([]byte, 256<<10)
	}
	go p.run(name)
	return p
}

func (p *pump) run(name string) {
	defer close(p.filled)
	f := os.Stdin
	if name != Stdin {
		if f, p.err = os.Open(name); p.err != nil {
			return
		}
		defer f.Close()
	}
	for {
		select {
		case b := <-p.free:
			n, err := f.Read(b[:cap(b)])
			if n > 0 {
				select {
				case p.filled <- b[:n]:
				case <-p.closed:
					return
				}
			} else {
				p.free <- b
			}
			if err != nil {
				p.err = err
				return
			}
		case <-p.closed:
			return
		}
	}
}

func (p *pump) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		if p.whole != nil {
			p.free <- p.whole
			p.whole = nil
		}
		if p.ctx.Err() != nil {
			p.cut.Store(true)
			return 0, io.EOF
		}
		select {
		case chunk, ok := <-p.filled:
			if !ok {
				return 0, p.err
			}
			p.whole, p.rest = chunk, chunk
		case <-p.ctx.Done():
			p.cut.Store(true)
			return 0, io.EOF
		}
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *pump) Close() error {
	close(p.closed)
	return nil
}

// formatOf is the format that the name of a file says.
func formatOf(name string) Format {
	switch extension(name) {
	case ".jsonl", ".ndjson":
		return JSONL
	case ".parquet":
		return Parquet
	}
	return Text
}

// isJSON tells a name that may be that of JSON lines.
func isJSON(name string) bool { return extension(name) == ".json" }

// extension is that of a name, in small letters and without that of compression.
func extension(name string) string {
	name = strings.ToLower(name)
	ext := filepath.Ext(name)
	switch ext {
	case ".gz", ".gzip", ".zst", ".zstd":
		ext = filepath.Ext(name[:len(name)-len(ext)])
	}
	return ext
}
