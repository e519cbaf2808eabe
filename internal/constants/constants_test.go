package constants

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Constants with a number somewhere in their value are found, others and those of
// tests are not.
func TestNumbers(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"a.go":      "package a\n\nconst (\n\tOne = 1\n\ttwice = 2 * One\n\tsame = One\n\tword = \"3\"\n)\n\nvar no = 4\n\nconst half, name = 0.5, \"x\"\n",
		"a_test.go": "package a\n\nconst tested = 1\n",
		"a.txt":     "const text = 1\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	all, err := Numbers(dir)
	var names []string
	for _, c := range all {
		names = append(names, c.Name)
	}
	if want := []string{"One", "twice", "half"}; err != nil || !slices.Equal(names, want) {
		t.Errorf("%v, %v, want %v", names, err, want)
	}
	if _, err := Numbers(filepath.Join(dir, "none")); err == nil {
		t.Error("a folder that is not there is no error")
	}
}
