package data

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/structuredffn/sffn/model/data/source"
)

// A preparation is a reader, workers that encode, and a writer, which take batches
// in the order of the reader. What is on its way is bounded in bytes of text, so that
// memory depends neither on the corpus nor on the number of threads.
const (
	// batchText is about the text of a batch.
	batchText = 128 << 10
	// textOnItsWay and textEncoded bound the text between reader and writer, and that
	// which is being encoded at a time: a tokenizer may take 40 bytes for each of it.
	textOnItsWay = 24 << 20
	textEncoded  = 8 << 20
)

// part is a piece of a document in a batch.
type part struct {
	source      int
	pass        int64
	first, last bool
	key         uint64 // of a first one
	keyed       bool
	text, ids   int // where they end
	decoded     int64
}

// batch is some parts, one after the other.
type batch struct {
	text  []byte
	parts []part
	ids   []int32
	// The place behind it.
	state mixState
	read  int64
	left  []string // of the mixture, at the end of the input
	err   error    // why there is no other batch
	// Of encoding; done is closed when it is over.
	failed error
	done   chan struct{}
}

// budget bounds what several goroutines hold.
type budget struct {
	mu   sync.Mutex
	free *sync.Cond
	left int
	quit bool
}

func newBudget(n int) *budget {
	b := &budget{left: n}
	b.free = sync.NewCond(&b.mu)
	return b
}

// take waits for n, or for the end; more than there is at all is had alone.
func (b *budget) take(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.left <= 0 && !b.quit {
		b.free.Wait()
	}
	b.left -= n
	return !b.quit
}

func (b *budget) give(n int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left += n
	b.free.Broadcast()
}

func (b *budget) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.quit = true
	b.free.Broadcast()
}

// pipe is what reader, workers and writer share.
type pipe struct {
	ordered, work, free chan *batch
	text, encoding      *budget
	quit                chan struct{} // closed when the writer is at its end
}

// pump moves the input to the writer, to its end.
func (r *run) pump(ctx context.Context) error {
	// Sources end when the writer does.
	reading, stop := context.WithCancel(ctx)
	r.mix.ctx = reading
	p := &pipe{ordered: make(chan *batch, 2*r.Threads), work: make(chan *batch, 2*r.Threads), free: make(chan *batch, 3*r.Threads+2),
		text: newBudget(textOnItsWay), encoding: newBudget(textEncoded), quit: make(chan struct{})}
	var wg sync.WaitGroup
	wg.Go(func() { r.feed(p) })
	for range r.Threads {
		wg.Go(func() { r.encode(p) })
	}
	err := r.write(ctx, p)
	close(p.quit)
	p.text.end()
	stop()
	wg.Wait()
	return err
}

// feed reads.
func (r *run) feed(p *pipe) {
	defer close(p.work)
	defer close(p.ordered)
	for {
		var b *batch
		select {
		case b = <-p.free:
			b.text, b.parts, b.ids = b.text[:0], b.parts[:0], b.ids[:0]
		default:
			b = &batch{}
		}
		b.done = make(chan struct{})
		for len(b.text) < batchText && b.err == nil {
			var i int
			var piece source.Piece
			if i, piece, b.err = r.mix.next(); b.err != nil {
				break
			}
			b.text = append(b.text, piece.Text...)
			b.parts = append(b.parts, part{source: i, pass: r.mix.Places[i].Pass, first: piece.First, last: piece.Last,
				key: piece.Key, keyed: piece.Keyed, text: len(b.text)})
		}
		b.state, b.read = r.mix.clone(), r.mix.progress()
		if b.err == io.EOF {
			b.left = r.mix.left()
		}
		end := b.err != nil
		if !p.text.take(len(b.text)) {
			return
		}
		select {
		case p.ordered <- b:
		case <-p.quit:
			return
		}
		p.work <- b // has as much room
		if end {
			return
		}
	}
}

// encode encodes batches.
func (r *run) encode(p *pipe) {
	for b := range p.work {
		p.encoding.take(len(b.text))
		b.failed = r.encodeBatch(b)
		p.encoding.give(len(b.text))
		close(b.done)
	}
}

