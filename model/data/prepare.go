package data

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/data/source"
	"github.com/structuredffn/sffn/model/token"
)

// Preparation turns the documents of sources into a data folder. The folder has
// the same bytes for any number of threads, and however often the preparation was
// interrupted.
type Preparation struct {
	Sources   []source.Source
	Tokenizer token.Tokenizer
	// Ordinary takes no text for a special token.
	Ordinary bool
	// Threads encode; all processors do where it is 0.
	Threads int
	// MaxTokens ends the input with the document that reaches it; 0 is no limit.
	MaxTokens int64
	// Mix has the shares of the sources' texts, by name. Without it one source comes after the other,
	// with it the mixture ends with the first source that does. Where there is
	// MaxTokens too, sources begin again at their end.
	Mix map[string]float64
	// Progress is called now and then, by one goroutine at a time.
	Progress func(Progress)
	// Note is told what else there is to say.
	Note func(string)

	// Tests have smaller ones.
	shardTokens int64
	saveEvery   time.Duration
	holdText    int
}

// Progress is how far a preparation is.
type Progress struct {
	Documents, Tokens, TextBytes int64
	// Read of Total bytes of the sources' files are behind it. Total is 0 where nobody
	// knows how many there will be.
	Read, Total int64
}

// Result is what a preparation has made.
type Result struct {
	Train      Totals         `json:"train"`
	Validation Totals         `json:"val"`
	Sources    []SourceResult `json:"sources"`
	// Ended says that the context ended a stream, and with it the input.
	Ended bool `json:"ended,omitempty"`
}

// SourceResult is what was taken from a source.
type SourceResult struct {
	Name      string `json:"name"`
	Documents int64  `json:"documents"`
	TextBytes int64  `json:"text_bytes"`
	// Passes is how often it has begun again.
	Passes int64 `json:"passes,omitempty"`
}

// validationShare is 1 of this many documents.
const validationShare = 20

// saveEvery is the time between journals.
const saveEvery = 10 * time.Second

// Run prepares dir. Data that is there stays until what replaces it is whole; nothing else
// in it is touched.
//
// Documents whose hash is 0 modulo 20 are held out: that of their text, or of their
// path in the Go source. Where that holds out nothing, or everything, the document with
// the smallest hash changes sides, of the first 16 MiB; where one of them has half of the
// text or more, its end is held out.
//
// What is interrupted, by ctx or by the end of the process, leaves nothing that Open takes
// for whole; another Run with the same options and sources goes on from there. A stream
// cannot be read again: with one among the sources ctx ends the input, and what
// came until then is the corpus.
func (p *Preparation) Run(ctx context.Context, dir string) (res *Result, err error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	r := &run{Preparation: *p, dir: dir}
	r.defaults()
	if err := r.scan(ctx); err != nil {
		return nil, err
	}
	_, none := os.Lstat(dir)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil && none != nil {
			os.Remove(dir) // where nothing is in it
		}
	}()
	lock, err := disk.Hold(dir)
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return nil, err
	}
	defer lock.Release()
	defer r.close()
	if err := r.begin(); err != nil {
		return nil, err
	}
	if res, err = r.run(ctx); err != nil && r.stream { // nobody can go on with it
		for _, w := range r.splits {
			w.discard()
		}
	}
	return res, err
}

// Unfinished tells whether a folder has a preparation that was interrupted and goes
// on when it is run again.
func Unfinished(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, journalFile))
	return err == nil
}

// run is a preparation at work.
type run struct {
	Preparation
	dir     string
	have    []source.Inventory
	stream  bool
	total   int64
	print   string // of options and sources
	lengths []int32

	mix    *mixer
	splits map[string]*splitWriter
	result []SourceResult
	hold   *hold  // nil once both splits have a document
	side   string // of the document at work
	inside bool   // a document
	source int    // of the document at work
	at     mixState
	saved  time.Time
	old    []string // files that the new ones replace
}

func (r *run) defaults() {
	if r.Threads == 0 {
		r.Threads = runtime.GOMAXPROCS(0)
	}
	if r.shardTokens == 0 {
		r.shardTokens = maxShardTokens
	}
	if r.saveEvery == 0 {
		r.saveEvery = saveEvery
	}
	if r.holdText == 0 {
		r.holdText = holdText
	}
	if r.Progress == nil {
		r.Progress = func(Progress) {}
	}
	if r.Note == nil {
		r.Note = func(string) {}
	}
}

// Check is an error where the options do not go together.
func (p *Preparation) Check() error {
	switch {
	case len(p.Sources) == 0:
		return errors.New("no sources to prepare")
	case p.Threads < 0:
		return fmt.Errorf("%d threads, want 1 or more", p.Threads)
	case p.MaxTokens < 0:
		return fmt.Errorf("%d tokens at most, want 1 or more, or 0 for no limit", p.MaxTokens)
	}
	return p.checkMix()
}

