// Package quantize says which of a model's weights become integers, and how a file holds
// them.
package quantize

import (
	"fmt"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/quant"
)

// Param is a parameter that becomes integers.
type Param struct {
	spec.Param
	Format          kernel.FormatName
	Blocks, Out, In int
	// Factor is the planned factor that the parameter is the weights of.
	Factor *plan.Factor
}

// Params lists what becomes integers of a model in a format, in the order of the spec:
// the large factors of its linears, the head, and the embedding, which rows are read of as
// they are.
func Params(m spec.Model, f kernel.FormatName) (ps []Param) {
	byName := map[string]Param{}
	each(m, f, func(name string, c *plan.Factor) {
		if c.Format.Quantized() {
			byName[name] = Param{Format: c.Format, Blocks: c.Factor.Blocks, Out: c.Factor.Out, In: c.Factor.In, Factor: c}
		}
	})
	if head, ok := byName["lm_head.weight"]; ok { // of an embedding the same is worth integers
		byName[model.Embedding] = head
	}
	for _, q := range m.Params() {
		if p, ok := byName[q.Name]; ok {
			p.Param = q
			ps = append(ps, p)
		}
	}
	return ps
}

// Halves are the names of the weights that run in bfloat16, which a file has them in.
func Halves(m spec.Model, f kernel.FormatName) map[string]bool {
	names := map[string]bool{}
	each(m, f, func(name string, c *plan.Factor) { names[name] = c.Format == kernel.BF16 })
	return names
}

// each calls visit with the factors of a model's linears, planned in a format.
func each(m spec.Model, f kernel.FormatName, visit func(name string, c *plan.Factor)) {
	linear := func(name string, l plan.Layer) {
		for i := range l.Factors {
			visit(name+l.Factors[i].Param, &l.Factors[i])
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
	linear("lm_head.", plan.NewLayer(m.Head()).In(plan.HeadFormat(f)))
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
