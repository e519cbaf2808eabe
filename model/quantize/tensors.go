package quantize

import (
	"encoding/binary"
	"fmt"
	"math"
	"unsafe"

	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/quant"
	"github.com/structuredffn/sffn/runtime/vec"
)

// A matrix of bfloat16 is one tensor of BF16, one that stays float32 of F32. One of integers
// is three tensors of a file: NAME, the integers, [blocks*out, in]
// of I8, or [blocks*out, in/2] of U8 whose halves hold two integers plus 8, the lower half
// first; NAME.scales, [blocks*out] of F32, or [blocks*out, groups of 32 inputs] of BF16;
// and NAME.inputs, [blocks, in] of F32, what inputs are multiplied by. Inputs are in the
// order in which products read them: that of the plan.
const (
	scalesOf = ".scales"
	inputsOf = ".inputs"
)

// tensor is one of them.
type tensor struct {
	name, dtype string
	shape       []int
}

func (p *Param) tensors() []tensor {
	rows := p.Blocks * p.Out
	inputs := tensor{p.Name + inputsOf, "F32", []int{p.Blocks, p.In}}
	switch p.Format {
	case kernel.Int8:
		return []tensor{{p.Name, "I8", []int{rows, p.In}}, {p.Name + scalesOf, "F32", []int{rows}}, inputs}
	case kernel.Int4:
		return []tensor{{p.Name, "U8", []int{rows, (p.In + 1) / 2}}, {p.Name + scalesOf, "BF16", []int{rows, quant.Groups(p.Format, p.In)}}, inputs}
	case kernel.BF16:
		return []tensor{{p.Name, "BF16", p.Shape}}
	}
	return []tensor{{p.Name, "F32", p.Shape}}
}

// Bytes is the size of the matrix in a file.
func (p *Param) Bytes() (n int64) {
	for _, t := range p.tensors() {
		n += safetensors.Value{Shape: t.shape, DType: t.dtype}.Bytes()
	}
	return n
}

// Check says what of a file's header is not what the tensors of integers are, and counts
// them.
func (p *Param) Check(f *safetensors.File) (n int, err error) {
	ts := p.tensors()
	for _, t := range ts {
		if err := f.Expect(t.name, t.dtype, t.shape); err != nil {
			return 0, err
		}
	}
	return len(ts), nil
}

// Values are the tensors of integers, to be written; matrix is called once, when the first
// one's turn comes.
func (p *Param) Values(matrix func() (*quant.Matrix, error)) (vs []safetensors.Value) {
	ts := p.tensors()
	var m *quant.Matrix
	bytes := [3]func() ([]byte, error){
		func() (b []byte, err error) {
			if m, err = matrix(); err != nil {
				return nil, err
			}
			return p.packed(m), nil
		},
		func() ([]byte, error) {
			if p.Format == kernel.Int8 {
				return floatBytes(m.Scales), nil
			}
			var b []byte
			for _, s := range m.Scales {
				b = binary.LittleEndian.AppendUint16(b, uint16(math.Float32bits(s)>>16))
			}
			return b, nil
		},
		func() ([]byte, error) {
			b := floatBytes(m.Inputs)
			m = nil
			return b, nil
		},
	}
	for i, t := range ts {
		vs = append(vs, safetensors.Value{Name: t.name, Shape: t.shape, DType: t.dtype, Raw: bytes[i]})
	}
	return vs
}

// Rounded is the tensor of a matrix of bfloat16, to be written; matrix gives it when its turn
// comes. Entries are rounded as they are when weights are packed: to nearest, ties to even,
// subnormal numbers to zero.
func (p *Param) Rounded(matrix func() ([]float32, error)) safetensors.Value {
	t := p.tensors()[0]
	return safetensors.Value{Name: t.name, Shape: t.shape, DType: t.dtype, Raw: func() ([]byte, error) {
		x, err := matrix()
		if err != nil {
			return nil, err
		}
		b := make([]byte, 0, 2*len(x))
		for i, v := range x {
			h := vec.BF16(v)
			if h&0x7fff >= 0x7f80 {
				return nil, fmt.Errorf("%s: entry %d is %v, which bfloat16 has no number for", p.Name, i, v)
			}
			b = binary.LittleEndian.AppendUint16(b, h)
		}
		return b, nil
	}}
}

// packed are the integers as bytes.
func (p *Param) packed(m *quant.Matrix) []byte {
	if p.Format == kernel.Int8 {
		return unsafe.Slice((*byte)(unsafe.Pointer(&m.Values[0])), len(m.Values))
	}
	half := (p.In + 1) / 2
	b := make([]byte, p.Blocks*p.Out*half)
	for r := range p.Blocks * p.Out {
		values, _ := m.Row(r)
		for k, v := range values {
			b[r*half+k/2] |= byte(v+8) << (k % 2 * 4)
		}
	}
	return b
}

// Load reads the tensors of integers from a file.
func (p *Param) Load(f *safetensors.File) (*quant.Matrix, error) {
	ts := p.tensors()
	var b [3][]byte
	for i, t := range ts {
		var err error
		if b[i], err = f.Bytes(t.name, t.dtype, t.shape); err != nil {
			return nil, err
		}
	}
	m := &quant.Matrix{Format: p.Format, Blocks: p.Blocks, Out: p.Out, In: p.In, Inputs: floats(b[2])}
	if p.Format == kernel.Int8 {
		m.Values, m.Scales = unsafe.Slice((*int8)(unsafe.Pointer(&b[0][0])), len(b[0])), floats(b[1])
	} else {
		half := (p.In + 1) / 2
		m.Values, m.Scales = make([]int8, p.Blocks*p.Out*p.In), make([]float32, len(b[1])/2)
		for r := range p.Blocks * p.Out {
			values, _ := m.Row(r)
			for k := range values {
				values[k] = int8(b[0][r*half+k/2]>>(k%2*4)&15) - 8
			}
		}
		for i := range m.Scales {
			m.Scales[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(b[1][2*i:])) << 16)
		}
	}
	return m, p.fits(m)
}

// floatBytes views x as bytes: the format is little-endian, and so is every architecture
// that the project builds for.
func floatBytes(x []float32) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(&x[0])), 4*len(x)) }

func floats(b []byte) []float32 {
	x := make([]float32, len(b)/4)
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
	}
	return x
}