// checkMix holds the mixture against the sources.
func (p *Preparation) checkMix() error {
	if p.Mix == nil {
		return nil
	}
	names := map[string]bool{}
	var all []string
	for _, s := range p.Sources {
		if names[s.Name()] {
			return fmt.Errorf("two sources have the name %q", s.Name())
		}
		names[s.Name()] = true
		all = append(all, s.Name())
		if share, ok := p.Mix[s.Name()]; !ok {
			return fmt.Errorf("the mixture has no share of %s; it has to name each of %s", s.Name(), strings.Join(all, ", "))
		} else if !(share > 0 && share <= 1e9) {
			return fmt.Errorf("the mixture's share of %s is %v, want more than 0", s.Name(), share)
		}
	}
	for name := range p.Mix {
		if !names[name] {
			return fmt.Errorf("the mixture has a share of %q, which is none of %s", name, strings.Join(all, ", "))
		}
	}
	return nil
}

// scan looks at the sources.
func (r *run) scan(ctx context.Context) error {
	files := 0
	hash := r.Tokenizer.Hash()
	print := sha256.New()
	fmt.Fprintf(print, "%d %x %v %d %v %d\n", version, hash, r.Ordinary, r.MaxTokens, r.Mix, r.shardTokens)
	for _, s := range r.Sources {
		inv, err := s.Scan(ctx)
		if err != nil {
			return err
		}
		r.have = append(r.have, inv)
		r.stream = r.stream || inv.Stream
		r.total += inv.Bytes
		files += inv.Files
		fmt.Fprintf(print, "%q %s\n", s.Name(), inv.Fingerprint)
	}
	if err := checkField(r.have); err != nil {
		return err
	}
	if r.stream {
		r.total = 0
	}
	r.print = hex.EncodeToString(print.Sum(nil)[:16])
	r.lengths = lengthsOf(r.Tokenizer)
	r.mix = &mixer{sources: r.Sources, have: r.have, repeat: r.MaxTokens > 0, cut: files < source.FewFiles,
		open: make([]source.Reader, len(r.Sources))}
	for _, s := range r.Sources {
		if r.Mix != nil {
			r.mix.shares = append(r.mix.shares, r.Mix[s.Name()])
		}
		r.result = append(r.result, SourceResult{Name: s.Name()})
	}
	return nil
}

// checkField is an error where a field was named, and there is nothing that has any.
func checkField(all []source.Inventory) error {
	field := ""
	for _, inv := range all {
		if inv.Fields {
			return nil
		}
		field = max(field, inv.Field)
	}
	if field == "" {
		return nil
	}
	return fmt.Errorf("a field %q was named, and no file has fields: name the format where one is JSON lines or Parquet", field)
}

// begin goes on with what is unfinished in the folder, or clears it.
func (r *run) begin() error {
	unfinished, err := r.folder()
	if err != nil {
		return err
	}
	r.reset()
	if r.stream {
		return remove(unfinished)
	}
	var j journal
	ok, err := readJSON(filepath.Join(r.dir, journalFile), journalKind, &j)
	if len(unfinished) == 1 && len(r.old) > 0 && r.old[0] == filepath.Join(r.dir, indexFile) {
		ok = false // a whole preparation had no time to remove it
	}
	switch {
	case err != nil:
		r.Note(fmt.Sprintf("%v; preparing %s from the beginning", err, r.dir))
	case !ok:
	case j.Version != version || j.Fingerprint != r.print:
		r.Note(fmt.Sprintf("%s holds an unfinished preparation of other sources, or with other options; preparing it from the beginning", r.dir))
	default:
		if err := r.resume(&j); err == nil {
			r.Note(fmt.Sprintf("going on with %s after %d documents", r.dir, r.documents()))
			return nil
		} else {
			r.close()
			r.reset()
			r.Note(fmt.Sprintf("%v; preparing %s from the beginning", err, r.dir))
			if unfinished, err = r.folder(); err != nil {
				return err
			}
		}
	}
	return remove(unfinished)
}

// reset makes ready for the first document.
func (r *run) reset() {
	r.splits = map[string]*splitWriter{}
	for _, name := range []string{Train, Validation} {
		r.splits[name] = &splitWriter{dir: r.dir, name: name, limit: r.shardTokens,
			header: header{width: widthOf(r.Tokenizer.Vocab()), vocab: r.Tokenizer.Vocab(), hash: r.Tokenizer.Hash()}}
	}
	r.hold = &hold{limit: r.holdText}
	r.mix.mixState = mixState{Places: make([]place, len(r.Sources))}
	for i, s := range r.Sources {
		r.result[i] = SourceResult{Name: s.Name()}
	}
}

