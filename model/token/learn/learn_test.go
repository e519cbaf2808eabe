package learn

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/model/token/hf"
)

type golden struct {
	Train, Further []string
	Learned        []struct {
		Pattern string
		Vocab   int
		Merges  [][2]int32
		Ids     [][]int32
	}
}

func readGolden(t *testing.T) (g golden) {
	t.Helper()
	f, err := os.Open("testdata/golden.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(z).Decode(&g); err != nil {
		t.Fatal(err)
	}
	return g
}

func toBytes(texts []string) (out [][]byte) {
	for _, text := range texts {
		out = append(out, []byte(text))
	}
	return out
}

// The merges are those of another trainer, and text has the ids that another
// library gives it with them.
func TestGolden(t *testing.T) {
	g := readGolden(t)
	for i, want := range g.Learned {
		train := toBytes(g.Train)
		if want.Vocab == 30000 {
			train = train[len(train)-5:]
		}
		r, err := Train(context.Background(), each(train), Options{Vocab: want.Vocab, Pattern: want.Pattern})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Model.Merges) != len(want.Merges) {
			t.Errorf("%d: %d merges, want %d", i, len(r.Model.Merges), len(want.Merges))
		}
		for j, m := range r.Model.Merges {
			if m != want.Merges[j] {
				t.Fatalf("%d: merge %d is %v, want %v", i, j, m, want.Merges[j])
			}
		}
		if r.Vocab != 257+len(want.Merges) || (r.Vocab < want.Vocab) != (want.Vocab == 30000) {
			t.Errorf("%d: %d ids of %d", i, r.Vocab, want.Vocab)
		}
		tok, err := hf.Parse("learned", r.Model.JSON())
		if err != nil {
			t.Fatal(err)
		}
		if tok.Vocab() != r.Vocab || tok.EndOfDocument() != int32(r.Vocab-1) {
			t.Errorf("%d: the file has %d ids, the last document ends with %d", i, tok.Vocab(), tok.EndOfDocument())
		}
		for j, text := range g.Further {
			if ids := tok.Encode(nil, []byte(text)); !slices.Equal(ids, want.Ids[j]) {
				t.Errorf("%d: the ids of %.60q are %v, want %v", i, text, ids, want.Ids[j])
			}
		}
	}
}

// words of which rare ones have to be dropped, again and again.
func manyWords(n int) (texts [][]byte) {
	rng := rand.New(rand.NewPCG(8, 1))
	for range n {
		var b bytes.Buffer
		for range 20000 {
			fmt.Fprintf(&b, "w%x ", int(rng.ExpFloat64()*rng.ExpFloat64()*3000))
		}
		texts = append(texts, b.Bytes())
	}
	return texts
}

func TestThreads(t *testing.T) {
	texts := manyWords(40)
	var first *Result
	for _, threads := range []int{1, 3, 8} {
		r, err := Train(context.Background(), each(texts), Options{Vocab: 1500, Threads: threads, Words: 3000})
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = r
		}
		if !reflect.DeepEqual(r, first) {
			t.Errorf("%d threads learn otherwise than one", threads)
		}
	}
	if first.Dropped == 0 || first.Words > 3000 {
		t.Errorf("%d words are left, %d were dropped", first.Words, first.Dropped)
	}
	if want := int64(40 * 20000); first.Documents != 40 || first.Occurrences < want {
		t.Errorf("%d documents with %d words, want 40 with %d", first.Documents, first.Occurrences, want)
	}
	// Most of the text is left, so that the first merges are the same.
	all, err := Train(context.Background(), each(texts), Options{Vocab: 1500})
	if err != nil {
		t.Fatal(err)
	}
	if all.Dropped != 0 || all.Words <= 3000 || fmt.Sprint(all.Model.Merges[:5]) != fmt.Sprint(first.Model.Merges[:5]) {
		t.Errorf("without a bound %d words are left, %d dropped, merges begin %v, with one %v", all.Words, all.Dropped, all.Model.Merges[:5], first.Model.Merges[:5])
	}
}

func TestKeep(t *testing.T) {
	w := newWords()
	for i := range 5000 {
		w.add(fmt.Append(nil, i), int64(1+i%3))
	}
	w.add([]byte("17"), 100)
	if dropped := w.keep(2000, 1<<20); len(w.entries) != 2000 || dropped != droppedBy(5000, 2000) {
		t.Errorf("%d words are kept and %d dropped", len(w.entries), dropped)
	}
	for i := range 5000 {
		w.add(fmt.Append(nil, i), 0)
	}
	for i, e := range w.entries[:2000] {
		if e.count == 0 {
			t.Fatalf("word %d, %q, is not found again", i, w.word(&e))
		}
	}
	if w.keep(1<<20, 10); len(w.text) > 10 || len(w.entries) == 0 || string(w.word(&w.entries[len(w.entries)-1])) != "17" {
		t.Errorf("%d bytes of %d words are kept", len(w.text), len(w.entries))
	}
}

