package cuda

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/internal/ptx"
)

var (
	shuffleLine = regexp.MustCompile(`shfl\.sync\.bfly\.b32 (%\w+), (%\w+), [^;]*;`)
	storeLine   = regexp.MustCompile(`(st\.(global|shared)\S*)`)
)

// passMutants are those of products, and each shuffle, store and warp barrier
// left out.
func passMutants(text string) []mutant {
	ms := mutants(text, true)
	lines := strings.Split(text, "\n")
	count := map[string]int{}
	for i, line := range lines {
		what, changed := "", ""
		switch {
		case shuffleLine.MatchString(line):
			what, changed = "shuffle", shuffleLine.ReplaceAllString(line, "mov.b32 $1, $2;")
		case storeLine.MatchString(line):
			what = "store"
		case strings.Contains(line, "bar.warp.sync"):
			what = "warp barrier"
		default:
			continue
		}
		count[what]++
		mutated := slices.Clone(lines)
		mutated[i] = changed
		ms = append(ms, mutant{fmt.Sprintf("%s %d left out", what, count[what]), strings.Join(mutated, "\n")})
	}
	return ms
}

// passNoticed runs a mutant at several sizes and reports whether a finding or
// a wrong number gave it away.
func passNoticed(t *testing.T, k gpu.Kernel, header, text string) bool {
	t.Helper()
	m, err := ptx.Parse(header + text)
	if err != nil {
		t.Fatalf("%s: a mutant that is no PTX: %v", k.Name, err)
	}
	for _, n := range []int{5, 17, 33, 64, 129} { // small ones tell most mistakes, and are quick
		d, _ := newProver(m.Kernels, uint64(n), uint64(n), 0)
		if d.Prove(k.Kernel, n) != nil {
			return true
		}
	}
	return false
}

// Every barrier, wait, commit, shuffle, store and warp barrier that is left out, and every
// exchange of a fragment's registers, is noticed by the kernel itself.
func TestPassMutants(t *testing.T) {
	ks, err := passTable(passModels[:5])
	if err != nil {
		t.Fatal(err)
	}
	loadPTX(t, passDir, tableOf(t, passDir))
	header, texts := kernelTexts(t, passDir, ks)
	for _, k := range ks {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			if passNoticed(t, k, header, texts[k.Name]) {
				t.Fatal("wrong without a mutation")
			}
			for _, m := range passMutants(texts[k.Name]) {
				if !passNoticed(t, k, header, m.text) {
					t.Errorf("%s: not noticed", m.site)
				}
			}
		})
	}
}

// Launches without the last block of any direction are noticed.
func TestPassDroppedBlocks(t *testing.T) {
	ks, err := passTable(passModels[:5])
	if err != nil {
		t.Fatal(err)
	}
	kernels := loadPTX(t, passDir, tableOf(t, passDir))
	for _, k := range ks {
		for i := range 3 {
			dropped := false
			d, r := newProver(kernels, 1, 0, 0)
			d.InTurn = false // with a norm that is not finite nobody does anything
			r.Tamper = func(l *ptx.Launch) {
				if l.Grid[i] > 1 {
					l.Grid[i]--
					dropped = true
				}
			}
			if err := d.Prove(k.Kernel, 129); err == nil && dropped {
				t.Errorf("%s: the last block of direction %d left out: not noticed", k.Name, i)
			}
			// And where next to nothing is compared: what is not written, or not
			// changed, shows.
			d.Samples = 1
			if err := d.Prove(k.Kernel, 129); err == nil && dropped {
				t.Errorf("%s: the last block of direction %d left out: not noticed with one entry", k.Name, i)
			}
		}
	}
}
