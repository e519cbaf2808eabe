package memory

import (
	"math/rand/v2"
	"testing"
	"unsafe"
)

// held is what open arenas hold beyond what they did at the beginning of a test.
func held(t *testing.T) func() int64 {
	t.Helper()
	before := Held()
	t.Cleanup(func() {
		if n := Held() - before; n != 0 {
			t.Errorf("%d bytes are held after all is closed", n)
		}
	})
	return func() int64 { return Held() - before }
}

// sizes are in bytes, around each at which arenas change their ways.
var sizes = []int{1, 63, 64, 65, 100, smallPage - 1, smallPage, smallPage + 1, hugePage/2 - cacheLine, hugePage/2 - 1, hugePage / 2, hugePage/2 + 1,
	hugePage - 1, hugePage, hugePage + 1, 3*hugePage + 5}

// What an arena hands out is as long as was asked for, zero, on a cache line of its
// own, and stays what the caller makes of it whatever else is handed out.
func TestArena(t *testing.T) {
	total := held(t)
	var a Arena
	defer a.Close()
	r := rand.New(rand.NewPCG(1, 1))
	var all [][]byte
	asked := int64(0)
	for round := range 4 {
		for _, i := range r.Perm(len(sizes)) {
			n := sizes[i]
			b := a.Bytes(n)
			if len(b) != n {
				t.Fatalf("%d bytes, want %d", len(b), n)
			}
			if at := uintptr(unsafe.Pointer(&b[0])); at%cacheLine != 0 {
				t.Fatalf("%d bytes lie at %#x", n, at)
			}
			for j, v := range b {
				if v != 0 {
					t.Fatalf("byte %d of %d is %d in round %d", j, n, v, round)
				}
			}
			for j := range b {
				b[j] = byte(len(all) + 1)
			}
			all = append(all, b)
			asked += int64(n)
		}
	}
	for i, b := range all {
		for j, v := range b {
			if v != byte(i+1) {
				t.Fatalf("byte %d of buffer %d of %d bytes is that of another buffer", j, i, len(b))
			}
		}
	}
	if n := total(); n < asked {
		t.Errorf("arenas hold %d bytes, of which %d are handed out", n, asked)
	}
}

// Floats are as many entries, and writing all of them reaches nothing else.
func TestFloats(t *testing.T) {
	held(t)
	var a Arena
	defer a.Close()
	var all [][]float32
	for _, n := range []int{1, 15, 16, 17, 1000, 300_000} {
		x := a.Floats(n)
		if len(x) != n || uintptr(unsafe.Pointer(&x[0]))%cacheLine != 0 {
			t.Fatalf("%d entries at %p, want %d", len(x), &x[0], n)
		}
		for i, v := range x {
			if v != 0 {
				t.Fatalf("entry %d of %d is %v", i, n, v)
			}
			x[i] = float32(n)
		}
		all = append(all, x)
	}
	for _, x := range all {
		for i, v := range x {
			if v != float32(len(x)) {
				t.Fatalf("entry %d of %d is %v", i, len(x), v)
			}
		}
	}
}

// Nothing asked for is nothing held.
func TestNothing(t *testing.T) {
	total := held(t)
	var a Arena
	if len(a.Bytes(0)) != 0 || len(a.Floats(0)) != 0 || total() != 0 {
		t.Errorf("an arena without buffers holds %d bytes", total())
	}
	a.Close() // of no use, and no harm
	a.Close()
}

// Small requests share a page; large ones waste less than a huge page each.
func TestHeld(t *testing.T) {
	total := held(t)
	var a Arena
	for range smallPage / cacheLine {
		a.Bytes(1)
	}
	if n := total(); n != smallPage {
		t.Errorf("a page of single bytes holds %d bytes, want %d", n, smallPage)
	}
	a.Bytes(1)
	if n := total(); n != 2*smallPage {
		t.Errorf("one byte more holds %d bytes, want %d", n, 2*smallPage)
	}
	for _, n := range sizes {
		var b Arena
		before := total()
		b.Bytes(n)
		most := n + hugePage
		if n < hugePage/2-cacheLine {
			most = n + smallPage
		}
		if got := total() - before; got < int64(n) || got >= int64(most) {
			t.Errorf("%d bytes take %d, want less than %d", n, got, most)
		}
		b.Close()
		if got := total(); got != before {
			t.Errorf("after closing %d bytes, %d are held more than before", n, got-before)
		}
	}
	a.Close()
	if n := total(); n != 0 {
		t.Errorf("a closed arena holds %d bytes", n)
	}
	// It may be used again, and begins anew.
	x := a.Bytes(10)
	if n := total(); len(x) != 10 || n != smallPage {
		t.Errorf("an arena used again holds %d bytes", n)
	}
	a.Close()
}

// A buffer grows to what is asked of it, keeps its place while it need not, and gives
// back what it grew out of.
func TestBuffer(t *testing.T) {
	total := held(t)
	var b Buffer
	if b.Held() != nil || len(b.Floats(0)) != 0 || total() != 0 {
		t.Error("a new buffer holds something")
	}
	first := b.Floats(1000)
	first[999] = 7
	for _, n := range []int{1, 500, 1000, 0} {
		x := b.Floats(n)
		if len(x) != n || n > 0 && &x[0] != &first[0] {
			t.Errorf("%d entries are %d, elsewhere", n, len(x))
		}
	}
	if h := b.Held(); len(h) != 1000 || h[999] != 7 {
		t.Errorf("%d entries are held, want those of the largest call", len(h))
	}
	b.Floats(5_000_000)
	if x := b.Floats(10_000_000); len(x) != 10_000_000 || len(b.Held()) != len(x) {
		t.Errorf("%d entries, %d held", len(x), len(b.Held()))
	}
	if n := total(); n < 40_000_000 || n >= 40_000_000+hugePage {
		t.Errorf("a buffer of 40000000 bytes holds %d", n)
	}
	b.Close()
	if b.Held() != nil || total() != 0 {
		t.Errorf("a closed buffer holds %d bytes", total())
	}
	if x := b.Floats(3); len(x) != 3 {
		t.Errorf("used again it has %d entries", len(x))
	}
	b.Close()
}

// Arenas are apart: closing one leaves the memory of another.
func TestArenasApart(t *testing.T) {
	held(t)
	var as [3]Arena
	var xs [3][]float32
	for i := range as {
		xs[i] = as[i].Floats(400_000)
		for j := range xs[i] {
			xs[i][j] = float32(i)
		}
	}
	as[1].Close()
	for _, i := range []int{0, 2} {
		for j, v := range xs[i] {
			if v != float32(i) {
				t.Fatalf("entry %d of arena %d is %v", j, i, v)
			}
		}
		as[i].Close()
	}
}
