package cuda

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/internal/gz"
	"github.com/structuredffn/sffn/internal/ptx"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// mutant is a kernel with one mistake. Site names the mistake's place in the
// template, the same for every kernel of a pass and number of stages.
type mutant struct{ site, text string }

var (
	mutableLine = regexp.MustCompile(`bar\.sync|cp\.async\.(commit_group|wait_group (\d+))|mma\.sync\S*|ldmatrix\.sync\S*`)
	registerSet = regexp.MustCompile(`\{[^}]*\}`)
)

// mutants lists the mistakes: each barrier, wait and commit left out, each wait
// for one group fewer, and two registers of a fragment exchanged.
func mutants(text string, registers bool) (ms []mutant) {
	lines := strings.Split(text, "\n")
	count := map[string]int{}
	add := func(site string, i int, line string) {
		changed := slices.Clone(lines)
		changed[i] = line
		ms = append(ms, mutant{site, strings.Join(changed, "\n")})
	}
	for i, line := range lines {
		op := mutableLine.FindString(line)
		if op == "" {
			continue
		}
		base, _, _ := strings.Cut(op, ".sync.aligned")
		base, _, _ = strings.Cut(base, " ")
		count[base]++
		site := fmt.Sprintf("%s %d", base, count[base])
		switch {
		case strings.HasPrefix(op, "mma"), strings.HasPrefix(op, "ldmatrix"):
			if !registers {
				continue
			}
			// Sets of registers: D, A, B, C of mma; D of ldmatrix.
			for n, at := range registerSet.FindAllStringIndex(line, -1) {
				regs := strings.Split(strings.Trim(line[at[0]:at[1]], "{}"), ",")
				if n == 3 || n == 0 && strings.HasPrefix(op, "mma") {
					continue // exchanging sums is the same as exchanging rows twice
				}
				regs[0], regs[1] = regs[1], regs[0]
				add(fmt.Sprintf("%s set %d exchanged", site, n), i, line[:at[0]]+"{"+strings.Join(regs, ",")+"}"+line[at[1]:])
			}
		case strings.HasPrefix(op, "cp.async.wait_group"):
			groups := strings.TrimPrefix(op, "cp.async.wait_group ")
			add(site+" left out", i, "")
			add(site+" for one group fewer", i, strings.Replace(line, op, "cp.async.wait_group "+string(groups[0]+1), 1))
		default:
			add(site+" left out", i, "")
		}
	}
	return ms
}

// kernelTexts cuts a module into its header and its kernels by name.
func kernelTexts(t *testing.T, dir string, ks []gpu.Kernel) (header string, texts map[string]string) {
	t.Helper()
	texts = map[string]string{}
	for _, file := range gpu.Files(ks) {
		data, err := os.ReadFile(filepath.Join(dir, ptxName(file)))
		if err != nil {
			t.Fatal(err)
		}
		src, err := gz.Unpack(data)
		if err != nil {
			t.Fatal(err)
		}
		parts := strings.Split(string(src), ".visible .entry ")
		header = parts[0]
		for _, p := range parts[1:] {
			p, _, _ = strings.Cut(p, "\n\t// .globl")
			name, _, _ := strings.Cut(p, "(")
			texts[name] = ".visible .entry " + p
		}
	}
	return header, texts
}

// noticed runs a mutant and reports whether a finding or a wrong number gave
// it away.
func noticed(t *testing.T, k gpu.Kernel, header, text string) bool {
	t.Helper()
	m, err := ptx.Parse(header + text)
	if err != nil {
		t.Fatalf("%s: a mutant that is no PTX: %v", k.Name, err)
	}
	for seed := range uint64(3) {
		tokens := 129
		if k.Plan.(gpu.Product).Tile.M == 16 {
			tokens = 33
		}
		d, _ := newProver(m.Kernels, seed, seed, 500)
		if d.Prove(k.Kernel, tokens) != nil {
			return true
		}
	}
	return false
}

