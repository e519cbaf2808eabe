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
