// Package quantize says in which format a model of few bits has each of its matrices, and
// how a file holds them.
package quantize

import (
	"fmt"
	"slices"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/quant"
)

// Formats are those that a model on disk may have beside float32.
var Formats = []kernel.FormatName{kernel.BF16, kernel.Int8, kernel.Int4}

// Parse is one of the formats, or an error that lists them.
func Parse(s string) (kernel.FormatName, error) {
	f := kernel.FormatName(s)
	if !slices.Contains(Formats, f) {
		return "", fmt.Errorf("%q is no format of few bits that models are written in; valid: %v", s, Formats)
	}
	return f, nil
}

// Param is a matrix of a model in a format.
type Param struct {
	spec.Param
	// Format is that of this matrix: the model's, or one of more bits, and why.
	Format          kernel.FormatName
	Why             string
	Blocks, Out, In int
	// Factor is the planned factor that the parameter is the weights of.
	Factor *plan.Factor
}

// Params lists the matrices of a model in a format, in the order of the spec: the factors
// of its linears, the head, and the embedding, which has the head's format.
func Params(m spec.Model, f kernel.FormatName) (ps []Param) {
	byName := map[string]Param{}
	each(m, f, func(name string, c *plan.Factor, why string) {
		byName[name] = Param{Format: c.Format, Why: why, Blocks: c.Factor.Blocks, Out: c.Factor.Out, In: c.Factor.In, Factor: c}
	})
	byName[model.Embedding] = byName["lm_head.weight"]
	for _, q := range m.Params() {
		if p, ok := byName[q.Name]; ok {
			p.Param = q
			ps = append(ps, p)
		}
	}
	return ps
}

// each calls visit with the factors of a model's linears, planned in a format.
func each(m spec.Model, f kernel.FormatName, visit func(name string, c *plan.Factor, why string)) {
	linear := func(name string, l plan.Layer) {
		for i := range l.Factors {
			c := &l.Factors[i]
			_, why := c.FormatIn(f)
			visit(name+c.Param, c, why)
		}
	}
	for i := range m.Layers {
		name := model.LayerName(i)
		linear(name+".qkv_linear.", plan.NewLayer(m.QKV()).In(f))
		linear(name+".o_linear.", plan.NewLayer(m.Output()).In(f))
		ffn := plan.NewFFNIn(m.LayerFFN(i), f)
		linear(name+".mlp.fc1.", ffn.FC1)
		linear(name+".mlp.fc2.", ffn.FC2)
	}
	head := &plan.NewLayer(m.Head()).In(plan.HeadFormat(f)).Factors[0]
	_, why := head.FormatIn(f)
	if why == "" && head.Format != f {
		why = plan.HeadWhy
	}
	visit("lm_head."+head.Param, head, why)
}

// Weights writes what a matrix stands for, in canonical order.
func (p *Param) Weights(dst []float32, m *quant.Matrix) {
	orders, row := p.Factor.Orders(), make([]float32, p.In)
	for r := range p.Blocks * p.Out {
		m.Weights(row, r)
		for k, c := range orders[r/p.Out] {
			dst[r*p.In+c] = row[k]
		}
	}
}

// fits says whether a matrix that came from elsewhere is what becomes of a parameter.
func (p *Param) fits(m *quant.Matrix) error {
	if err := m.Check(); err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	return nil
}