// A mistake must be noticed by at least one kernel of its pass and number of
// stages: a barrier can be redundant at one shape and needed at another.
// Exchanged registers must be noticed by every kernel.
func TestMutants(t *testing.T) {
	ks := tableOf(t, smallDir)
	header, texts := kernelTexts(t, smallDir, ks)
	alive := map[string][]string{} // by site, the kernels that miss it
	total := map[string]int{}
	tiles := map[string]bool{}
	n, missed := 0, 0
	for _, k := range ks {
		p, ok := k.Plan.(gpu.Product)
		if !ok {
			continue
		}
		tile := fmt.Sprint(p.Pass, p.Tile)
		registers := !tiles[tile]
		tiles[tile] = true
		text := texts[k.Name]
		if noticed(t, k, header, text) {
			t.Fatalf("%s is wrong without a mutation", k.Name)
		}
		for _, m := range mutants(text, registers) {
			site := fmt.Sprintf("%s, %d stages: %s", p.Pass, p.Stages, m.site)
			n++
			total[site]++
			if noticed(t, k, header, m.text) {
				continue
			}
			missed++
			alive[site] = append(alive[site], k.Name)
			if strings.Contains(m.site, "exchanged") {
				t.Errorf("%s: %s: not noticed", k.Name, m.site)
			}
		}
	}
	for site, names := range alive {
		if len(names) < total[site] {
			continue
		}
		t.Errorf("%s: none of %d kernels notices it", site, total[site])
	}
	t.Logf("%d mutants of %d kernels: %d noticed by their own kernel, %d only by another one", n, len(ks), n-missed, missed)
}

// Launches that leave out the last tile of rows or of columns, or the last
// stage of a sum over tokens, are noticed by every kernel.
func TestDroppedTiles(t *testing.T) {
	ks := tableOf(t, smallDir)
	kernels := loadPTX(t, smallDir, ks)
	for _, k := range ks {
		p, ok := k.Plan.(gpu.Product)
		if !ok {
			continue
		}
		for what, tamper := range map[string]func(*ptx.Launch){
			"columns": func(l *ptx.Launch) { l.Grid[0]-- },
			"rows":    func(l *ptx.Launch) { l.Grid[1]-- },
			"stage":   func(l *ptx.Launch) { l.Args[len(l.Args)-1]-- },
		} {
			g := k.Blocks(table.Counts{table.Tokens: 129, table.Parts: 1})
			if what == "columns" && g[0] == 1 || what == "rows" && g[1] == 1 || what == "stage" && p.Depth() > 0 {
				continue
			}
			d, r := newProver(kernels, 1, 0, 500)
			r.Tamper = tamper
			if d.Prove(k.Kernel, 129) == nil {
				t.Errorf("%s: the last %s left out: not noticed", k.Name, what)
			}
		}
	}
}

// The sums of columns need their barrier, whatever the type of the rows.
func TestColumnsMutants(t *testing.T) {
	ks := tableOf(t, smallDir)
	kernels := loadPTX(t, smallDir, ks)
	header, texts := kernelTexts(t, smallDir, ks)
	n := 0
	for _, k := range ks {
		if _, ok := k.Plan.(gpu.Columns); !ok {
			continue
		}
		run := func(kernels map[string]*ptx.Kernel) error {
			d, _ := newProver(kernels, 1, 0, 1)
			return d.Prove(k.Kernel, 129)
		}
		if err := run(kernels); err != nil {
			t.Fatal(err)
		}
		for _, m := range mutants(texts[k.Name], false) {
			mod, err := ptx.Parse(header + m.text)
			if err != nil {
				t.Fatal(err)
			}
			n++
			if run(mod.Kernels) == nil {
				t.Errorf("%s: %s: not noticed", k.Name, m.site)
			}
		}
	}
	if n < 2 {
		t.Errorf("%d mutants", n)
	}
}
