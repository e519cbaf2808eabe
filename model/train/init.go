package train

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"unicode"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/initial"
	"github.com/structuredffn/sffn/model/token"
	rt "github.com/structuredffn/sffn/runtime"
)

// beginning is a checkpoint that a run begins with.
type beginning struct {
	dir     string
	weights *checkpoint.Weights
	// dense says that the checkpoint has matrices where the run's model has factors,
	// which are its guides; what says it in words.
	dense bool
	what  string
}

// configureInit is the configuration of that name for a run that begins with a
// checkpoint, or that of the checkpoint.
func (r *Run) configureInit(name string) (*config.Config, error) {
	dir, err := checkpoint.Find(r.Init)
	if err != nil {
		return nil, fmt.Errorf("nothing to begin with: %w", err)
	}
	own, _, err := checkpoint.Describe(dir)
	if err != nil {
		return nil, err
	}
	if name == "" {
		return own.In(config.Edition)
	}
	return config.LoadFor(name, own)
}

// openInit looks whether the run may begin with the checkpoint, and opens it.
func (r *Run) openInit() (*beginning, error) {
	dir, err := checkpoint.Find(r.Init)
	if err != nil {
		return nil, fmt.Errorf("nothing to begin with: %w", err)
	}
	c, s, err := checkpoint.Describe(dir)
	if err != nil {
		return nil, err
	}
	if err := s.Trainable(dir); err != nil {
		return nil, err
	}
	b, want := &beginning{dir: dir, what: "without its moments"}, r.Config.Model
	if b.dense = want.Guided && want.Structured() && !c.Model.Structured(); b.dense {
		b.what = "whose feed-forward matrices are the guides"
		want.SetOwn(spec.Structure{Kind: spec.Dense})
		want.Except = ""
		if r.Config.Course().Guided == 0 {
			return nil, fmt.Errorf("guide: of %d steps none is guided, so that the matrices of %s go nowhere; raise max_step_ratio or steps", r.Config.Train.Steps, dir)
		}
	}
	if d := differences(c.Model, want); len(d) > 0 {
		return nil, fmt.Errorf("%s is another model than the configuration's: %s", dir, strings.Join(d, ", "))
	}
	switch tok := r.Data.Tokenizer; {
	case s.Tokenizer == "":
		if r.OnNote != nil {
			r.OnNote(fmt.Sprintf("warning: %s has no tokenizer, so that nothing says whether it knows the data's (%s)", dir, tok.Name()))
		}
	case s.TokenizerHash == "" && s.Tokenizer != tok.Name(), s.TokenizerHash != "" && s.TokenizerHash != token.HashText(tok):
		name := s.Tokenizer
		if s.TokenizerFile != "" {
			name = dir
		}
		return nil, fmt.Errorf("the data was made with the tokenizer %s (%s), %s with %s (%s); prepare it with that one: sffn prepare --tokenizer %s", tok.Name(), token.HashText(tok), dir, s.Tokenizer, s.TokenizerHash, name)
	}
	if err := checkpoint.Verify(dir, c); err != nil {
		return nil, err
	}
	b.weights, err = checkpoint.OpenWeights(dir)
	return b, err
}

// fill puts the checkpoint's weights in the place of those that the seed gave.
func (b *beginning) fill(p *model.Params, guide func(spec.Linear, [][]float64) []float64, pool *rt.Pool) error {
	m := p.Spec()
	factors := map[string]bool{} // that the checkpoint does not have
	var units []func()
	var errs []error
	for i := range m.Layers {
		f := m.LayerFFN(i)
		for name, l := range map[string]spec.Linear{"fc1": f.FC1(), "fc2": f.FC2()} {
			name = model.LayerName(i) + ".mlp." + name + "."
			if !l.Guide {
				continue
			}
			g := p.Get(name + l.GuideParam().Name)
			if !b.dense {
				units = append(units, func() { initial.Guide(p, name, l, guide) })
				continue
			}
			for _, f := range l.Chain() {
				factors[name+f.Param] = true
			}
			errs = append(errs, b.weights.Read(g, spec.Param{Name: name + "weight", Shape: []int{l.Out, l.In}}))
			units = append(units, func() { initial.FactorsOf(p, name, l) })
		}
	}
	for _, q := range p.List() {
		if !factors[q.Name] {
			errs = append(errs, b.weights.Read(p.Get(q.Name), q))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := p.Finite(); err != nil {
		return fmt.Errorf("%s: %w", b.dir, err)
	}
	pool.Run(len(units), func(_, i int) { units[i]() })
	return nil
}

// differences names what is not the same in two valid models, by the keys of a
// configuration: neither their names, nor how their weights were drawn, nor guides.
func differences(got, want spec.Model) (all []string) {
	for _, m := range []*spec.Model{&got, &want} {
		m.Name, m.InitStd, m.InitFanIn, m.Guided = "", 0, false, false
	}
	if got.Layers == want.Layers {
		for i := range got.Layers {
			if g, w := got.Structure(i), want.Structure(i); g != w {
				all = append(all, fmt.Sprintf("mlp: layer %d is %s, want %s", i, g.Text(), w.Text()))
				break
			}
		}
	}
	for _, m := range []*spec.Model{&got, &want} {
		m.SetOwn(spec.Structure{})
		m.Except = ""
	}
	g, w := reflect.ValueOf(got), reflect.ValueOf(want)
	for i := range g.NumField() {
		if g, w := g.Field(i).Interface(), w.Field(i).Interface(); g != w {
			all = append(all, fmt.Sprintf("%s is %v, want %v", key(reflect.TypeOf(got).Field(i).Name), g, w))
		}
	}
	return all
}

// key is the key of a field of the model: KVHeads is kv_heads.
func key(field string) string {
	var b strings.Builder
	rs := []rune(field)
	for i, r := range rs {
		if i > 0 && unicode.IsUpper(r) && (unicode.IsLower(rs[i-1]) || i+1 < len(rs) && unicode.IsLower(rs[i+1])) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
