package decode

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/frugal"
)

// Files that ask for much are refused at little cost, whatever size they claim.
func TestHostileFiles(t *testing.T) {
	fill := func(begin, entry, end string, size int) string {
		return begin + strings.Repeat(entry, (size-len(begin)-len(end))/len(entry)) + end
	}
	for _, tt := range []struct{ name, text, want string }{
		{"machines", fill(`{"machines":[`, "{},", "1]}", maxCrossovers), "crossover"},
		{"tables", fill(`{"machines":[{"tables":[`, "{},", "{}]}]}", maxCrossovers), "has 0, 0 and 0 entries"},
		{"keys of crossovers", fill("{", `"a":1,`, `"machines":1}`, maxCrossovers), "remove it to measure again"},
		{"nested crossovers", `{"machines":` + strings.Repeat("[", 100_000), "exceeded max depth"},
	} {
		file := filepath.Join(t.TempDir(), "crossover.json")
		if err := os.WriteFile(file, []byte(tt.text), 0o666); err != nil {
			t.Fatal(err)
		}
		frugal.Run(t, 768<<20, func() {
			if _, err := readCrossovers(file); err == nil || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 1000 {
				t.Errorf("%s: got %.300v, want it to contain %q", tt.name, err, tt.want)
			}
		})
		if err := os.Truncate(file, 10<<30); err != nil {
			t.Fatal(err)
		}
		frugal.Run(t, 64<<20, func() {
			if _, err := readCrossovers(file); err == nil || !strings.Contains(err.Error(), "too long") {
				t.Errorf("%s, of 10 GB: got %.300v", tt.name, err)
			}
		})
	}
}
