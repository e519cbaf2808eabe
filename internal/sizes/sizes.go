// Package sizes finds the numbers among the constants of packages, for the tests
// that hold them to the lists of thresholds.
package sizes

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"
)

// Check demands that every constant of the folders that is a number is listed, or
// that notSizes says why it is no threshold. It returns how many there are.
func Check(t *testing.T, listed map[string]bool, notSizes map[string]string, dirs ...string) (seen int) {
	for _, dir := range dirs {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			name := f.Name()
			if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				continue
			}
			src, err := parser.ParseFile(token.NewFileSet(), dir+"/"+name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range numbers(src) {
				seen++
				if !listed[id] && notSizes[id] == "" {
					t.Errorf("%s/%s: %s is no threshold: list it among the thresholds, or say in notSizes why not", dir, name, id)
				}
			}
		}
	}
	return seen
}

// numbers lists the constants of a file whose values have literal numbers.
func numbers(src *ast.File) (names []string) {
	for _, d := range src.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.CONST {
			continue
		}
		for _, s := range g.Specs {
			v := s.(*ast.ValueSpec)
			for i, id := range v.Names {
				if i < len(v.Values) && number(v.Values[i]) {
					names = append(names, id.Name)
				}
			}
		}
	}
	return names
}

// number reports whether an expression has a literal number in it.
func number(e ast.Expr) bool {
	found := false
	ast.Inspect(e, func(n ast.Node) bool {
		if l, ok := n.(*ast.BasicLit); ok && (l.Kind == token.INT || l.Kind == token.FLOAT) {
			found = true
		}
		return true
	})
	return found
}
