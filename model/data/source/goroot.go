package source

import (
	"context"
	"crypto/sha256"
	"fmt"
	"go/build"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

var generatedCode = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

// GoRoot is the Go source of this machine's toolchain: the packages of the standard
// library, without tests, commands, vendored, generated or duplicate files. The
// split of a file is decided by its path.
type GoRoot struct{}

// GoRootName is its name.
const GoRootName = "goroot"

// Name implements Source.
func (GoRoot) Name() string { return GoRootName }

type goFile struct{ name, path string }

func (GoRoot) list(ctx context.Context) (all []goFile, inv Inventory, err error) {
	src := filepath.Join(build.Default.GOROOT, "src")
	print := newFingerprint()
	err = filepath.WalkDir(src, func(path string, e fs.DirEntry, err error) error {
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
		info, err := e.Info()
		if err != nil {
			return err
		}
		inv.Bytes += info.Size()
		print.add(rel, info)
		all = append(all, goFile{path, filepath.ToSlash(rel)})
		return nil
	})
	if err != nil {
		return nil, inv, fmt.Errorf("the Go source of this machine: %w", err)
	}
	// Some distributions of Go leave the source out.
	if len(all) < 100 {
		return nil, inv, fmt.Errorf("%s has %d Go files: this Go installation has no source; install the one of go.dev, or give another corpus with --text", src, len(all))
	}
	inv.Files, inv.Fingerprint = FewFiles, print.sum()
	return all, inv, nil
}

// Scan implements Source.
func (g GoRoot) Scan(ctx context.Context) (Inventory, error) {
	_, inv, err := g.list(ctx)
	return inv, err
}

// Open implements Source.
func (g GoRoot) Open(ctx context.Context, from Position, _ bool) (Reader, error) {
	all, _, err := g.list(ctx)
	if err != nil {
		return nil, err
	}
	r := &goReader{ctx: ctx, files: all, seen: map[[32]byte]bool{}}
	// Which files are duplicates is known from those before.
	for r.at.File < from.File {
		if _, err := r.file(); err != nil {
			return nil, err
		}
	}
	if from.Inner > 0 {
		if err := r.fill(); err != nil {
			return nil, err
		}
		r.rest = pieces{r.rest.rest[min(from.Inner, int64(len(r.rest.rest))):], from.Inner}
		r.at.Inner = from.Inner
	}
	return r, nil
}

type goReader struct {
	ctx   context.Context
	files []goFile
	seen  map[[32]byte]bool
	at    Position
	key   uint64
	rest  pieces
	busy  bool // with rest
	read  int64
}

// file reads the next file; it is nil where that is left out.
func (r *goReader) file() ([]byte, error) {
	if err := r.ctx.Err(); err != nil {
		return nil, err
	}
	if r.at.File >= int64(len(r.files)) {
		return nil, io.EOF
	}
	f := r.files[r.at.File]
	text, err := os.ReadFile(f.name)
	if err != nil {
		return nil, fmt.Errorf("the Go source of this machine: %w", err)
	}
	r.at = Position{File: r.at.File + 1}
	r.read += int64(len(text))
	sum := sha256.Sum256(text)
	if r.seen[sum] || generatedCode.Match(text) {
		return nil, nil
	}
	r.seen[sum] = true
	r.key = Key([]byte(f.path))
	return text, nil
}

func (r *goReader) fill() error {
	for !r.busy {
		text, err := r.file()
		if err != nil {
			return err
		}
		if len(text) > 0 {
			r.rest, r.busy = pieces{rest: text}, true
			r.at.File-- // not behind it yet
		}
	}
	return nil
}

func (r *goReader) Next() (Piece, error) {
	if err := r.fill(); err != nil {
		return Piece{}, err
	}
	p := r.rest.next()
	p.Key, p.Keyed = r.key, true
	r.at.Inner = r.rest.inner
	if p.Last {
		r.busy = false
		r.at = Position{File: r.at.File + 1}
	}
	return p, nil
}

func (r *goReader) Position() Position { return r.at }
func (r *goReader) Read() int64        { return r.read }
func (r *goReader) Close() error       { return nil }
