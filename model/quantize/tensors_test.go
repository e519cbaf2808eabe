package quantize

import (
	"bytes"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/quant"
)

// param is the second factor of a layer whose inputs are not read in their order.
func param(f kernel.FormatName) *Param {
	l := plan.NewLayer(spec.Linear{Kind: spec.BlockShuffle, In: 132, Out: 264, Blocks: 2}).In(f)
	c := &l.Factors[1]
	return &Param{Param: spec.Param{Name: "w", Shape: c.Shape}, Format: c.Format, Blocks: c.Factor.Blocks, Out: c.Factor.Out, In: c.Factor.In, Factor: c}
}

func matrix(p *Param) *quant.Matrix {
	r := rand.New(rand.NewPCG(3, 1))
	m, row := quant.New(p.Format, p.Blocks, p.Out, p.In), make([]float32, p.In)
	for i := range m.Inputs {
		m.Inputs[i] = float32(math.Exp(r.NormFloat64()))
	}
	for i := range p.Blocks * p.Out {
		for k := range row {
			row[k] = float32(r.NormFloat64())
		}
		m.SetRow(i, row, nil)
	}
	return m
}

func file(t testing.TB, p *Param, m *quant.Matrix) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := safetensors.Write(&b, p.Values(func() (*quant.Matrix, error) { return m, nil }), nil); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func load(p *Param, b []byte) (*quant.Matrix, error) {
	f, err := safetensors.OpenFS(fstest.MapFS{"f": {Data: b}}, "f")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := p.Check(f); err != nil {
		return nil, err
	}
	return p.Load(f)
}

// What is read is what was written.
func TestTensors(t *testing.T) {
	for _, f := range []kernel.FormatName{kernel.Int8, kernel.Int4} {
		p := param(f)
		if !p.Format.Quantized() {
			t.Fatalf("%v is no matrix of integers", p.Shape)
		}
		want := matrix(p)
		got, err := load(p, file(t, p, want))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got.Values, want.Values) || !slices.Equal(got.Scales, want.Scales) || !slices.Equal(got.Inputs, want.Inputs) {
			t.Errorf("%s: other integers", f)
		}
	}
}

// Whatever a file holds, it is a matrix that can be multiplied, or an error.
func FuzzLoad(f *testing.F) {
	for _, format := range []kernel.FormatName{kernel.Int8, kernel.Int4} {
		p := param(format)
		b := file(f, p, matrix(p))
		f.Add(format == kernel.Int4, b)
		f.Add(format == kernel.Int8, b)
		f.Add(format == kernel.Int4, b[:len(b)/2])
		for _, at := range []int{9, 60, len(b) - 1, len(b) - 2000} {
			c := slices.Clone(b)
			c[at] ^= 0xff
			f.Add(format == kernel.Int4, c)
		}
	}
	f.Fuzz(func(t *testing.T, int4 bool, b []byte) {
		p := param(kernel.Int8)
		if int4 {
			p = param(kernel.Int4)
		}
		m, err := load(p, b)
		if err != nil {
			return
		}
		if err := m.Check(); err != nil || m.Blocks != p.Blocks || m.Out != p.Out || m.In != p.In || m.Format != p.Format {
			t.Errorf("%+v is taken: %v", m, err)
		}
	})
}
