// Package learn makes vocabularies of byte-level byte-pair encoding (BPE) from a
// text. The words of the text are counted on all cores; then the most frequent
// pair of neighbouring symbols becomes a symbol, again and again (Sennrich et
// al., "Neural machine translation of rare words with subword units", 2016).
package learn

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"runtime"
	"slices"
	"strings"
	"sync"

	"github.com/structuredffn/sffn/model/token/hf"
	"github.com/structuredffn/sffn/model/token/pattern"
)

// Patterns are the expressions, by name, that cut text into words.
var Patterns = map[string]string{"gpt2": pattern.GPT2, "llama3": pattern.Llama3}

// EndOfDocument is the special token that ends documents, where none of those does.
const EndOfDocument = "<|endoftext|>"

// Bounds of memory.
const (
	// maxWord is the longest word, in bytes; longer ones are cut.
	maxWord = 1 << 16
	// maxToken is the longest token, in bytes, without which a vocabulary from a
	// text that repeats itself could be gigabytes.
	maxToken = 1 << 10
	// batchSize is the text that is counted at a time, in bytes. It does not
	// depend on the machine, so that words are dropped at the same places.
	batchSize = 1 << 20
	// maxText is the longest text, which is in memory as a whole.
	maxText = 1 << 30
	// DefaultWords and wordBytes bound the distinct words that are counted, and
	// their text.
	DefaultWords = 1 << 20
	wordBytes    = 12 * DefaultWords
	// MaxVocab bounds a vocabulary.
	MaxVocab = 1 << 20
)

// Options say what to learn; only Vocab is needed.
type Options struct {
	// Vocab is the number of ids: of the 256 bytes, of merges, and of special
	// tokens.
	Vocab int
	// Pattern is one of Patterns, or a regular expression; gpt2 where it is empty.
	Pattern string
	// Special are the special tokens; EndOfDocument is added before them where none
	// is one of [hf.EndsOfDocument].
	Special []string
	// Threads is the number of threads, one for each core where it is 0. The
	// result does not depend on it.
	Threads int
	// Words bounds the distinct words; DefaultWords where it is 0. Where there are
	// more, rare ones are dropped, which Result tells.
	Words int
	// Progress, if there is one, is called now and then, by one goroutine at a time.
	Progress func(Progress)
}

// Progress is how far learning is. While text is counted, Ids is 0.
type Progress struct {
	Documents, Bytes int64 // that were read
	Ids, Vocab       int   // that there are, and that there will be
}

// Result is a vocabulary, and what it was learned from.
type Result struct {
	Model            hf.Model
	Vocab            int   // fewer than asked for where the text had no more pairs
	Documents, Bytes int64 // of the text
	Words            int   // distinct ones that were counted
	// Occurrences are those of all words, and Dropped those that were left out
	// because Options.Words bounds the distinct ones.
	Occurrences, Dropped int64
}

// Train learns from texts, each of which may change after the next is taken. The
// same texts in the same order give the same result. It ends early with ctx,
// and with an error of texts.
func Train(ctx context.Context, texts iter.Seq2[[]byte, error], opt Options) (*Result, error) {
	if !slices.ContainsFunc(opt.Special, func(s string) bool { return slices.Contains(hf.EndsOfDocument, s) }) {
		opt.Special = append([]string{EndOfDocument}, opt.Special...)
	}
	expr, named := Patterns[opt.Pattern]
	switch {
	case opt.Pattern == "":
		expr = pattern.GPT2
	case !named && simpleName(opt.Pattern):
		return nil, fmt.Errorf("unknown pattern %q; valid are %s, or a regular expression", opt.Pattern, strings.Join(slices.Sorted(maps.Keys(Patterns)), ", "))
	case !named:
		expr = opt.Pattern
	}
	p, err := pattern.Compile(expr)
	if err != nil {
		return nil, err
	}
	if err := opt.check(); err != nil {
		return nil, err
	}
	if opt.Progress == nil {
		opt.Progress = func(Progress) {}
	}
	c := &counter{opt: opt, pattern: p, all: newWords()}
	if err := c.count(ctx, texts); err != nil {
		return nil, err
	}
	r := &c.result
	if r.Occurrences == 0 {
		return nil, errors.New("there is no text to learn a vocabulary from")
	}
	r.Words = len(c.all.entries)
	m := newMerger(c.all, hf.ByteOrder())
	c.all = nil
	r.Model = hf.Model{Special: slices.Clone(opt.Special)}
	if expr != pattern.GPT2 {
		r.Model.Pattern = expr
	}
	r.Model.Merges, err = m.run(ctx, opt.Vocab-len(opt.Special), opt.Special, func(ids int) {
		opt.Progress(Progress{r.Documents, r.Bytes, ids + len(opt.Special), opt.Vocab})
	})
	if err != nil {
		return nil, err
	}
	r.Vocab = len(m.text) + len(opt.Special)
	return r, nil
}

