// Package shared finds the reference data that lies beside the repository.
// It is for tests.
package shared

import (
	"os"
	"path/filepath"
	"testing"
)

// Dir returns a path inside the folder "shared" beside the repository, and
// skips the test where it is absent.
func Dir(t testing.TB, elem ...string) string {
	t.Helper()
	root, err := filepath.Abs(".")
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(root, "go.mod")); err == nil {
			break
		}
		up := filepath.Dir(root)
		if up == root {
			t.Fatal("no go.mod above the test")
		}
		root = up
	}
	p := filepath.Join(append([]string{filepath.Dir(root), "shared"}, elem...)...)
	if _, err := os.Stat(p); err != nil {
		t.Skipf("skipped: the reference data %s is not beside the repository", filepath.Join(append([]string{"shared"}, elem...)...))
	}
	return p
}
