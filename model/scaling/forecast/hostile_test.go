package forecast

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
		{"fits", fill(`{"fits":[`, "{},", "{}]}", maxFitFile), "law: missing in one of the fits"},
		{"fits of nothing", fill(`{"fits":[`, "null,", "null]}", maxFitFile), "law: missing in one of the fits"},
		{"points", fill(`{"law":"power","points":[`, "{},", "{}]}", maxFitFile), "coefficients: lam is missing"},
		{"keys of a fit", fill("{", `"a":1,`, `"law":1}`, maxFitFile), "want what sffn scaling fit --json prints"},
		{"coefficients", fill(`{"law":"power","coefficients":{`, `"a":1,`, `"b":1}}`, maxFitFile), "coefficients: "},
		{"nested fits", `{"fits":` + strings.Repeat("[", 100_000), "exceeded max depth"},
	} {
		file := filepath.Join(t.TempDir(), "fit.json")
		if err := os.WriteFile(file, []byte(tt.text), 0o666); err != nil {
			t.Fatal(err)
		}
		frugal.Run(t, 768<<20, func() {
			if _, err := Read(file); err == nil || !strings.Contains(err.Error(), tt.want) || len(err.Error()) > 1000 {
				t.Errorf("%s: got %.300v, want it to contain %q", tt.name, err, tt.want)
			}
		})
		if err := os.Truncate(file, 10<<30); err != nil {
			t.Fatal(err)
		}
		frugal.Run(t, 64<<20, func() {
			if _, err := Read(file); err == nil || !strings.Contains(err.Error(), "too long") {
				t.Errorf("%s, of 10 GB: got %.300v", tt.name, err)
			}
		})
	}
}
