package data

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"go/build"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
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
// files.
func GoRoot() ([]Document, error) {
	src := filepath.Join(build.Default.GOROOT, "src")
	var docs []Document
	seen := map[[32]byte]bool{}
	err := filepath.WalkDir(src, func(path string, e fs.DirEntry, err error) error {
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
// cut into pieces of about 32 KiB, at line ends, which count as documents.
func Text(paths []string) ([]Document, error) {
	var docs []Document
	for _, root := range paths {
		info, err := os.Stat(root)
		if err != nil {
			return nil, err
		}
		if !info.IsDir() {
			text, err := os.ReadFile(root)
			if err != nil {
				return nil, err
			}
			docs = append(docs, Document{filepath.Base(root), text})
			continue
		}
		err = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			if err != nil || !e.Type().IsRegular() {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, path)
			if err != nil {
				return err
			}
			if isText(text) {
				docs = append(docs, Document{filepath.ToSlash(filepath.Join(filepath.Base(root), rel)), text})
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
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

// isText looks at the beginning of a file, as git does: text has no zero byte.
func isText(b []byte) bool {
	head := b[:min(len(b), 8000)]
	return bytes.IndexByte(head, 0) < 0
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
