package specfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/frugal"
)

// manyKeys is a section of so many keys.
func manyKeys(n int) string {
	b := &strings.Builder{}
	b.WriteString("model:\n")
	for i := range n {
		fmt.Fprintf(b, "  k%d: 1\n", i)
	}
	return b.String()
}

// bomb is a text whose aliases stand for 2 to the power of 30 lists.
func bomb() string {
	b := &strings.Builder{}
	b.WriteString("model: &a0 [x]\n")
	for i := range 30 {
		fmt.Fprintf(b, "k%d: &a%d [*a%d, *a%d]\n", i, i+1, i, i)
	}
	return b.String()
}

func deepMap(n int) string {
	b := &strings.Builder{}
	for i := range n {
		b.WriteString(strings.Repeat(" ", i) + "a:\n")
	}
	return b.String()
}

// Texts that would take long are refused before they are parsed, and those that
// are not refused take little.
func TestHostile(t *testing.T) {
	for name, tt := range map[string]struct{ src, want string }{
		"200 KB":          {strings.Repeat("[", 200_000), "h.yaml: too long for a configuration, want at most 65536 bytes"},
		"nested brackets": {"model: " + strings.Repeat("[", 4000), "h.yaml:1:24: nested too deep, want at most 16 levels"},
		"nested braces":   {strings.Repeat("{a: ", 1000), "h.yaml:1:65: nested too deep"},
		"nested lists":    {"model:\n" + strings.Repeat("- ", 4000), "h.yaml:2:33: nested too deep"},
		"nested keys":     {strings.Repeat("? ", 4000), "nested too deep"},
		"aliases":         {bomb(), "h.yaml:1:8: anchors and aliases (&, *) are not taken"},
		"60,000 keys":     {manyKeys(60_000), "too long"},
		"6,000 keys":      {manyKeys(6000), "h.yaml:1366:10: too many keys and values for a configuration: want at most 4096 words and signs"},
		"1,300 keys":      {manyKeys(1300), `unknown field "k`},
		"deep maps":       {deepMap(350), "h.yaml:1:1: unknown field"},
		"tags":            {"model: " + strings.Repeat("!a ", 1300), "h.yaml:"},
		"keys in a line":  {strings.Repeat("a: ", 1300), "h.yaml:"},
		"literal lines":   {"model: |\n" + strings.Repeat(" x\n", 20_000), "h.yaml:"},
		"escapes":         {"model: \"" + strings.Repeat(`\n`, 30_000) + `"`, "h.yaml:"},
		"a long word":     {"model: " + strings.Repeat("a", 65_000), "h.yaml:"},
		"spaces":          {strings.Repeat(" ", 65_000), "the file is empty"},
		"comments":        {strings.Repeat("#\n", 30_000), "h.yaml:"},
	} {
		frugal.Run(t, 128<<20, func() {
			_, err := Parse("h.yaml", []byte(tt.src))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: got %.300v, want it to contain %q", name, err, tt.want)
			}
			if err != nil && len(err.Error()) > 3000 {
				t.Errorf("%s: the error has %d bytes", name, len(err.Error()))
			}
		})
	}
}

// A file is read up to the limit, whatever size it claims.
func TestHugeFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "huge.yaml")
	if err := os.WriteFile(name, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, 10<<30); err != nil {
		t.Fatal(err)
	}
	names := map[string]string{name: "too long"}
	if _, err := os.Stat("/dev/zero"); err == nil {
		names["/dev/zero"] = "is a device, want a file"
	}
	for name, want := range names {
		frugal.Run(t, 1<<20, func() {
			if _, err := Load(name); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %v", name, err)
			}
		})
	}
}

// What the YAML library would read past without a word.
func TestSaidPlainly(t *testing.T) {
	for _, tt := range []struct{ src, want string }{
		{good + "train: {steps: 5.9}", "f.yaml:8:16: steps: 5.9 is no whole number"},
		{good + "train: {seed: 1.5}", "f.yaml:8:15: seed: 1.5 is no whole number"},
		{good + "train: {steps: \"5.9\"}", "steps: \"5.9\" is no whole number"},
		{good + "train: {steps: !!int 5.9}", "f.yaml:8:16: tags (!!int) are not taken"},
		{good + "train: {<<: {steps: 5}}", "f.yaml:8:9: merge keys (<<) are not taken"},
		{strings.Replace(good, "hidden: 64", "hidden: 64.5", 1), "f.yaml:3:11: hidden: 64.5 is no whole number"},
		{strings.Replace(good, "rank: 16", "rank: 1.6e-1", 1), "rank: 1.6e-1 is no whole number"},
		{good + "---\nmodel: {vocab: 1}\n", "f.yaml:8:1: a second document begins; want one"},
		{good + "...\nmodel: {vocab: 1}\n", "f.yaml:9:1: there is more after the document's end"},
		{"\xff\xfem\x00", "the text is UTF-16, want UTF-8"},
	} {
		if _, err := Parse("f.yaml", []byte(tt.src)); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: got %v, want %q", tt.src, err, tt.want)
		}
	}
	for _, src := range []string{"\ufeff" + good, "# a comment\n---\n" + good + "...\n", good + "train: {steps: 1e3, seed: 18446744073709551615, lr: 0.5}"} {
		if _, err := Parse("f.yaml", []byte(src)); err != nil {
			t.Errorf("%q: %v", src, err)
		}
	}
}

// Sequences are as long as the model takes where nothing is said, 256 at most.
func TestSeqDefault(t *testing.T) {
	for positions, want := range map[int]int{64: 64, 256: 256, 1024: 256} {
		c, err := Parse("s", []byte(strings.Replace(good, "layers: 2", fmt.Sprintf("layers: 2\n  max_positions: %d", positions), 1)))
		if err != nil || c.Train.Seq != want {
			t.Errorf("max_positions %d: %v, %v", positions, c, err)
		}
	}
	for _, seq := range []int{0, -1, 65} {
		if _, err := Parse("s", []byte(strings.Replace(good, "layers: 2", "layers: 2\n  max_positions: 64", 1)+fmt.Sprintf("train: {seq: %d}", seq))); err == nil || !strings.Contains(err.Error(), "seq: ") {
			t.Errorf("seq %d: %v", seq, err)
		}
	}
	d := NewDraft()
	d.model.Vocab, d.model.Hidden, d.model.FFN, d.model.Layers, d.model.QHeads, d.model.MaxPositions = 10, 8, 8, 1, 1, 32
	c, err := d.Config("draft")
	if err != nil || c.Train.Seq != 32 || !strings.Contains(string(c.Source), "seq: 32\n") {
		t.Errorf("a draft: %v, %v", c, err)
	}
}
