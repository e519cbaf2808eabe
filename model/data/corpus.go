package data

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"go/build"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/internal/ram"
)

// Document is one text of a corpus.
type Document struct {
	// Path names it, with slashes, relative to the corpus; it decides whether
	// the document is for training or for validation.
	Path string
	Text []byte
}

// validationShare is 1 of this many documents.
const validationShare = 20

// Validation tells whether the document is held out: whether the hash of its
// path is 0 modulo 20.
func (d Document) Validation() bool {
	h := fnv.New64a()
	h.Write([]byte(d.Path))
	return h.Sum64()%validationShare == 0
}

var generatedCode = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

// GoRoot reads the Go source of this machine's toolchain: the packages of the
// standard library, without tests, commands, vendored, generated or duplicate
// files. It ends early with ctx.
func GoRoot(ctx context.Context) ([]Document, error) {
	src := filepath.Join(build.Default.GOROOT, "src")
	var docs []Document
	seen := map[[32]byte]bool{}
	err := filepath.WalkDir(src, func(path string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, path)
		if err != nil {
			return err
		}
		if e.IsDir() {
			if name := e.Name(); rel == "cmd" || name == "vendor" || name == "testdata" {
				return filepath.SkipDir
			}
			return nil
		}
		if !e.Type().IsRegular() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		sum := sha256.Sum256(text)
		if seen[sum] || generatedCode.Match(text) {
			return nil
		}
		seen[sum] = true
		docs = append(docs, Document{filepath.ToSlash(rel), text})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("the Go source of this machine: %w", err)
	}
	// Some distributions of Go leave the source out.
	if len(docs) < 100 {
		return nil, fmt.Errorf("%s has %d Go files: this Go installation has no source; install the one of go.dev, or give another corpus with --text", src, len(docs))
	}
	return docs, nil
}

// fewFiles is the number of files below which a corpus is cut into pieces, so
// that some of it can be held out.
const (
	fewFiles  = 200
	pieceSize = 32 << 10
)

// Text reads files, and the text files below folders. A corpus of few files is
// cut into pieces of about 32 KiB, at line ends, which count as documents. More
// than the memory has room for, and what is no file and may never end, is
// refused before it is read. It ends early with ctx.
func Text(ctx context.Context, paths []string) ([]Document, error) {
	var files []textFile
	for _, root := range paths {
		found, err := textFiles(ctx, root)
		if err != nil {
			return nil, err
		}
		files = append(files, found...)
	}
	size := int64(0)
	for _, f := range files {
		size += f.size
	}
	if free, ok := ram.Available(); ok && size > free/memoryPerByte {
		return nil, fmt.Errorf("%s: %d bytes of text take about %d times as much memory, of which %d bytes are available; prepare less of it, or on a larger machine",
			strings.Join(paths, ", "), size, memoryPerByte, free)
	}
	var docs []Document
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		text, err := os.ReadFile(f.name)
		if err != nil {
			return nil, err
		}
		docs = append(docs, Document{f.path, text})
	}
	docs = slices.DeleteFunc(docs, func(d Document) bool { return len(d.Text) == 0 })
	if len(docs) == 0 {
		return nil, fmt.Errorf("no text in %s", strings.Join(paths, ", "))
	}
	slices.SortStableFunc(docs, func(a, b Document) int { return strings.Compare(a.Path, b.Path) })
	if len(docs) >= fewFiles {
		return docs, nil
	}
	var pieces []Document
	for _, d := range docs {
		pieces = append(pieces, cut(d)...)
	}
	return pieces, nil
}

// memoryPerByte is what Prepare takes for a byte of text: itself, four of its
// token and as many while the list of tokens grows.
const memoryPerByte = 9

// textFile is a file of a corpus; path is the document's.
type textFile struct {
	name, path string
	size       int64
}

// textFiles lists a file, or the text files below a folder.
func textFiles(ctx context.Context, root string) ([]textFile, error) {
	info, err := os.Stat(root)
	switch {
	case err != nil:
		return nil, err
	case info.Mode().IsRegular():
		return []textFile{{root, filepath.Base(root), info.Size()}}, nil
	case !info.IsDir():
		return nil, fmt.Errorf("%s is %s, want a file or a folder", root, disk.Kind(info.Mode()))
	}
	top, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, err
	}
	var files []textFile
	err = filepath.WalkDir(top, func(name string, e fs.DirEntry, err error) error {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		if ok, err := isText(name); !ok || err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(top, name)
		if err != nil {
			return err
		}
		files = append(files, textFile{name, filepath.ToSlash(filepath.Join(filepath.Base(root), rel)), info.Size()})
		return nil
	})
	return files, err
}

// isText looks at the beginning of a file, as git does: text has no zero byte.
func isText(name string) (bool, error) {
	f, err := os.Open(name)
	if err != nil {
		return false, err
	}
	defer f.Close()
	head, err := io.ReadAll(io.LimitReader(f, 8000))
	return bytes.IndexByte(head, 0) < 0, err
}

func cut(d Document) []Document {
	var pieces []Document
	for rest := d.Text; len(rest) > 0; {
		n := min(len(rest), pieceSize)
		if n < len(rest) {
			if i := bytes.LastIndexByte(rest[:n], '\n'); i > 0 {
				n = i + 1
			} else {
				for n > pieceSize-utf8.UTFMax && !utf8.RuneStart(rest[n]) {
					n--
				}
			}
		}
		pieces = append(pieces, Document{fmt.Sprintf("%s#%d", d.Path, len(pieces)), rest[:n]})
		rest = rest[n:]
	}
	return pieces
}
