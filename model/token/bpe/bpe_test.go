package bpe

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// naive is the definition: the leftmost pair of the lowest rank merges, again
// and again.
func naive(merges map[[2]int32]Merge, word []int32) []int32 {
	word = slices.Clone(word)
	for {
		at, least := -1, int32(math.MaxInt32)
		for i := 0; i+1 < len(word); i++ {
			if m, ok := merges[[2]int32{word[i], word[i+1]}]; ok && m.Rank < least {
				at, least = i, m.Rank
			}
		}
		if at < 0 {
			return word
		}
		word[at] = merges[[2]int32{word[at], word[at+1]}].Into
		word = slices.Delete(word, at+1, at+2)
	}
}

// Random tables, also such as no training makes: ranks that repeat, that are
// negative, that are lower than those of their parts, pairs that come twice,
// symbols that merge into themselves.
func TestApply(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	merged := 0
	for range 300 {
		symbols := 2 + r.Int32N(6)
		var merges []Merge
		last := map[[2]int32]Merge{}
		for i := range 1 + r.IntN(40) {
			m := Merge{Left: r.Int32N(symbols), Right: r.Int32N(symbols), Into: r.Int32N(symbols), Rank: int32(i)}
			if r.IntN(2) == 0 {
				m.Into = symbols
				symbols++
			}
			if r.IntN(4) == 0 {
				m.Rank = r.Int32N(10) - 5
			}
			merges = append(merges, m)
			last[[2]int32{m.Left, m.Right}] = m
		}
		table, err := New(merges)
		if err != nil {
			t.Fatal(err)
		}
		for pair, m := range last {
			if rank, into, ok := table.Pair(pair[0], pair[1]); rank != m.Rank || into != m.Into || !ok {
				t.Errorf("%v: %d %d %v, want %v", pair, rank, into, ok, m)
			}
		}
		for _, n := range []int{0, 1, 2, 3, 7, maxScanned, maxScanned + 1, 300} {
			word := make([]int32, n)
			for i := range word {
				word[i] = r.Int32N(min(symbols, 2+r.Int32N(symbols)))
			}
			want := naive(last, word)
			merged += n - len(want)
			if got := table.Apply(slices.Clone(word)); !slices.Equal(got, want) {
				t.Fatalf("%v of %v: %v, want %v", merges, word, got, want)
			}
			if n > 1 { // both ways at any length
				if got := table.heap(slices.Clone(word)); !slices.Equal(got, want) {
					t.Fatalf("by the heap, %v of %v: %v, want %v", merges, word, got, want)
				}
			}
		}
	}
	if merged < 10000 {
		t.Errorf("only %d merges were tried", merged)
	}
}

func TestNoMerges(t *testing.T) {
	table, err := New(nil)
	if err != nil {
		t.Fatal(err)
	}
	word := make([]int32, 200)
	if got := table.Apply(word); len(got) != 200 {
		t.Errorf("%d symbols are left of 200", len(got))
	}
	if _, _, ok := table.Pair(0, 0); ok {
		t.Error("a pair merges")
	}
}

func TestHostileMerges(t *testing.T) {
	for _, m := range []Merge{{Left: -1}, {Right: -1}, {Into: -1}, {Rank: math.MaxInt32}} {
		if _, err := New([]Merge{{}, m}); err == nil || !strings.Contains(err.Error(), "merge 1 of symbols") {
			t.Errorf("%v: %v", m, err)
		}
	}
}

// doubling merges runs of one symbol: 0 0 -> 1, 1 1 -> 2 and so on.
func doubling(t testing.TB) *Table {
	var merges []Merge
	for i := range int32(16) {
		merges = append(merges, Merge{i, i, i + 1, i})
	}
	table, err := New(merges)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// A word of a million symbols takes no longer than its share.
func TestLongWord(t *testing.T) {
	const n = 1<<20 + 1<<4 + 1
	got := doubling(t).Apply(make([]int32, n))
	want := append(slices.Repeat([]int32{16}, n>>16), 4, 0)
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// Words of the length of words need no memory.
func TestAllocations(t *testing.T) {
	table := doubling(t)
	word := make([]int32, maxScanned)
	if n := testing.AllocsPerRun(100, func() {
		clear(word)
		table.Apply(word)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
