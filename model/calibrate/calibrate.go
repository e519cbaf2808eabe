// Package calibrate makes a model of few bits of one of float32: each weight the nearest
// number, or, of integers and with text, so that the outputs of each linear on it err least;
// and writes it as a checkpoint.
package calibrate

import (
	"context"
	"fmt"
	"math"
	"slices"

	"gonum.org/v1/gonum/floats"
	"gonum.org/v1/gonum/mat"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/convert"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/model/project"
	"github.com/structuredffn/sffn/model/quantize"
	"github.com/structuredffn/sffn/model/safetensors"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
	"github.com/structuredffn/sffn/runtime/quant"
	"github.com/structuredffn/sffn/runtime/vec"
)

// Quantization makes a model of few bits.
type Quantization struct {
	From   *decode.Checkpoint
	Format kernel.FormatName
	// Calibration is nil where the weights alone are looked at, as those of bfloat16 are; of
	// it, text and the length of its sequences count.
	Calibration *convert.Calibration
	// Options say how; results do not depend on the threads.
	Options rt.Options
	// Progress, where not nil, is told how many layers are done.
	Progress func(done int)
}

// Report says what has been made.
type Report struct {
	From   string            `json:"from"`
	Out    string            `json:"out"`
	Format kernel.FormatName `json:"format"`
	// Bytes are those of the file of weights, Before what they were.
	Bytes  int64 `json:"bytes"`
	Before int64 `json:"bytes_before"`
	// Params are the matrices, Formats sums of all parameters by format.
	Params  []ParamReport  `json:"params"`
	Formats []FormatReport `json:"formats"`
}

// FormatReport is that of the parameters in a format.
type FormatReport struct {
	Format  kernel.FormatName `json:"format"`
	Params  int               `json:"params"`
	Entries int64             `json:"entries"`
	Bytes   int64             `json:"bytes"`
}

// ParamReport is that of a matrix.
type ParamReport struct {
	Name string `json:"name"`
	// Format is the one that was asked for, or one of more bits: Why says why, and More
	// how many bytes that takes more.
	Format  kernel.FormatName `json:"format"`
	Why     string            `json:"more_bits,omitempty"`
	More    int64             `json:"more_bytes,omitempty"`
	Entries int64             `json:"entries"`
	Bytes   int64             `json:"bytes"`
	// Weights is the relative error of the weights; Nearest and Outputs those of what they
	// give on the calibration's text, with the nearest integers and with those that were
	// chosen: in roots of mean squares. The last two are nil where there was no text, and of
	// what is not integers.
	Weights float64  `json:"weight_error"`
	Nearest *float64 `json:"nearest_output_error,omitempty"`
	Outputs *float64 `json:"output_error,omitempty"`
}

// Begin looks at what is asked for: it says how many layers there are.
func (z *Quantization) Begin(run string) (layers int, err error) {
	if err := z.From.State.Trainable(z.From.Dir); err != nil {
		return 0, err
	}
	if _, err := quantize.Parse(string(z.Format)); err != nil {
		return 0, fmt.Errorf("format: %w", err)
	}
	m := z.From.Config.Model
	integers := slices.ContainsFunc(quantize.Params(m, z.Format), func(p quantize.Param) bool { return p.Format.Quantized() })
	if z.Format.Quantized() && !integers {
		return 0, fmt.Errorf("no matrix of %s is large enough for integers, which is from %d inputs and outputs of a block on", z.From.Dir, plan.MinQuant)
	}
	if c := z.Calibration; c != nil {
		if !integers {
			return 0, fmt.Errorf("%s is not calibrated: the nearest number of 8 significant bits is near enough, and text would choose no other; calibration is for integers", z.Format)
		}
		if err := c.Check(m); err != nil {
			return 0, err
		}
	}
	return m.Layers, checkpoint.Vacant(run)
}

// work is a quantisation under way.
type work struct {
	*Quantization
	ctx      context.Context
	m        spec.Model
	weights  *checkpoint.Weights
	params   map[string]quantize.Param // that become integers
	matrices map[string]*quant.Matrix
	reports  map[string]ParamReport
}