func (r *run) encodeBatch(b *batch) error {
	from := 0
	for i := range b.parts {
		p := &b.parts[i]
		text := b.text[from:p.text]
		from = p.text
		if p.first && !p.keyed {
			p.key = textKey(text)
		}
		start := len(b.ids)
		b.ids = r.encodePiece(b.ids, text, p.first, p.last)
		p.ids = len(b.ids)
		var err error
		if p.decoded, err = r.decoded(b.ids[start:]); err != nil {
			return err
		}
	}
	return nil
}

// encodePiece appends the ids of a document, or a part of one.
func (r *run) encodePiece(ids []int32, text []byte, first, last bool) []int32 {
	before, _ := r.Tokenizer.Frame()
	start := len(ids)
	if first {
		ids = append(ids, before...)
	}
	if first || !r.Tokenizer.Prefixed() {
		ids = r.ids(ids, text)
	} else {
		ids = r.encodeRest(ids, text)
	}
	if last {
		ids = r.endDocument(ids, start)
	}
	return ids
}

func (r *run) ids(ids []int32, text []byte) []int32 {
	if r.Ordinary {
		return r.Tokenizer.EncodeOrdinary(ids, text)
	}
	return r.Tokenizer.Encode(ids, text)
}

// encodeRest encodes what continues a document, before which the tokenizer would put
// a space that is not there. Behind the end of a line, where pieces are cut, it puts
// none: the line's end is encoded too, and left out.
func (r *run) encodeRest(ids []int32, text []byte) []int32 {
	line := r.ids(nil, []byte("\n"))
	all := r.ids(nil, append([]byte("\n"), text...))
	if len(line) > len(all) || !slices.Equal(all[:len(line)], line) {
		return r.ids(ids, text)
	}
	return append(ids, all[len(line):]...)
}

// endDocument appends what follows a document whose ids, or the last of them, begin at a
// place.
func (r *run) endDocument(ids []int32, start int) []int32 {
	_, after := r.Tokenizer.Frame()
	ids = append(ids, after...)
	if end := r.Tokenizer.EndOfDocument(); len(ids) == start || ids[len(ids)-1] != end {
		ids = append(ids, end)
	}
	return ids
}

// decoded is the number of bytes that ids decode to.
func (r *run) decoded(ids []int32) (n int64, err error) {
	for _, id := range ids {
		if uint(id) >= uint(len(r.lengths)) {
			return 0, fmt.Errorf("the tokenizer %s has made the id %d, and has %d ids", r.Tokenizer.Name(), id, len(r.lengths))
		}
		n += int64(r.lengths[id])
	}
	return n, nil
}

// maxKept is the number of ids that a batch keeps room for.
const maxKept = 4 * batchText

// write writes batches until the input is at its end. What is interrupted is saved.
func (r *run) write(ctx context.Context, p *pipe) error {
	r.saved = time.Now()
	for b := range p.ordered {
		<-b.done
		if err := r.writeBatch(b); err != nil || r.full() {
			if err == nil {
				err = r.endInput()
			}
			return err
		}
		r.at = b.state
		r.Progress(Progress{Documents: r.documents(), Tokens: r.tokens(), TextBytes: r.text(), Read: b.read, Total: r.total})
		err := b.err
		if err == nil && !r.stream {
			err = ctx.Err()
		}
		switch {
		case err == io.EOF || r.stream && err != nil && ctx.Err() != nil && errors.Is(err, ctx.Err()):
			for _, line := range b.left {
				r.Note(line)
			}
			return r.endInput()
		case err != nil:
			return errors.Join(err, r.save())
		}
		if time.Since(r.saved) >= r.saveEvery {
			if err := r.save(); err != nil {
				return err
			}
			r.saved = time.Now()
		}
		p.text.give(len(b.text))
		if cap(b.ids) > maxKept {
			b.ids = nil
		}
		if cap(b.text) > 2*batchText {
			b.text = nil
		}
		b.err, b.left = nil, nil
		select {
		case p.free <- b:
		default:
		}
	}
	return errors.New("the input has no end") // it has: see feed
}

