package train

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/frugal"
)

// Metrics that ask for much are read at little cost, and give the lines before
// them.
func TestHostileMetrics(t *testing.T) {
	const first = `{"step":1,"loss":2.5}` + "\n"
	for name, rest := range map[string]string{
		"nested":         `{"step":2,"grad_norms":` + strings.Repeat(`{"a":`, 100_000) + "\n",
		"lists":          strings.Repeat("[", 100_000) + "\n",
		"a million keys": "{" + strings.Repeat(`"a":1,`, 1_000_000) + `"step":2}` + "\n",
		"a long line":    strings.Repeat("a", 10<<20),
		"empty lines":    strings.Repeat("\n", 1<<20),
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, MetricsFile), []byte(first+rest), 0o666); err != nil {
			t.Fatal(err)
		}
		frugal.Run(t, 256<<20, func() {
			lines, _, err := ReadMetrics(dir, 10)
			if err != nil || len(lines) == 0 || len(lines) > 2 || lines[0].Step != 1 {
				t.Errorf("%s: %d lines, %v", name, len(lines), err)
			}
		})
	}
	dir := t.TempDir()
	name := filepath.Join(dir, MetricsFile)
	if err := os.WriteFile(name, []byte(first), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, 10<<30); err != nil {
		t.Fatal(err)
	}
	frugal.Run(t, 256<<20, func() {
		if lines, _, err := ReadMetrics(dir, 10); err == nil && len(lines) != 1 {
			t.Errorf("10 GB of zeros: %d lines", len(lines))
		}
	})
}