// simpleName tells whether a pattern is more likely the name of one.
func simpleName(s string) bool {
	return strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

func (opt *Options) check() error {
	for i, s := range opt.Special {
		switch {
		case len(s) < 2:
			return fmt.Errorf("the special token %q is too short, want two bytes or more", s)
		case slices.Contains(opt.Special[:i], s):
			return fmt.Errorf("the special token %q is there twice", s)
		}
	}
	if least := 256 + len(opt.Special); opt.Vocab < least || opt.Vocab > MaxVocab {
		return fmt.Errorf("a vocabulary of %d ids, want %d (the bytes and the special tokens) to %d", opt.Vocab, least, MaxVocab)
	}
	if opt.Words < 0 || opt.Threads < 0 {
		return fmt.Errorf("%d distinct words and %d threads, want positive numbers, or 0 for the default", opt.Words, opt.Threads)
	}
	if opt.Words == 0 {
		opt.Words = DefaultWords
	}
	if opt.Threads == 0 {
		opt.Threads = runtime.GOMAXPROCS(0)
	}
	return nil
}

// counter counts the words of batches of text in parallel, and adds them up in
// the order of the batches.
type counter struct {
	opt     Options
	pattern *pattern.Pattern
	all     *words
	result  Result
}

// batch is some documents, one behind the other.
type batch struct {
	text []byte
	ends []int
	turn <-chan struct{} // closed when the batch before is added up
	done chan struct{}   // closed when this one is
}

func (c *counter) count(ctx context.Context, texts iter.Seq2[[]byte, error]) (err error) {
	batches := make(chan *batch)
	spare := make(chan *batch, c.opt.Threads+1)
	var workers sync.WaitGroup
	for range c.opt.Threads {
		workers.Go(func() {
			local := newWords()
			for b := range batches {
				local.reset()
				c.countBatch(local, b)
				<-b.turn
				c.add(local, b)
				close(b.done)
				select {
				case spare <- b:
				default:
				}
			}
		})
	}
	turn := make(chan struct{})
	close(turn)
	fresh := func() *batch {
		b := &batch{}
		select {
		case old := <-spare:
			if cap(old.text) <= 4*batchSize {
				b.text, b.ends = old.text[:0], old.ends[:0]
			}
		default:
		}
		b.turn, b.done = turn, make(chan struct{})
		turn = b.done
		return b
	}
	b := fresh()
	send := func() {
		batches <- b
		b = fresh()
	}
	for text, textErr := range texts {
		if len(text) > maxText {
			textErr = cmp.Or(textErr, fmt.Errorf("a text of %d bytes, want at most %d", len(text), maxText))
		}
		if err = cmp.Or(textErr, ctx.Err()); err != nil {
			break
		}
		b.text = append(b.text, text...)
		b.ends = append(b.ends, len(b.text))
		if len(b.text) >= batchSize || len(b.ends) >= batchSize/16 {
			send()
		}
	}
	if err == nil && len(b.ends) > 0 {
		send()
	}
	close(batches)
	workers.Wait()
	return err
}

func (c *counter) countBatch(local *words, b *batch) {
	start := 0
	for _, end := range b.ends {
		c.countText(local, b.text[start:end])
		start = end
	}
}

// countText counts the words of one text. What is between matches is words too.
func (c *counter) countText(local *words, text []byte) {
	at := 0
	add := func(word []byte) {
		for len(word) > 0 {
			w := cut(word)
			local.add(w, 1)
			word = word[len(w):]
		}
	}
	for start, end := range c.pattern.All(text) {
		add(text[at:start])
		add(text[start:end])
		at = end
	}
	add(text[at:])
}

// add adds up the counts of a batch.
func (c *counter) add(local *words, b *batch) {
	for i := range local.entries {
		e := &local.entries[i]
		c.all.add(local.word(e), e.count)
		c.result.Occurrences += e.count
	}
	c.result.Documents += int64(len(b.ends))
	c.result.Bytes += int64(len(b.text))
	if len(c.all.entries) > c.opt.Words || len(c.all.text) > wordBytes {
		c.result.Dropped += c.all.keep(c.opt.Words/2, wordBytes/2)
	}
	c.opt.Progress(Progress{Documents: c.result.Documents, Bytes: c.result.Bytes, Vocab: c.opt.Vocab})
}
