// Package house holds the packages of this module to the arrows between them that
// docs/architecture.md draws.
package house

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "draw the picture and the table of docs/architecture.md again")

const (
	module = "github.com/structuredffn/sffn/"
	page   = "../../docs/architecture.md"
)

// pkg is a package: its path below the module, what its comment says first, and what
// it imports of the module and of others. All includes what these import.
type pkg struct {
	path, what string
	imports    []string
	all        map[string]bool
	foreign    []string
}

func packages(t *testing.T) map[string]*pkg {
	t.Helper()
	out, err := exec.Command("go", "list", "-json=ImportPath,Doc,Imports,Deps", module+"...").Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*pkg{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p struct {
			ImportPath, Doc string
			Imports, Deps   []string
		}
		if err := d.Decode(&p); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		q := &pkg{path: strings.TrimPrefix(p.ImportPath, module), what: p.Doc, all: map[string]bool{}}
		for _, i := range p.Imports {
			if rest, ok := strings.CutPrefix(i, module); ok {
				q.imports = append(q.imports, rest)
			} else if strings.Contains(i, ".") {
				q.foreign = append(q.foreign, i)
			}
		}
		for _, i := range p.Deps {
			if rest, ok := strings.CutPrefix(i, module); ok {
				q.all[rest] = true
			}
		}
		slices.Sort(q.imports)
		all[q.path] = q
	}
	return all
}

// The arrows that may not be, whatever the page says: each room's packages reach none
// of those named, at any distance.
func TestArrows(t *testing.T) {
	ps := packages(t)
	within := func(path, room string) bool { return path == room || strings.HasPrefix(path, room+"/") }
	for _, rule := range []struct {
		room string
		not  []string
		why  string
	}{
		{"gen/spec", []string{"gen", "runtime", "model", "internal"}, "it is the key of everything: pure, of the standard library alone"},
		{"runtime/kernel", []string{"gen", "model", "internal", "runtime/vec", "runtime/pool"}, "the leaf that both sides share"},
		{"gen", []string{"model", "cmd", "generated"}, "the generator is built without what it generates"},
		{"gen/plan", []string{"gen/simd", "gen/bind", "gen/cuda", "gen/emit"}, "plans are made before anything is emitted"},
		{"gen/simd", []string{"gen/plan", "gen/spec"}, "emitters decide nothing"},
		{"gen/emit", []string{"gen/plan"}, "a plan is all that is emitted from"},
		{"gen/bind", []string{"gen/plan"}, "bindings decide nothing"},
		{"runtime", []string{"gen/simd", "gen/bind", "gen/cuda", "gen/emit", "model", "cmd"}, "a trainer links it without the generator"},
		{"runtime/cuda", []string{"gen/plan", "gen/spec"}, "launchers read rows and plan nothing"},
		{"runtime/pool", []string{"gen", "runtime/kernel"}, "a leaf"},
		{"model", []string{"cmd", "gen/simd", "gen/bind", "gen/emit"}, "models run on what was generated"},
		{"model/config", []string{"runtime", "model/train", "model/checkpoint"}, "a leaf: the words of the YAML"},
		{"model/token", []string{"gen", "runtime", "model/data", "model/train", "model/config"}, "text and ids know no model"},
		{"model/data", []string{"gen", "runtime", "model/train", "model/decode", "model/checkpoint"}, "data are prepared without a model"},
		{"model/data/source", []string{"model/token"}, "documents know no tokenizer"},
		{"model/decode", []string{"model/train", "model/data", "model/experiment"}, "a server needs no trainer"},
		{"cmd/sffngen", []string{"model", "runtime/vec", "generated"}, "it generates the rest"},
	} {
		found := false
		for path, p := range ps {
			if !within(path, rule.room) {
				continue
			}
			found = true
			for dep := range p.all {
				for _, not := range rule.not {
					if within(dep, not) && !within(not, path) && !within(dep, rule.room) {
						t.Errorf("%s reaches %s: %s", path, dep, rule.why)
					}
				}
			}
		}
		if !found {
			t.Errorf("there is no %s", rule.room)
		}
	}
	for path, p := range ps {
		for _, f := range p.foreign {
			for heavy, room := range map[string]string{"mmcloughlin/avo": "gen/simd", "dave/jennifer": "gen/bind", "spf13/cobra": "cmd"} {
				if strings.Contains(f, heavy) && !within(path, room) && !strings.HasPrefix(path, "internal/") && path != "templates" {
					t.Errorf("%s imports %s, which belongs to %s", path, f, room)
				}
			}
		}
	}
}

