package kerneltest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"unsafe"

	"github.com/structuredffn/sffn/internal/bound"
	"github.com/structuredffn/sffn/internal/guard"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// integers is a product of a format of integers ([kernel.Int8]): what its operands hold,
// and what they are in memory.
type integers struct {
	rows, tiles, depth, ldc int
	with                    int // bit 0: bias, bit 1: residual
	// x and w are the integers [row][k] and [column][k], scale and scales the numbers that
	// they are multiplied by: of a row, and of a column and group.
	x, w           [][]int32
	scale          []float32
	scales         [][]float32
	left, panels   []byte
	step           int
	bias, residual []float32
}

// bytesOf views entries.
func bytesOf(x []float32) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(&x[0])), 4*len(x)) }

func put[T any](b []byte, at int, v T) {
	*(*T)(unsafe.Pointer(&b[at : at+int(unsafe.Sizeof(v))][0])) = v
}

// newIntegers draws operands and lays them out; largest draws the largest integers of the
// worst signs.
func (m *room) newIntegers(k kernel.Info, r *rand.Rand, depth, tiles int, largest bool, side guard.Side) *integers {
	p := &integers{rows: k.MR, tiles: tiles, depth: depth, ldc: tiles*kernel.Panel + 3}
	groups, columns := kernel.QuantGroups(depth), tiles*kernel.Panel
	lo, hi := -127, 127
	if k.Format == kernel.Int4 {
		lo, hi = -8, 7
	}
	draw := func(lo, hi int) int32 {
		if largest {
			return int32([2]int{lo, hi}[r.IntN(2)])
		}
		return int32(lo + r.IntN(hi-lo+1))
	}
	stride := kernel.LeftRow(depth)
	used := kernel.LeftHead + groups*kernel.LeftGroupBytes
	p.left = bytesOf(m.a.Floats(((p.rows-1)*stride+used)/4, side))
	for i := range p.rows {
		row, sum := make([]int32, depth), int32(0)
		at := i * stride
		for g := range groups {
			part := int32(0)
			group := at + kernel.LeftHead + g*kernel.LeftGroupBytes
			for j := range kernel.QuantGroup {
				v := int32(0)
				if n := g*kernel.QuantGroup + j; n < depth {
					v = draw(-127, 127)
					row[n] = v
				}
				part += v
				put(p.left, group+4+j, int8(v))
			}
			put(p.left, group, -8*part)
			sum += part
		}
		p.x, p.scale = append(p.x, row), append(p.scale, r.Float32()/100)
		put(p.left, at, p.scale[i])
		put(p.left, at+4, -128*sum)
	}
	f, _ := k.Format.Format()
	size := f.PanelBytes(kernel.Panel, depth)
	p.step = size + 64
	p.panels = bytesOf(m.b.Floats(((tiles-1)*p.step+size)/4, side))
	for c := range columns {
		w := make([]int32, groups*kernel.QuantGroup) // also of k beyond the depth, which no row has
		for n := range w {
			w[n] = draw(lo, hi)
		}
		p.w = append(p.w, w)
		panel, c := p.panels[c/kernel.Panel*p.step:], c%kernel.Panel
		if k.Format == kernel.Int8 {
			s := r.Float32() - 0.5
			p.scales = append(p.scales, []float32{s})
			for n, v := range w {
				put(panel, n/4*128+4*c+n%4, uint8(v+128))
			}
			put(panel, groups*1024+4*c, s)
			continue
		}
		var scales []float32
		for g := range groups {
			s := math.Float32frombits(math.Float32bits(r.Float32()-0.5) &^ 0xffff)
			scales = append(scales, s)
			group := panel[g*576:]
			for j := range 4 {
				for b := range 4 {
					low, high := w[32*g+8*j+b]+8, w[32*g+8*j+4+b]+8
					put(group, 128*j+4*c+b, uint8(low|high<<4))
				}
			}
			put(group, 512+2*c, uint16(math.Float32bits(s)>>16))
		}
		p.scales = append(p.scales, scales)
	}
	p.bias = normal(r, m.bias.Floats(columns, side), 1)
	p.residual = normal(r, m.residual.Floats((p.rows-1)*p.ldc+columns, side), 1)
	return p
}

// want is what a kernel leaves at row i and column j.
func (p *integers) want(format kernel.FormatName, i, j int) float32 {
	s := float32(0)
	for g, scale := range p.scales[j] {
		sum := int32(0)
		lo, hi := 0, p.depth
		if format == kernel.Int4 {
			lo, hi = g*kernel.QuantGroup, min(p.depth, (g+1)*kernel.QuantGroup)
		}
		for n := lo; n < hi; n++ {
			sum += p.x[i][n] * p.w[j][n]
		}
		if format == kernel.Int4 {
			s = bound.FMA(float32(sum), scale, s)
		} else {
			s = float32(float32(sum) * scale)
		}
	}
	s = float32(s * p.scale[i])
	if p.with&1 != 0 {
		s += p.bias[j]
	}
	if p.with&2 != 0 {
		s += p.residual[i*p.ldc+j]
	}
	return s
}

// checkIntegers runs a kernel of integers, whose results are those of the formats'
// definition, to the bit.
func (m *room) checkIntegers(k kernel.Info) error {
	r := rand.New(rand.NewPCG(6, 6))
	for _, depth := range []int{1, 31, 32, 33, 96, 200} {
		for _, tiles := range []int{1, 3} {
			for with := range 4 {
				for _, side := range guard.Sides {
					p := m.newIntegers(k, r, depth, tiles, with == 3, side)
					p.with = with
					c := m.c.Floats((p.rows-1)*p.ldc+tiles*kernel.Panel, side)
					seg := kernel.Segment{Len: depth}
					a := &kernel.Args{A: unsafe.Pointer(&p.left[kernel.LeftHead]), LDA: kernel.LeftRow(depth), B: unsafe.Pointer(&p.panels[0]), PanelStep: p.step,
						C: unsafe.Pointer(&c[0]), LDC: 4 * p.ldc, NTiles: tiles, Segs: unsafe.Pointer(&seg), NSegs: 1, KStep: 4, MR: k.MR, NR: k.NR}
					if with&1 != 0 {
						a.Bias = unsafe.Pointer(&p.bias[0])
					}
					if with&2 != 0 {
						a.Residual = unsafe.Pointer(&p.residual[0])
					}
					what := fmt.Sprintf("depth %d tiles %d options %02b, buffers that border on protected memory at the %v", depth, tiles, with, side)
					if err := guard.Catch(func() { k.Func(a) }); err != nil {
						return fmt.Errorf("%s: %w", what, err)
					}
					for at, got := range c {
						i, j := at/p.ldc, at%p.ldc
						if j >= tiles*kernel.Panel {
							if got == got {
								return fmt.Errorf("%s: row %d, column %d is written", what, i, j)
							}
							continue
						}
						if want := p.want(k.Format, i, j); math.Float32bits(got) != math.Float32bits(want) {
							return fmt.Errorf("%s: row %d, column %d is %v, want %v", what, i, j, got, want)
						}
					}
				}
			}
		}
	}
	return nil
}