// full says that there are as many tokens as there may be, and no document is begun.
func (r *run) full() bool {
	return r.MaxTokens > 0 && !r.inside && r.tokens() >= r.MaxTokens
}

func (r *run) writeBatch(b *batch) error {
	if b.failed != nil {
		return b.failed
	}
	text, ids := 0, 0
	for _, p := range b.parts {
		if err := r.writePart(b.text[text:p.text], b.ids[ids:p.ids], p); err != nil {
			return err
		}
		if r.full() {
			return nil
		}
		text, ids = p.text, p.ids
	}
	return nil
}

func (r *run) writePart(text []byte, ids []int32, p part) error {
	s := &r.result[p.source]
	s.TextBytes += int64(len(text))
	s.Passes = p.pass
	if p.last {
		s.Documents++
	}
	if p.first && r.hold == nil {
		r.side = side(p.key)
	}
	r.inside, r.source = !p.last, p.source
	if r.hold != nil {
		r.hold.add(text, ids, p)
		return r.settle(false)
	}
	return r.splits[r.side].add(ids, int64(len(text)), p.decoded, p.last)
}

// endInput ends the document that the end of the input has cut off.
func (r *run) endInput() error {
	if !r.inside {
		return nil
	}
	r.inside = false
	return r.writePart(nil, r.endDocument(nil, 0), part{source: r.source, pass: r.result[r.source].Passes, last: true})
}

// textKey is the hash of a text that decides about its split. The low bits of the
// one that it starts from are sums of those of the text, the same for many texts of a kind.
func textKey(text []byte) uint64 { return mix(source.Key(text)) }

// side is the split of a document with a hash.
func side(key uint64) string {
	if key%validationShare == 0 {
		return Validation
	}
	return Train
}

// journal is what a preparation needs to go on after the process has ended.
type journal struct {
	Kind        string                `json:"kind"`
	Version     int                   `json:"version"`
	Fingerprint string                `json:"fingerprint"`
	State       mixState              `json:"state"`
	Side        string                `json:"side"`
	Inside      bool                  `json:"inside,omitempty"`
	Sources     []SourceResult        `json:"sources"`
	Splits      map[string]splitState `json:"splits"`
}

// save makes what was written last, so that another process can go on. While documents
// are held there is nothing to save, and streams cannot be read again.
func (r *run) save() error {
	if r.hold != nil || r.stream {
		return nil
	}
	j := journal{Kind: journalKind, Version: version, Fingerprint: r.print, State: r.at, Side: r.side, Inside: r.inside,
		Sources: r.result, Splits: map[string]splitState{}}
	for _, name := range []string{Train, Validation} {
		var err error
		if j.Splits[name], err = r.splits[name].save(); err != nil {
			return err
		}
	}
	return writeJSON(filepath.Join(r.dir, journalFile), j)
}

// resume goes on where a journal ends.
func (r *run) resume(j *journal) error {
	name := filepath.Join(r.dir, journalFile)
	if len(j.State.Places) != len(r.Sources) || len(j.Sources) != len(r.Sources) || j.State.Now < 0 || j.State.Now > len(r.Sources) || j.Inside && j.State.Now == len(r.Sources) ||
		j.State.Inside != j.Inside || j.Side != Train && j.Side != Validation || len(j.Splits) != 2 {
		return fmt.Errorf("%s: %w", name, errOtherShard)
	}
	for _, at := range j.State.Places {
		if min(at.At.File, at.At.Record, at.At.Offset, at.At.Inner, at.Pass, at.Text) < 0 {
			return fmt.Errorf("%s: a place before the beginning", name)
		}
	}
	for name, w := range r.splits {
		s, ok := j.Splits[name]
		if !ok {
			return fmt.Errorf("%s: no split %s", name, name)
		}
		if err := w.resume(s); err != nil {
			return err
		}
	}
	r.mix.mixState = j.State.clone()
	r.at, r.side, r.inside = j.State, j.Side, j.Inside
	r.result = slices.Clone(j.Sources)
	r.hold = nil
	return nil
}
