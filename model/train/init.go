package train

import (
	"context"
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
	"github.com/structuredffn/sffn/model/project"
	"github.com/structuredffn/sffn/model/token"
	rt "github.com/structuredffn/sffn/runtime"
)

// beginning is a checkpoint that a run begins with.
type beginning struct {
	dir     string
	weights *checkpoint.Weights
	// dense says that the checkpoint has matrices where the run's model has factors.
	dense bool
	// guides have the matrices that are the run's guides: those weights, or others, or
	// none, where guides begin as the factors' product. what says it in words.
	guides *checkpoint.Weights
	what   string
}

func (b *beginning) close() {
	b.weights.Close()
	if b.guides != nil && b.guides != b.weights {
		b.guides.Close()
	}
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
		b.what = "whose feed-forward matrices are the guides, and their projections the factors"
		want.SetOwn(spec.Structure{Kind: spec.Dense})
		want.Except = ""
		if err := r.checkGuided(dir); err != nil {
			return nil, err
		}
	}
	if d := differences(c.Model, want); len(d) > 0 {
		hint := ""
		if !c.Model.Structured() && want.Structured() {
			hint = "; sffn convert makes a structured model of a dense one"
		}
		return nil, fmt.Errorf("%s is another model than the configuration's: %s%s", dir, strings.Join(d, ", "), hint)
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
	if err := r.takeBeside(dir, s); err != nil {
		return nil, err
	}
	if b.weights, err = checkpoint.OpenWeights(dir); err != nil {
		return nil, err
	}
	if b.dense {
		b.guides = b.weights
	}
	if r.Guides != "" {
		if err := r.openGuides(b); err != nil {
			b.close()
			return nil, fmt.Errorf("guides: %w", err)
		}
	}
	return b, nil
}

// checkGuided looks whether the run has steps that use the guides of a folder.
func (r *Run) checkGuided(dir string) error {
	if r.Config.Course().Guided == 0 {
		return fmt.Errorf("guide: of %d steps none is guided, so that the matrices of %s go nowhere; raise max_step_ratio or steps", r.Config.Train.Steps, dir)
	}
	return nil
}

// openGuides opens the dense model whose feed-forward matrices are the guides of a run
// that begins with a structured one.
func (r *Run) openGuides(b *beginning) error {
	dir, err := checkpoint.Find(r.Guides)
	if err != nil {
		return err
	}
	c, _, err := checkpoint.Describe(dir)
	if err != nil {
		return err
	}
	m := r.Config.Model
	switch {
	case b.dense:
		return fmt.Errorf("%s is dense, and its own matrices are the guides: want --init of a structured model", b.dir)
	case !m.Guided:
		return errors.New("the configuration says nothing of guides; want guide: {} in its section train")
	}
	if err := r.checkGuided(dir); err != nil {
		return err
	}
	for i := range m.Layers {
		f := m.LayerFFN(i)
		if f.Kind == spec.Dense {
			continue
		}
		if i >= c.Model.Layers {
			return fmt.Errorf("%s has no layer %d, only %d layers", dir, i, c.Model.Layers)
		}
		d := c.Model.LayerFFN(i)
		if d.Kind != spec.Dense {
			return fmt.Errorf("layer %d of %s is %s, want dense: its matrices are the guides", i, dir, c.Model.Structure(i).Text())
		}
		if d.Hidden != f.Hidden || d.FFN != f.FFN || d.Act != f.Act {
			return fmt.Errorf("layer %d of %s has the widths %d and %d (%s), the run's model %d and %d (%s)", i, dir, d.Hidden, d.FFN, d.Act, f.Hidden, f.FFN, f.Act)
		}
	}
	if err := checkpoint.Verify(dir, c); err != nil {
		return err
	}
	b.guides, err = checkpoint.OpenWeights(dir)
	b.what += "; the feed-forward matrices of " + dir + " are the guides"
	return err
}

// takeBeside gives the run the files beside a checkpoint's tokenizer, where it has some:
// the data's tokenizer is the same, and its own files stay where there are none.
func (r *Run) takeBeside(dir string, s checkpoint.State) error {
	files, err := checkpoint.Beside(dir, s)
	if err == nil && len(files) > 0 {
		r.tokenizer = token.With(r.Data.Tokenizer, files)
	}
	return err
}

// fill puts the checkpoint's weights in the place of those that the seed gave.
func (b *beginning) fill(ctx context.Context, p *model.Params, guide func(spec.Linear, [][]float64) []float64, opt rt.Options) error {
	m := p.Spec()
	factors := map[string]bool{} // that the checkpoint does not have
	var units []func()
	var projections []func() error
	var errs []error
	for i := range m.Layers {
		f := m.LayerFFN(i)
		for name, l := range map[string]spec.Linear{"fc1": f.FC1(), "fc2": f.FC2()} {
			if !l.Guide {
				continue
			}
			where := fmt.Sprintf("layer %d: %s", i, name)
			name = model.LayerName(i) + ".mlp." + name + "."
			if b.guides == nil {
				units = append(units, func() { initial.Guide(p, name, l, guide) })
				continue
			}
			g := p.Get(name + l.GuideParam().Name)
			if err := b.guides.Read(g, spec.Param{Name: name + "weight", Shape: []int{l.Out, l.In}}); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", where, err))
			}
			if !b.dense {
				continue
			}
			for _, f := range l.Chain() {
				factors[name+f.Param] = true
			}
			projections = append(projections, func() error {
				if err := projected(ctx, p, name, l, opt); err != nil {
					return fmt.Errorf("%s: %w", where, err)
				}
				return nil
			})
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
	opt.Pool.Run(len(units), func(_, i int) { units[i]() })
	for _, f := range projections {
		if err := f(); err != nil {
			return err
		}
	}
	return nil
}

// projected makes the factors of a layer those that are nearest to its guide.
func projected(ctx context.Context, p *model.Params, prefix string, l spec.Linear, opt rt.Options) error {
	var dense []float64
	for _, v := range p.Get(prefix + l.GuideParam().Name) {
		dense = append(dense, float64(v))
	}
	nearest, err := project.Project(ctx, l, dense, project.Goal{}, opt)
	if err != nil {
		return err
	}
	for i, f := range l.Chain() {
		to := p.Get(prefix + f.Param)
		for n, v := range nearest.Factors[i] {
			to[n] = float32(v)
		}
	}
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
