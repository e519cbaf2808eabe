package token

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/frugal"
)

func TestParseIDs(t *testing.T) {
	for text, want := range map[string][]int32{
		"[76, 0,256]":     {76, 0, 256},
		" [ 3 ]\n":        {3},
		`{"ids": [1, 2]}`: {1, 2},
		`{"text": ["a", {"b": 1}], "ids": [7], "n": 1}`: {7},
	} {
		if got, err := parseIDs("x", []byte(text), 257, 1, 3); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v %v", text, got, err)
		}
	}
	for text, want := range map[string]string{
		"":                                      `x:1:1: the text ends here, want an array of token ids`,
		"[1, 2":                                 `x:1:6: the text ends here`,
		`{"ids": [1`:                            `x:1:11: the text ends here`,
		"[]":                                    `x:1:2: 0 ids, want 1 to 3`,
		`{"ids": []}`:                           `0 ids, want`,
		"{}":                                    `x:1:2: the object has no ids`,
		"null":                                  `x:1:4: want an array of token ids`,
		"7":                                     `want an array of token ids`,
		`{"ids": 7}`:                            `want an array of token ids`,
		"[1,\n 257]":                            `x:2:2: ids[1] is 257, want an id of the vocabulary, a whole number from 0 to 256`,
		"[-1]":                                  `ids[0] is -1, want`,
		"[1.5]":                                 `ids[0] is 1.5, want`,
		"[1e2]":                                 `ids[0] is 1e2, want`,
		"[1, null]":                             `ids[1] is no number`,
		`["7"]`:                                 `ids[0] is no number`,
		"[[7]]":                                 `ids[0] is no number`,
		"[1, 2, 3, 4]":                          `x:1:11: ids[3] is one too many, want at most 3, the positions there are`,
		"[1] [2]":                               `x:1:6: there is more behind the ids`,
		"[1 2]":                                 `x:1:4: invalid character '2'`,
		`{"ids": [1], "ids": [2]}`:              `ids comes twice`,
		`{"a": 01, "ids": [2]}`:                 `x:1:`,
		"[9" + strings.Repeat("9", 1<<20) + "]": `ids[0] is 99999999999999999999, want`,
	} {
		if ids, err := parseIDs("x", []byte(text), 257, 1, 3); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 400 {
			t.Errorf("%.30s: %v, %v, want an error with %q", text, ids, err, want)
		}
	}
}

// A file is read up to a bound, whatever its size.
func TestReadIDs(t *testing.T) {
	name := filepath.Join(t.TempDir(), "ids.json")
	f, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(1 << 30); err != nil { // a hole
		t.Fatal(err)
	}
	want := fmt.Sprintf("%s: too long for token ids, want at most %d bytes", name, minIDsFile)
	if _, err := ReadIDs(name, 257, 1, 3); err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// Texts that ask for much are refused at little cost.
func TestHostileIDs(t *testing.T) {
	for want, text := range map[string]string{
		"x:1:2: ids[0] is no number": strings.Repeat("[", 100_000),
		"exceeded max depth":         `{"a":` + strings.Repeat("[", 100_000),
		"is one too many":            "[" + strings.Repeat("1,", 1_000_000) + "1]",
		"the object has no ids":      "{" + strings.Repeat(`"a":1,`, 300_000) + `"b":1}`,
		"ids comes twice":            "{" + strings.Repeat(`"ids":[1],`, 300_000) + `"b":1}`,
	} {
		frugal.Run(t, 160<<20, func() {
			if _, err := parseIDs("x", []byte(text), 257, 1, 3); err == nil || !strings.Contains(err.Error(), want) || len(err.Error()) > 1000 {
				t.Errorf("got %.300v, want it to contain %q", err, want)
			}
		})
	}
}

func FuzzParseIDs(f *testing.F) {
	for _, s := range []string{"[1, 2]", `{"ids": [1], "a": null}`, "[", "[1e400]", strings.Repeat("[", 100), `{"a":` + strings.Repeat(`{"a":`, 100), "[" + strings.Repeat("1,", 100) + "1]"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		ids, err := parseIDs("x", text, 257, 1, 3)
		if err == nil && (len(ids) == 0 || len(ids) > 3 || slices.Min(ids) < 0 || slices.Max(ids) > 256) {
			t.Errorf("%v", ids)
		}
	})
}
