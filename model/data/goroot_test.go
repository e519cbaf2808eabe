package data

import (
	"go/build"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var generatedLine = regexp.MustCompile(`(?m)^// Code generated .* DO NOT EDIT\.$`)

type goFile struct{ path, text string }

// goFiles reads the Go source as its definition says it, one file after the other.
func goFiles(t *testing.T) (files []goFile) {
	t.Helper()
	src := os.DirFS(filepath.Join(build.Default.GOROOT, "src"))
	seen := map[string]bool{}
	err := fs.WalkDir(src, ".", func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		for _, part := range strings.Split(filepath.Dir(path), "/") {
			if part == "vendor" || part == "testdata" || strings.HasPrefix(path, "cmd/") {
				return nil
			}
		}
		b, err := fs.ReadFile(src, path)
		text := string(b)
		generated := generatedLine.MatchString(text)
		if !seen[text] && !generated {
			files = append(files, goFile{path, text})
			seen[text] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