// Run quantises the model and writes it as a checkpoint of step 0 into the folder of the
// run, after Begin. With a calibration it holds the model, one row of each token's hidden
// width and the moments of one layer's inputs beside the integers.
func (z *Quantization) Run(ctx context.Context, run string) (*Report, error) {
	w, err := checkpoint.OpenWeights(z.From.Dir)
	if err != nil {
		return nil, err
	}
	defer w.Close()
	k := &work{Quantization: z, ctx: ctx, m: z.From.Config.Model, weights: w, params: map[string]quantize.Param{}, matrices: map[string]*quant.Matrix{}, reports: map[string]ParamReport{}}
	all := quantize.Params(k.m, z.Format)
	for _, p := range all {
		if p.Format.Quantized() {
			k.params[p.Name] = p
		}
	}
	var text *convert.Stream
	if z.Calibration != nil {
		m, err := z.From.Load(z.Options)
		if err != nil {
			return nil, err
		}
		defer m.Close()
		if text, err = convert.NewStream(m, z.Calibration); err != nil {
			return nil, err
		}
		defer text.Close()
	}
	for i := range k.m.Layers {
		if err := k.layer(i, text); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		if z.Progress != nil {
			z.Progress(i + 1)
		}
	}
	for name, gains := range map[string]string{"lm_head.weight": "model.ln_f", model.Embedding: ""} {
		if k.m.TieEmbeddings {
			gains = "model.ln_f"
		}
		if p, ok := k.params[name]; ok {
			if err := k.nearest(p, gains); err != nil {
				return nil, err
			}
		}
	}
	return k.save(run, all)
}

// read reads a parameter, whose entries have to be finite.
func (k *work) read(name string, size int, shape []int) ([]float32, error) {
	x := make([]float32, size)
	if err := k.weights.Read(x, spec.Param{Name: name, Shape: shape}); err != nil {
		return nil, err
	}
	return x, model.Finite(name, x)
}

// sizes are about how large the entries are that a norm gives.
func (k *work) sizes(norm string) ([]float32, error) {
	s, err := k.read(norm+".weight", k.m.Hidden, []int{k.m.Hidden})
	if err != nil {
		return nil, err
	}
	var bias []float32
	if k.m.Norm == spec.LayerNorm {
		if bias, err = k.read(norm+".bias", k.m.Hidden, []int{k.m.Hidden}); err != nil {
			return nil, err
		}
	}
	return model.NormSizes(s, bias), nil
}

// nearest makes a parameter the nearest integers; gains is the norm that its inputs come
// from, or "".
func (k *work) nearest(p quantize.Param, gains string) (err error) {
	w, err := k.read(p.Name, p.Size(), p.Shape)
	if err != nil {
		return err
	}
	var sizes []float32
	if gains != "" {
		if sizes, err = k.sizes(gains); err != nil {
			return err
		}
	}
	m := rt.Quantize(p.Factor, w, sizes, k.Options.Pool)
	k.done(p, w, m, nil)
	return nil
}

// done keeps a matrix, and reports on it.
func (k *work) done(p quantize.Param, w []float32, m *quant.Matrix, outputs *[2]float64) {
	back := make([]float32, len(w))
	p.Weights(back, m)
	r := ParamReport{Weights: off(w, func(i int) float32 { return back[i] })}
	if outputs != nil {
		r.Nearest, r.Outputs = &outputs[0], &outputs[1]
	}
	k.matrices[p.Name], k.reports[p.Name] = m, r
}

// off is the relative error of what became of the entries of w.
func off(w []float32, of func(i int) float32) float64 {
	var lost, all float64
	for i, v := range w {
		d := float64(v) - float64(of(i))
		lost, all = lost+d*d, all+float64(v)*float64(v)
	}
	return ratio(lost, all)
}

func ratio(lost, all float64) float64 {
	if all == 0 {
		return 0
	}
	return math.Sqrt(lost / all)
}

