package plan

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/runtime/kernel"
)

// notSizes are the constants of the CPU's path that decide nothing by the size
// of an operand.
var notSizes = map[string]string{
	"RowTiles":        "the unit of MinRowChunk and MaxRowChunk",
	"ChunksPerThread": "a factor of the thresholds of row chunks",
	"shallowBytes":    "listed as the depth at which a panel has so many bytes",
	"walkDepth":       "of the thresholds' own list",
	"hugePage":        "alignment", "smallPage": "alignment", "cacheLine": "alignment", "align": "alignment",
	"lineFloats": "a unit of prefetching", "readUnit": "of a measurement", "maxSpins": "time", "yieldCalls": "time",
	"Eps": "not a size", "gain": "not a size",
	"crossoverRounds": "of a measurement", "crossoverMost": "of a measurement", "crossoverTime": "of a measurement",
	"scratchTile": "room for the largest tile", "fusedRows": "of the GPU", "fusedRank": "of the GPU",
}

// Every constant of the packages below that is a number is a threshold that
// tests walk, or says above why it is none.
func TestConstantsAreListed(t *testing.T) {
	listed := map[string]bool{}
	for _, isa := range kernel.ISAs {
		for _, threads := range []int{1, 2} {
			for _, s := range For(isa).Thresholds(threads) {
				listed[s.Name] = true
			}
		}
	}
	seen := 0
	for _, dir := range []string{".", "../../runtime", "../../runtime/vec", "../../model"} {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			name := f.Name()
			if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") || strings.HasPrefix(name, "gpu") || name == "roofline.go" {
				continue
			}
			src, err := parser.ParseFile(token.NewFileSet(), dir+"/"+name, nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range src.Decls {
				g, ok := d.(*ast.GenDecl)
				if !ok || g.Tok != token.CONST {
					continue
				}
				for _, s := range g.Specs {
					v := s.(*ast.ValueSpec)
					for i, id := range v.Names {
						if i >= len(v.Values) || !number(v.Values[i]) {
							continue
						}
						seen++
						if !listed[id.Name] && notSizes[id.Name] == "" {
							t.Errorf("%s/%s: %s is no threshold: list it in Thresholds, or say in notSizes why not", dir, name, id.Name)
						}
					}
				}
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d constants were found", seen)
	}
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
