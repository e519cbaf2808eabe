package main

import (
	"encoding/base64"
	"fmt"
	"hash/fnv"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/structuredffn/sffn/model/token/hf"
)

// Of the tokens of GPT-2 come its merges, which is what the other half of a
// published vocabulary is.
func TestMerges(t *testing.T) {
	m := hf.GPT2Model()
	tokens, err := m.Tokens()
	if err != nil {
		t.Fatal(err)
	}
	var ranks strings.Builder
	for i, token := range tokens {
		fmt.Fprintf(&ranks, "%s %d\n", base64.StdEncoding.EncodeToString(token), i)
	}
	read, err := readRanks(strings.NewReader(ranks.String()))
	if err != nil {
		t.Fatal(err)
	}
	pairs, err := merges(read)
	if err != nil || !slices.Equal(pairs, m.Merges) {
		t.Errorf("%d merges, want %d: %v", len(pairs), len(m.Merges), err)
	}
	if _, err := merges(append(tokens[:256:256], []byte("abc"))); err == nil || !strings.Contains(err.Error(), `"abc", is no merge of two`) {
		t.Errorf("%v", err)
	}
	for text, want := range map[string]string{"!": "line 1: illegal base64", "YQ== 1": `line 1: rank "1", want 0`} {
		if _, err := readRanks(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// The hostile texts are more than 20 MB of UTF-8, the same at each run.
func TestTexts(t *testing.T) {
	var sums [2]uint64
	for i := range sums {
		h, size := fnv.New64a(), 0
		if err := texts(func(s string) {
			if !utf8.ValidString(s) {
				t.Fatalf("%.40q is not UTF-8", s)
			}
			h.Write([]byte(s))
			size += len(s)
		}); err != nil {
			t.Fatal(err)
		}
		if sums[i] = h.Sum64(); size < 20<<20 {
			t.Errorf("%d bytes", size)
		}
	}
	if sums[0] != sums[1] {
		t.Error("two runs differ")
	}
}
