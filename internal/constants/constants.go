// Package constants finds the constants of packages that are numbers, for tests
// that say of each of them what it decides.
package constants

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strings"
)

// Constant is a constant with a literal number in its value.
type Constant struct{ File, Name string }

// Numbers lists those of the Go files of folders, but for tests.
func Numbers(dirs ...string) ([]Constant, error) {
	var all []Constant
	for _, dir := range dirs {
		files, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, f := range files {
			name := filepath.Join(dir, f.Name())
			if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
				continue
			}
			src, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
			if err != nil {
				return nil, err
			}
			for _, d := range src.Decls {
				g, ok := d.(*ast.GenDecl)
				if !ok || g.Tok != token.CONST {
					continue
				}
				for _, s := range g.Specs {
					v := s.(*ast.ValueSpec)
					for i, id := range v.Names {
						if i < len(v.Values) && number(v.Values[i]) {
							all = append(all, Constant{name, id.Name})
						}
					}
				}
			}
		}
	}
	return all, nil
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
