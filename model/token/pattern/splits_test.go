package pattern

import (
	"compress/gzip"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

// Expressions of all of the dialect cut texts as the Python package tokenizers
// does.
func TestSplits(t *testing.T) {
	f, err := os.Open("testdata/splits.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	var cases [][2]json.RawMessage
	if err := json.NewDecoder(z).Decode(&cases); err != nil {
		t.Fatal(err)
	}
	compared := 0
	for _, c := range cases {
		var expr string
		var want [][]string
		if err := json.Unmarshal(c[0], &expr); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(c[1], &want); err != nil {
			t.Fatal(err)
		}
		p, err := Compile(expr)
		if err != nil {
			if !strings.Contains(err.Error(), "matches the empty text") {
				t.Error(err)
			}
			continue
		}
		for _, pieces := range want {
			text := strings.Join(pieces, "")
			var got []string
			at := 0
			for start, end := range p.All([]byte(text)) {
				if at < start {
					got = append(got, text[at:start])
				}
				got = append(got, text[start:end])
				at = end
			}
			if at < len(text) {
				got = append(got, text[at:])
			}
			if !slices.Equal(got, pieces) {
				t.Errorf("%s cuts %q, want %q", expr, got, pieces)
			}
			compared++
		}
	}
	if compared < 1000 {
		t.Errorf("only %d texts were compared", compared)
	}
}