// folder lists what earlier preparations left, unfinished and whole. Nothing is removed
// where a file has the name of one of them and is none.
func (r *run) folder() (unfinished []string, err error) {
	var files []string
	entries, err := os.ReadDir(r.dir)
	if err != nil {
		return nil, err
	}
	file, content := r.Tokenizer.File()
	var x index
	for _, kind := range []struct {
		file, kind string
		to         any
	}{{indexFile, indexKind, &x}, {checkedFile, checkedKind, &checked{}}, {journalFile, journalKind, &journal{}}} {
		name := filepath.Join(r.dir, kind.file)
		info, err := os.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() || !begins(name, `{`) || !says(name, kind.kind) {
			return nil, foreign(name, "file of sffn prepare")
		}
		readJSON(name, kind.kind, kind.to) // a damaged one is replaced
		if kind.file == journalFile {
			unfinished = append(unfinished, name)
		} else {
			files = append(files, name)
		}
	}
	for _, e := range entries {
		name := filepath.Join(r.dir, e.Name())
		switch whole, isUnfinished := strings.CutPrefix(e.Name(), disk.UnfinishedPrefix); {
		case !shardNames.MatchString(whole):
			continue
		case !e.Type().IsRegular() || !isUnfinished && !begins(name, magic):
			return nil, foreign(name, "data shard")
		case isUnfinished:
			unfinished = append(unfinished, name)
		default:
			files = append(files, name)
		}
	}
	if file != "" && file != x.Tokenizer.File {
		name := filepath.Join(r.dir, file)
		if b, err := os.ReadFile(name); err == nil && string(b) != string(content) && len(files)+len(unfinished) == 0 {
			return nil, foreign(name, "file of this data")
		}
	}
	if old := x.Tokenizer.File; old != "" && old == filepath.Base(old) && old != file {
		files = append(files, filepath.Join(r.dir, old))
	}
	r.old = files
	return unfinished, nil
}

func foreign(name, what string) error {
	return fmt.Errorf("%s: no %s, though it has the name of one, which sffn prepare would replace; move it, or choose another folder", name, what)
}

// begins tells whether a file begins with a text; an empty one might have.
func begins(name, text string) bool {
	f, err := disk.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, len(text))
	n, err := io.ReadFull(f, b)
	return n == 0 && err == io.EOF || string(b[:n]) == text
}

// says tells whether a file of JSON is of a kind, which is its first field.
func says(name, kind string) bool {
	f, err := disk.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	b := make([]byte, 100)
	n, _ := io.ReadFull(f, b)
	return n == 0 || strings.Contains(string(b[:n]), `"`+kind+`"`)
}

// remove removes files, some of which may be gone.
func remove(files []string) error {
	for _, name := range files {
		if err := disk.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (r *run) close() {
	r.mix.close()
	clear(r.mix.open)
	for _, w := range r.splits {
		w.close()
	}
}

func (r *run) documents() int64 {
	return r.splits[Train].total.Documents + r.splits[Validation].total.Documents
}

func (r *run) tokens() int64 {
	if r.hold != nil {
		return r.hold.tokens
	}
	return r.splits[Train].total.Tokens + r.splits[Validation].total.Tokens
}

func (r *run) text() int64 {
	return r.splits[Train].total.TextBytes + r.splits[Validation].total.TextBytes
}

// run reads, encodes and writes.
func (r *run) run(ctx context.Context) (*Result, error) {
	if err := r.pump(ctx); err != nil {
		return nil, err
	}
	if err := r.settle(true); err != nil {
		return nil, errors.Join(ctx.Err(), err)
	}
	if min(r.splits[Train].total.TextBytes, r.splits[Validation].total.TextBytes) == 0 {
		return nil, tooFew(int(r.text()), int(r.documents()))
	}
	if err := r.finish(); err != nil {
		return nil, err
	}
	return &Result{Train: r.splits[Train].total, Validation: r.splits[Validation].total, Sources: r.result, Ended: r.stream && ctx.Err() != nil}, nil
}

// finish makes the folder whole.
func (r *run) finish() error {
	for _, w := range r.splits {
		if err := w.finish(); err != nil {
			return err
		}
	}
	// The index is the first that goes and the last that comes.
	if err := remove(r.old); err != nil {
		return err
	}
	for _, w := range r.splits {
		if err := w.publish(); err != nil {
			return err
		}
	}
	file, content := r.Tokenizer.File()
	if file != "" {
		err := disk.Replace(filepath.Join(r.dir, file), func(w io.Writer) error {
			_, err := w.Write(content)
			return err
		})
		if err != nil {
			return err
		}
	}
	hash := r.Tokenizer.Hash()
	x := index{Kind: indexKind, Version: version, Sources: r.result, Splits: map[string]span{},
		Tokenizer: tokenizerEntry{r.Tokenizer.Name(), file, hex.EncodeToString(hash[:]), r.Tokenizer.Vocab(), r.Ordinary}}
	for name, w := range r.splits {
		x.Splits[name] = span{w.total, w.done}
	}
	if err := writeJSON(filepath.Join(r.dir, indexFile), x); err != nil {
		return err
	}
	if err := disk.Remove(filepath.Join(r.dir, journalFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