// layer quantises a layer. text, where not nil, stands before it, and passes it.
func (k *work) layer(i int, text *convert.Stream) error {
	name := model.LayerName(i)
	ffn := k.m.LayerFFN(i)
	linears := []struct {
		prefix, gains string
		spec          spec.Linear
	}{{name + ".qkv_linear.", name + ".ln1", k.m.QKV()}, {name + ".o_linear.", "", k.m.Output()}, {name + ".mlp.fc1.", name + ".ln2", ffn.FC1()}, {name + ".mlp.fc2.", "", ffn.FC2()}}
	if text == nil {
		for _, l := range linears {
			for j, c := range l.spec.Chain() {
				gains := l.gains
				if j > 0 {
					gains = ""
				}
				if p, ok := k.params[l.prefix+c.Param]; ok {
					if err := k.nearest(p, gains); err != nil {
						return err
					}
				}
			}
		}
		return nil
	}
	opt := k.Options
	opt.Format = kernel.F32
	var chains []*chain
	defer func() {
		for _, c := range chains {
			c.close()
		}
	}()
	return model.WithNetwork(k.m, i, k.weights.Read, func(w rt.FFNWeights) error {
		for _, l := range linears {
			c, err := k.newChain(l.prefix, l.gains, l.spec, text.Rows(), opt)
			if c != nil {
				chains = append(chains, c)
			}
			if err != nil {
				return err
			}
		}
		net, err := rt.NewFFN(ffn, w, opt)
		if err != nil {
			return err
		}
		defer net.Close()
		ws := text.Workspace()
		var hidden []float32
		err = text.Mix(k.ctx, i, func(a *model.Activations, rows int) error {
			chains[0].add(a.Norm1, rows, ws)
			chains[1].add(a.Attn, rows, ws)
			pre := chains[2].add(a.Norm2, rows, ws)
			if n := rows * ffn.FFN; len(hidden) < n {
				hidden = make([]float32, n)
			}
			k.Options.Pool.Run(rows, func(_, r int) {
				columns := ffn.FC1().Out
				text.Activate(kernel.Epilogue(ffn.Act), hidden[r*ffn.FFN:(r+1)*ffn.FFN], pre[r*columns:(r+1)*columns], ffn.FFN)
			})
			chains[3].add(hidden, rows, ws)
			return nil
		})
		if err != nil {
			return err
		}
		for _, c := range chains {
			if err := c.solve(text.Tokens()); err != nil {
				return err
			}
		}
		return text.Advance(k.ctx, net)
	})
}

// chain is a linear on the calibration's text: for each of its factors that becomes
// integers the moments of what its blocks read.
type chain struct {
	k       *work
	linear  *rt.Linear
	factors []rt.Factor
	links   []link
	rows    [][]float32 // of each factor's results
	columns int
}

// link is a factor: its parameter, its weights, the places of the inputs of each block in
// a row that the factor reads, in the order of products, and their moments.
type link struct {
	param   quantize.Param
	used    bool
	weights []float32
	sizes   []float32 // of inputs that a norm gives, else nil
	places  [][]int
	grams   []*convert.Gram
}

func (k *work) newChain(prefix, gains string, l spec.Linear, rows int, opt rt.Options) (*chain, error) {
	c := &chain{k: k, columns: l.Out}
	var w rt.Weights
	planned := plan.NewLayer(l)
	for i, f := range l.Chain() {
		x, err := k.read(prefix+f.Param, f.Weights(), f.Shape)
		if err != nil {
			return nil, err
		}
		w.Factors = append(w.Factors, x)
		n := link{weights: x}
		if i == 0 && gains != "" {
			if n.sizes, err = k.sizes(gains); err != nil {
				return nil, err
			}
		}
		if n.param, n.used = k.params[prefix+f.Param]; n.used {
			orders := n.param.Factor.Orders()
			for b, block := range planned.Factors[i].Blocks {
				store := make([]int, f.In)
				for _, s := range block.In {
					for j := range s.Canon.Len {
						store[s.Canon.At(j)] = s.Store.At(j)
					}
				}
				at := make([]int, f.In)
				for j, canon := range orders[b] {
					at[j] = store[canon]
				}
				n.places = append(n.places, at)
			}
		}
		c.links = append(c.links, n)
	}
	if l.Bias {
		var err error
		if w.Bias, err = k.read(prefix+"bias", l.Out, []int{l.Out}); err != nil {
			return nil, err
		}
	}
	var err error
	if c.linear, err = rt.NewLinear(l, w, opt); err != nil {
		return nil, err
	}
	c.factors = c.linear.Factors()
	for i := range c.links {
		n := &c.links[i]
		for range n.places {
			g, err := convert.NewGram(n.param.In, rows, opt)
			if err != nil {
				return c, err
			}
			n.grams = append(n.grams, g)
		}
	}
	return c, nil
}

func (c *chain) close() {
	if c.linear != nil {
		c.linear.Close()
	}
	for _, n := range c.links {
		for _, g := range n.grams {
			g.Close()
		}
	}
}