// droppedBy is what is dropped of words that come 1, 2, 3, 1, 2, 3 ... times.
func droppedBy(words, kept int) (n int64) {
	counts := make([]int64, words)
	for i := range counts {
		counts[i] = int64(1 + i%3)
	}
	counts[17] += 100
	slices.Sort(counts)
	for _, c := range counts[:words-kept] {
		n += c
	}
	return n
}

// A word may be as long as the text.
func TestLongWords(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	for _, text := range [][]byte{
		bytes.Repeat([]byte("a"), 1<<20),
		bytes.Repeat([]byte("é"), 1<<19),
		func() []byte {
			b := make([]byte, 1<<20)
			for i := range b {
				b[i] = 'a' + byte(rng.IntN(26))
			}
			return b
		}(),
	} {
		r, err := Train(context.Background(), each([][]byte{text}), Options{Vocab: 2000})
		if err != nil {
			t.Fatal(err)
		}
		tokens, err := r.Model.Tokens()
		if err != nil {
			t.Fatal(err)
		}
		for _, token := range tokens {
			if len(token) > maxToken {
				t.Errorf("a token has %d bytes", len(token))
			}
		}
	}
}

func TestOptions(t *testing.T) {
	texts := [][]byte{[]byte("some text and some more text")}
	for want, opt := range map[string]Options{
		"vocabulary of 256 ids, want 257":        {Vocab: 256},
		"vocabulary of 2000000 ids":              {Vocab: 2000000},
		`unknown pattern "gpt9"`:                 {Vocab: 300, Pattern: "gpt9"},
		"look-ahead or look-behind":              {Vocab: 300, Pattern: `a+(?=bc)`},
		`special token "<|a|>" is there twice`:   {Vocab: 300, Special: []string{"<|a|>", "<|a|>"}},
		`special token "" is too short`:          {Vocab: 300, Special: []string{""}},
		"-1 distinct words":                      {Vocab: 300, Words: -1},
		"vocabulary of 259 ids, want 261 (the b": {Vocab: 259, Special: []string{"<1>", "<2>", "<3>", "<4>"}},
	} {
		if _, err := Train(context.Background(), each(texts), opt); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %q", opt, err, want)
		}
	}
	for _, none := range [][][]byte{nil, {nil, {}}} {
		if _, err := Train(context.Background(), each(none), Options{Vocab: 300}); err == nil || !strings.Contains(err.Error(), "no text") {
			t.Errorf("no text: %v", err)
		}
	}
	r, err := Train(context.Background(), each(texts), Options{Vocab: 300, Special: []string{"<s>", "</s>"}})
	if err != nil {
		t.Fatal(err)
	}
	if r.Vocab >= 300 || r.Vocab != 258+len(r.Model.Merges) || !slices.Equal(r.Model.Special, []string{"<s>", "</s>"}) {
		t.Errorf("%d ids, %d merges, special %q", r.Vocab, len(r.Model.Merges), r.Model.Special)
	}
}

// No merge spells a special token, which would be in the vocabulary twice.
func TestSpecialInText(t *testing.T) {
	text := strings.Repeat("=end= ", 50)
	r, err := Train(context.Background(), each([][]byte{[]byte(text)}), Options{Vocab: 400, Pattern: `\S+|\s`, Special: []string{"=end=", EndOfDocument}})
	if err != nil {
		t.Fatal(err)
	}
	tokens, err := r.Model.Tokens()
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(tokens, func(token []byte) bool { return string(token) == "=end=" }) {
		t.Error("a merge spells the special token")
	}
	if _, err := hf.Parse("learned", r.Model.JSON()); err != nil {
		t.Error(err)
	}
}

func TestEnds(t *testing.T) {
	broken := errors.New("broken")
	_, err := Train(context.Background(), func(yield func([]byte, error) bool) {
		for range 10 {
			if !yield([]byte("text"), nil) {
				return
			}
		}
		yield(nil, broken)
	}, Options{Vocab: 300})
	if !errors.Is(err, broken) {
		t.Errorf("an error of the text gives %v", err)
	}
	for _, when := range []string{"counting", "merging"} {
		ctx, cancel := context.WithCancel(context.Background())
		_, err = Train(ctx, func(yield func([]byte, error) bool) {
			texts := manyWords(1)
			for i := 0; i < 20 || when == "counting"; i++ { // or for ever
				if !yield(texts[0], nil) {
					return
				}
			}
		}, Options{Vocab: 3000, Progress: func(p Progress) {
			if when == "counting" && p.Documents > 10 || when == "merging" && p.Ids > 300 {
				cancel()
			}
		}})
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled while %s: %v", when, err)
		}
	}
}
