package gpuproof

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// packer is a runner of pack_bf16 in Go; change is a mistake of its.
type packer struct {
	in, out []byte
	runs    int
	change  func(run int, out []byte)
	input   bool // writes into what it only reads
	free    error
}

func (p *packer) Alloc(access table.Access, data []byte, n int) (Array, error) {
	if access == table.Read {
		p.in = bytes.Clone(data)
		return p.in, nil
	}
	p.out = make([]byte, n)
	for i := range p.out {
		p.out[i] = 0xff
	}
	return p.out, nil
}

func (p *packer) Launch(k table.Kernel, c table.Counts, a Arrays, n Numbers) error {
	for i := range c[table.Entries] {
		x := math.Float32frombits(binary.LittleEndian.Uint32(p.in[4*i:]))
		binary.LittleEndian.PutUint16(p.out[2*i:], roundBits(float64(x)))
	}
	if p.input {
		p.in[3] ^= 1
	}
	if p.change != nil {
		p.change(p.runs, p.out)
	}
	p.runs++
	return nil
}

func (p *packer) Read(a Array) ([]byte, error) { return a.([]byte), nil }
func (p *packer) Free() error                  { return p.free }

// A prover takes what is right, and says what is wrong: an entry, one that was not
// written, other bits the second time, and what a runner says.
func TestProver(t *testing.T) {
	k := gpu.PackBF16.Kernel().Kernel
	for _, c := range []struct {
		name, want string
		samples    int
		change     func(run int, out []byte)
		free       error
	}{
		{"right", "", 0, nil, nil},
		{"right, sampled", "", 7, nil, nil},
		{"one entry off by its last bit", "entry 33 of pack is ", 0, func(_ int, out []byte) { out[66] ^= 1 }, nil},
		{"the last entry, sampled", "entry 199 of pack is ", 7, func(_ int, out []byte) { out[398] ^= 1 }, nil},
		{"an entry that was not written", "1 entries of pack were not written", 7, func(_ int, out []byte) { out[66], out[67] = 0xff, 0xff }, nil},
		{"other bits the second time", "two runs differ: entry 33 of pack is ", 7, func(run int, out []byte) { out[66] ^= byte(run) }, nil},
		{"NaN", "entry 199 of pack is NaN", 7, func(_ int, out []byte) { out[398], out[399] = 0xc0, 0x7f }, nil},
		{"canaries", "beside an array", 7, nil, errors.New("the kernel wrote beside an array")},
	} {
		p := &Prover{Runner: &packer{change: c.change, free: c.free}, Seed: 1, Samples: c.samples, Twice: true}
		err := p.ProveAt(k, table.Count(table.Entries), 200)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
		if e := (*Mismatch)(nil); strings.Contains(c.want, "entry 199") && (!errors.As(err, &e) || e.Entry != 199 || e.Array != "pack" || e.Kernel != k.Name) {
			t.Errorf("%s: %+v", c.name, err)
		}
	}
	p := &Prover{Runner: &packer{input: true}}
	if err := p.ProveAt(k, table.Count(table.Entries), 200); err == nil || !strings.Contains(err.Error(), "w has changed, which is only read") {
		t.Errorf("a kernel that writes into its input: %v", err)
	}
	if err := (&Prover{}).Prove(table.Kernel{Name: "k", Role: "none"}, 1); err == nil || !strings.Contains(err.Error(), "nobody knows how to prove") {
		t.Errorf("%v", err)
	}
}

// Of products an entry of every tile is compared, or of 2,048 of them, those of the
// last rows and columns among them.
func TestSampledTiles(t *testing.T) {
	p := table.Kernel{Shape: table.Shape{Product: &table.Product{Blocks: 2}}, Tile: table.Tile{M: 16, N: 64}}
	for _, c := range []struct{ rows, cols, all int }{{129, 200, 0}, {8192, 3072, 1}} {
		tile := map[[3]int]bool{}
		last := 0
		sampleTiles(rand.New(rand.NewPCG(1, 1)), p, c.rows, c.cols, func(n int) {
			block, i, j := n/c.cols/c.rows, n/c.cols%c.rows, n%c.cols
			tile[[3]int{block, i / 16, j / 64}] = true
			if i == c.rows-1 {
				last++
			}
		})
		down, across := (c.rows+15)/16, (c.cols+63)/64
		for block := range 2 {
			for i := range down {
				if !tile[[3]int{block, i, across - 1}] {
					t.Errorf("%d rows: not the last columns of tile %d", c.rows, i)
				}
			}
			for j := range across {
				if !tile[[3]int{block, down - 1, j}] {
					t.Errorf("%d rows: not the last rows of tile %d", c.rows, j)
				}
			}
		}
		if n := len(tile); c.all == 0 && n != 2*down*across || c.all > 0 && (n < mostTiles || n > 2*mostTiles) || last < 2*across {
			t.Errorf("%d rows: %d of %d tiles, %d entries of the last row", c.rows, n, 2*down*across, last)
		}
	}
}

// Numbers of large arrays are drawn from some thousand, which are as they should
// be; those of an array are rounded to its type.
func TestNormal(t *testing.T) {
	for _, typ := range []table.Type{table.ArrayBF16, table.ArrayFloat32} {
		const n, scale = 1 << 17, 0.5
		v := normal(rand.New(rand.NewPCG(1, 1)), typ, n, scale)
		mean, dev := 0.0, 0.0
		different := map[float64]bool{}
		for i := range n {
			mean += v.at(i) / n
			dev += v.at(i) * v.at(i) / n
			different[v.at(i)] = true
		}
		if v.len() != n || math.Abs(mean) > 0.03 || math.Abs(math.Sqrt(dev)-scale) > 0.03 || len(different) < 800 {
			t.Errorf("%s: mean %v, deviation %v, %d numbers", typ, mean, math.Sqrt(dev), len(different))
		}
	}
}

// What is updated differs from what was there in every stretch that is the
// kernel's, and nowhere else.
func TestChanges(t *testing.T) {
	const n = 1000
	before := normal(rand.New(rand.NewPCG(1, 1)), table.ArrayFloat32, n, 1)
	mine := func(i int) bool { return i < 200 || i >= 600 }
	for _, c := range []struct {
		what, want string
		change     func(i int) bool
	}{
		{"all that is its", "", mine},
		{"all but a few by chance", "", func(i int) bool { return mine(i) && i%40 > 4 }},
		{"nothing of a block", "entries 700 to 705 of x were not changed", func(i int) bool { return mine(i) && (i < 700 || i >= 760) }},
		{"nothing of the last block", "of x were not changed", func(i int) bool { return mine(i) && i < n-64 }},
		{"one of another's", "entry 333 of x was changed", func(i int) bool { return mine(i) || i == 333 }},
	} {
		after := values{before.typ, bytes.Clone(before.data)}
		for i := range n {
			if c.change(i) {
				after.set(i, before.at(i)+1)
			}
		}
		err := changes("x", before, after, func(i int) bool { return !mine(i) })
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", c.what, err, c.want)
		}
	}
}