// add adds up the moments of rows of the linear's inputs, and returns its outputs.
func (c *chain) add(x []float32, rows int, ws *rt.Workspace) []float32 {
	if c.rows == nil {
		c.rows = make([][]float32, len(c.factors))
	}
	for i, f := range c.factors {
		in, out, _ := f.Widths()
		n := &c.links[i]
		for b, at := range n.places {
			part := make([]float32, rows*len(at))
			for r := range rows {
				row, to := x[r*in:(r+1)*in], part[r*len(at):(r+1)*len(at)]
				for j, s := range at {
					to[j] = row[s]
				}
			}
			n.grams[b].Add(part, rows, ws)
		}
		if len(c.rows[i]) < rows*out {
			c.rows[i] = make([]float32, rows*out)
		}
		f.Forward(c.rows[i][:rows*out], x, rows, ws)
		x = c.rows[i][:rows*out]
	}
	return x
}

// solve makes integers of the factors.
func (c *chain) solve(tokens int) error {
	for i := range c.links {
		n := &c.links[i]
		if !n.used {
			continue
		}
		if err := c.k.ctx.Err(); err != nil {
			return err
		}
		m, outputs, err := feedback(&n.param, n.weights, n.sizes, n.grams, tokens, c.k.Options.Pool)
		if err != nil {
			return fmt.Errorf("%s: %w", n.param.Name, err)
		}
		c.k.done(n.param, n.weights, m, &outputs)
	}
	return nil
}

// ridge is what is added to the diagonal of moments, relative to its mean: directions that
// the text hardly has are no excuse for large errors.
const ridge = 0.01

// feedback makes integers of a factor's weights input by input, and lets those inputs that
// are left make up for the error of each, as far as the moments say that they go together
// (Frantar et al. 2023, arXiv 2210.17323). Inputs are scaled by what the norm before them
// makes of them, and not by the text's: channels that are seldom large are large then, and
// take the bits of a row of activations. outputs are the relative errors with the nearest
// integers and with these.
func feedback(p *quantize.Param, w, sizes []float32, grams []*convert.Gram, tokens int, pool *rt.Pool) (m *quant.Matrix, outputs [2]float64, err error) {
	orders := p.Factor.Orders()
	m = quant.New(p.Format, p.Blocks, p.Out, p.In)
	near := quant.New(p.Format, p.Blocks, p.Out, p.In)
	var lost, lostNear, all float64
	for b, order := range orders {
		moments, err := project.NewMoments(grams[b].Take(), p.In, tokens)
		if err != nil {
			return nil, outputs, err
		}
		c := moments.Matrix()
		if sizes != nil {
			rt.Equalize(m, w, b, order, quant.Ordered(sizes[b*p.In:(b+1)*p.In], order))
		}
		inputs := m.Inputs[b*p.In : (b+1)*p.In]
		copy(near.Inputs[b*p.In:(b+1)*p.In], inputs)
		upper, err := conditional(c, inputs)
		if err != nil {
			return nil, outputs, err
		}
		weight := make([]float32, p.In)
		for i := range weight {
			weight[i] = float32(1 / (upper.At(i, i) * upper.At(i, i)))
		}
		pool.Run(p.Out, func(_, o int) {
			r := b*p.Out + o
			row := quant.Ordered(w[r*p.In:(r+1)*p.In], order)
			near.SetRow(r, row, nil)
			m.SetRowFeedback(r, row, weight, func(i int) []float64 { return upper.RawRowView(i) })
		})
		// Errors of rows, in the order of products.
		e, n, x := mat.NewDense(p.Out, p.In, nil), mat.NewDense(p.Out, p.In, nil), mat.NewDense(p.Out, p.In, nil)
		back := make([]float32, p.In)
		for o := range p.Out {
			r := b*p.Out + o
			row := quant.Ordered(w[r*p.In:(r+1)*p.In], order)
			for _, d := range []struct {
				m  *quant.Matrix
				to *mat.Dense
			}{{m, e}, {near, n}} {
				d.m.Weights(back, r)
				for i, v := range row {
					d.to.Set(o, i, float64(v)-float64(back[i]))
				}
			}
			for i, v := range row {
				x.Set(o, i, float64(v))
			}
		}
		lost, lostNear, all = lost+square(e, c), lostNear+square(n, c), all+square(x, c)
	}
	return m, [2]float64{ratio(lostNear, all), ratio(lost, all)}, nil
}

