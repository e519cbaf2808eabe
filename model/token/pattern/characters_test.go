package pattern

import (
	"bufio"
	"crypto/sha256"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

var namesFile = flag.String("names", "", "write the names of properties to this file")

// Each set of characters is that of the Python package tokenizers.
func TestCharacters(t *testing.T) {
	if *namesFile != "" {
		names := strings.Join(slices.Sorted(maps.Keys(named())), "\n") + "\n"
		if err := os.WriteFile(*namesFile, []byte(names), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	f, err := os.Open("testdata/characters.txt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	compared := map[string]bool{}
	for lines := bufio.NewScanner(f); lines.Scan(); {
		expr, want, _ := strings.Cut(lines.Text(), " ")
		compared[expr] = true
		tree, err := parse(expr)
		if err != nil {
			t.Error(err)
			continue
		}
		if tree.kind != kindSet {
			t.Errorf("%s is no set", expr)
			continue
		}
		// A range goes on behind the surrogates.
		const before, behind = 0xd7ff, 0xe000
		s := intersect(tree.set, ranges(0, before, behind, 0x10ffff))
		h := sha256.New()
		for i := 0; i < len(s); i++ {
			r := s[i]
			if r.hi == before && i+1 < len(s) && s[i+1].lo == behind {
				i++
				r.hi = s[i].hi
			}
			fmt.Fprintf(h, "%x-%x\n", r.lo, r.hi)
		}
		if got := fmt.Sprintf("%x", h.Sum(nil)[:16]); got != want {
			t.Errorf("%s has other characters: their hash is %s, want %s", expr, got, want)
		}
	}
	if len(compared) < 300 {
		t.Errorf("only %d expressions are compared", len(compared))
	}
	for name := range named() {
		if !compared[`\p{`+name+`}`] {
			t.Errorf(`\p{%s} is not compared`, name)
		}
	}
}

// The tables by which characters are looked up hold what the sets do.
func TestClasses(t *testing.T) {
	sets := []set{word(), category("Lu"), category("L").negate(), setOf(`[\x{e000}-\x{e0ff}a-c]`), everything}
	c, members := partition(sets)
	for r := rune(0); r <= 0x10ffff; r++ {
		for i, s := range sets {
			if members[i][c.class(r)] != s.contains(r) {
				t.Fatalf("character %x is of class %d, which set %d has: %v", r, c.class(r), i, members[i][c.class(r)])
			}
		}
	}
}

func setOf(expr string) set {
	n, err := parse(expr)
	if err != nil {
		panic(err)
	}
	return n.set
}