// The page's picture and table are those of the code: an arrow that is not in them
// is refused until somebody draws it.
func TestArchitecture(t *testing.T) {
	ps := packages(t)
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	want := string(text)
	for name, drawn := range map[string]string{"picture": picture(ps), "packages": table(t, ps)} {
		begin, end := "<!-- "+name+" -->\n", "<!-- /"+name+" -->\n"
		before, rest, ok := strings.Cut(want, begin)
		_, after, ok2 := strings.Cut(rest, end)
		if !ok || !ok2 {
			t.Fatalf("the page has no place for the %s", name)
		}
		want = before + begin + drawn + end + after
	}
	if want == string(text) {
		return
	}
	if *update {
		if err := os.WriteFile(page, []byte(want), 0o666); err != nil {
			t.Fatal(err)
		}
		return
	}
	got, lines := strings.Split(string(text), "\n"), strings.Split(want, "\n")
	for i, line := range lines {
		if i >= len(got) || got[i] != line {
			t.Fatalf("docs/architecture.md, line %d, is not what the code is:\n%s\nIf the arrow shall be, draw it: go test ./internal/house -update", i+1, line)
		}
	}
	t.Fatal("docs/architecture.md is longer than what the code is; draw it: go test ./internal/house -update")
}

// shown reports whether a package is in the picture: not the house's tools.
func shown(path string) bool {
	return !strings.HasPrefix(path, "internal/") && !strings.HasPrefix(path, "generated/") && !strings.Contains(path, "testdata") &&
		!strings.HasSuffix(path, "test") && path != "templates" && path != "cmd/internal/cli" && path != "cmd/gpucheck" && path != "cmd/sffn"
}

// picture draws the arrows that no way over others replaces.
func picture(ps map[string]*pkg) string {
	var b strings.Builder
	b.WriteString("```mermaid\nflowchart TD\n")
	id := strings.NewReplacer("/", "_").Replace
	rooms := map[string][]string{}
	for path := range ps {
		if shown(path) {
			room, _, _ := strings.Cut(path, "/")
			rooms[room] = append(rooms[room], path)
		}
	}
	for _, room := range slices.Sorted(maps.Keys(rooms)) {
		slices.Sort(rooms[room])
		fmt.Fprintf(&b, "  subgraph %s_room [%s]\n", room, room)
		for _, path := range rooms[room] {
			fmt.Fprintf(&b, "    %s[%s]\n", id(path), path)
		}
		b.WriteString("  end\n")
	}
	for _, path := range slices.Sorted(maps.Keys(ps)) {
		if !shown(path) {
			continue
		}
		for _, to := range ps[path].imports {
			over := slices.ContainsFunc(ps[path].imports, func(by string) bool { return by != to && shown(by) && ps[by].all[to] })
			if shown(to) && !over {
				fmt.Fprintf(&b, "  %s --> %s\n", id(path), id(to))
			}
		}
	}
	b.WriteString("```\n")
	return b.String()
}

// table lists every package but the generated ones.
func table(t *testing.T, ps map[string]*pkg) string {
	var b strings.Builder
	b.WriteString("| package | what it is | imports |\n|---|---|---|\n")
	for _, path := range slices.Sorted(maps.Keys(ps)) {
		p := ps[path]
		if strings.HasPrefix(path, "generated/") || strings.Contains(path, "testdata") || path == "internal/house" {
			continue
		}
		_, what, _ := strings.Cut(p.what, " ") // Package
		_, what, _ = strings.Cut(what, " ")    // its name
		if strings.HasPrefix(path, "cmd/") && !strings.HasPrefix(p.what, "Package") {
			_, what, _ = strings.Cut(p.what, " ") // a command's name begins its comment
		}
		if what == "" {
			t.Errorf("package %s has no comment", path)
		}
		var imports []string
		for _, i := range p.imports {
			if !strings.HasPrefix(i, "internal/") {
				imports = append(imports, i)
			}
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", path, what, strings.Join(imports, ", "))
	}
	return b.String()
}

// Files and folders that the page names are there.
func TestPaths(t *testing.T) {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	for _, m := range regexp.MustCompile("`((?:gen|runtime|model|cmd|internal|docs|generated|templates)/[a-zA-Z0-9_./]+)`").FindAllStringSubmatch(string(text), -1) {
		if strings.Contains(m[1], "NAME") {
			continue
		}
		seen++
		if _, err := os.Stat("../../" + m[1]); err != nil {
			t.Errorf("docs/architecture.md names %s: %v", m[1], err)
		}
	}
	if seen < 50 {
		t.Errorf("only %d paths were found", seen)
	}
}