// square is the expected square of the outputs of rows of weights, whose inputs have these
// moments.
func square(w, moments *mat.Dense) (sum float64) {
	var y mat.Dense
	y.Mul(w, moments)
	rows, _ := w.Dims()
	for r := range rows {
		sum += floats.Dot(y.RawRowView(r), w.RawRowView(r))
	}
	return sum
}

// conditional is the upper Cholesky factor of the inverse of the moments of scaled inputs:
// entry (i,i) is the inverse deviation of input i where those before it are given up, and
// (i,j) over it how input j makes up for an error of i.
func conditional(c *mat.Dense, inputs []float32) (*mat.Dense, error) {
	n := len(inputs)
	s := mat.NewSymDense(n, nil)
	mean := 0.0
	for i := range n {
		for j := i; j < n; j++ {
			s.SetSym(i, j, c.At(i, j)*float64(inputs[i])*float64(inputs[j]))
		}
		mean += s.At(i, i) / float64(n)
	}
	for more := ridge * mean; more <= 100*mean; more *= 10 {
		for i := range n {
			s.SetSym(i, i, s.At(i, i)+more)
		}
		var chol, inverse mat.Cholesky
		if !chol.Factorize(s) {
			continue
		}
		var inv mat.SymDense
		if chol.InverseTo(&inv) != nil || !inverse.Factorize(&inv) {
			continue
		}
		var u mat.TriDense
		inverse.UTo(&u)
		return mat.DenseCopyOf(&u), nil
	}
	return nil, fmt.Errorf("the moments of %d inputs have no inverse", n)
}

// save writes the checkpoint; what has not become integers goes through a tensor at a time.
func (k *work) save(run string, all []quantize.Param) (*Report, error) {
	r := &Report{From: k.From.Dir, Format: k.Format}
	matrices := map[string]quantize.Param{}
	for _, p := range all {
		matrices[p.Name] = p
	}
	var values []safetensors.Value
	for _, q := range k.m.Params() {
		p, matrix := matrices[q.Name]
		if !matrix {
			p = quantize.Param{Param: q, Format: kernel.F32}
		}
		report := k.reports[q.Name]
		report.Name, report.Format, report.Why, report.Entries, report.Bytes = p.Name, p.Format, p.Why, int64(q.Size()), p.Bytes()
		if p.Why != "" {
			asked := p
			asked.Format = k.Format
			report.More = p.Bytes() - asked.Bytes()
		}
		k.reports[q.Name] = report
		read := func() ([]float32, error) { return k.read(q.Name, q.Size(), q.Shape) }
		switch {
		case p.Format.Quantized():
			values = append(values, p.Values(func() (*quant.Matrix, error) { return k.matrices[q.Name], nil })...)
		case p.Format == kernel.BF16:
			values = append(values, p.Rounded(func() ([]float32, error) {
				x, err := read()
				report.Weights = off(x, func(i int) float32 { return vec.FromBF16(vec.BF16(x[i])) })
				k.reports[q.Name] = report
				return x, err
			}))
		default:
			values = append(values, safetensors.Value{Name: q.Name, Shape: q.Shape, Stream: func(write func([]float32) error) error {
				x, err := read()
				if err != nil {
					return err
				}
				return write(x)
			}})
		}
		r.add(report)
	}
	state := k.From.State
	s := checkpoint.State{Name: state.Name + "-" + string(k.Format), Edition: state.Edition, Steps: max(1, state.Steps), Weights: k.Format}
	var err error
	r.Out, err = checkpoint.SaveWeights(run, k.From.Config.Source, s, k.From.Tokenizer, values)
	for _, p := range all {
		r.Params = append(r.Params, k.reports[p.Name])
	}
	return r, err
}

// add counts a parameter.
func (r *Report) add(p ParamReport) {
	r.Bytes, r.Before = r.Bytes+p.Bytes, r.Before+kernel.EntryBytes*p.Entries
	i := slices.IndexFunc(r.Formats, func(f FormatReport) bool { return f.Format == p.Format })
	if i < 0 {
		i = len(r.Formats)
		r.Formats = append(r.Formats, FormatReport{Format: p.Format})
	}
	f := &r.Formats[i]
	f.Params, f.Entries, f.Bytes = f.Params+1, f.Entries+p.Entries, f.Bytes+p.Bytes
}
