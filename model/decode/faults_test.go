package decode

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/f64ref"
	"github.com/structuredffn/sffn/internal/modeltest"
	"github.com/structuredffn/sffn/model"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// subject is a decoder of a loaded model, with what float64 gives for the tokens
// that it is fed.
type subject struct {
	m      *Model
	d      *Decoder
	params *model.Params
	ids    []int32
	logits []float64
}

func newSubject(t *testing.T, s spec.Model, isa kernel.ISA) *subject {
	t.Helper()
	r := rand.New(rand.NewPCG(3, 3))
	p := model.NewParams(s)
	t.Cleanup(p.Close)
	ref := &f64ref.Model{Model: s, Get: func(name string) (wide []float64) {
		for _, v := range p.Get(name) {
			wide = append(wide, float64(v))
		}
		return wide
	}}
	for _, q := range p.List() {
		x := p.Get(q.Name)
		for i := range x {
			x[i] = float32(0.3 * r.NormFloat64())
			if len(q.Shape) == 1 {
				x[i]++ // norms, and biases that count
			}
		}
	}
	u := &subject{params: p, ids: modeltest.Tokens(r, 41, s.Vocab)} // two chunks of rows
	u.logits = ref.Logits(u.ids)
	pool := rt.NewPool(2)
	t.Cleanup(pool.Close)
	var err error
	if u.m, err = Load(s, p.Read, rt.Options{ISA: isa, Pool: pool}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { u.m.Close() })
	// The packs are the weights: what becomes of these is nothing to the model.
	for i := range p.Data {
		p.Data[i] *= 1.5
	}
	if u.d, err = u.m.NewDecoder(2, len(u.ids)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.d.Close)
	for i := range u.d.act.X { // what nobody writes is noticed
		u.d.act.X[i], u.d.act.Norm1[i] = float32(math.NaN()), float32(math.NaN())
	}
	return u
}

// check feeds a prompt and then token by token.
func (u *subject) check() error {
	n, v := len(u.ids), u.m.Spec.Vocab
	for at := 0; at < n; {
		k := 1
		if at == 0 {
			k = n - 5
		}
		got, err := u.d.Feed([]int{1}, [][]int32{u.ids[at : at+k]})
		if err != nil {
			return err
		}
		at += k
		want := u.logits[(at-1)*v : at*v]
		largest := 0.0
		for _, w := range want {
			largest = max(largest, math.Abs(w))
		}
		for i, w := range want { // a thousand roundings of the largest entry
			if !(math.Abs(float64(got[i])-w) <= 1000*0x1p-24*largest) {
				return fmt.Errorf("token %d: logit %d is %v, want %v", at, i, got[i], w)
			}
		}
	}
	return nil
}

// subjects are forms of models whose layers are alike.
func subjects() []spec.Model {
	all := slices.Clone(modeltest.Forms)
	for i := range all {
		all[i].Except, all[i].InitStd = "", 1
	}
	return all
}

// Decoding against float64, with factors and merged.
func TestFloat64(t *testing.T) {
	for _, s := range subjects() {
		for _, isa := range kernel.Available() {
			if err := newSubject(t, s, isa).check(); err != nil {
				t.Errorf("%s, %s: %v", s.Name, isa, err)
			}
		}
		u := newSubject(t, s, "")
		for i := range u.params.Data {
			u.params.Data[i] /= 1.5
		}
		if _, err := u.m.Merge(false, nil); err != nil {
			t.Fatal(err)
		}
		if got := u.m.FFN(0).Spec().Kind; got != spec.Dense {
			t.Errorf("%s: merged networks leave those of kind %s", s.Name, got)
		}
		if err := u.check(); err != nil {
			t.Errorf("%s, merged: %v", s.Name, err)
		}
	}
}

// A fault in decoding is noticed: TestFloat64 can fail.
func TestFaultsAreNoticed(t *testing.T) {
	// before runs f before attention of layer i in call number n, from 1 on.
	before := func(u *subject, f func(n, i int)) {
		n, attend := 0, u.d.attend
		u.d.attend = func(i int) error {
			if i == 0 {
				n++
			}
			f(n, i)
			return attend(i)
		}
	}
	for name, fault := range map[string]func(u *subject){
		"the wrong tokens": func(u *subject) { u.ids[3] = (u.ids[3] + 1) % int32(u.m.Spec.Vocab) },
		"caches of two layers swapped between calls": func(u *subject) {
			before(u, func(n, i int) {
				if c := u.d.caches; n == 2 && i == 0 {
					c[0], c[1] = c[1], c[0]
				}
			})
		},
		"a token is forgotten": func(u *subject) {
			before(u, func(n, i int) {
				if n == 2 && i == 0 {
					u.d.spans[0].Pos--
				}
			})
		},
		"a row of the prompt takes no part": func(u *subject) {
			before(u, func(n, i int) {
				if n == 1 {
					u.d.spans[0].Rows--
				}
			})
		},
		"another layer's attention": func(u *subject) {
			attend := u.d.attend
			u.d.attend = func(i int) error { return attend(0) }
		},
		"the residual stream is cut": func(u *subject) {
			before(u, func(_, i int) { clear(u.d.act.X) })
		},
		"the last row is left out": func(u *subject) {
			before(u, func(_, i int) { clear(u.d.act.QKV[(len(u.d.ids)-1)*u.m.Spec.QKV().Out:]) })
		},
		"merged networks of other weights": func(u *subject) {
			if _, err := u.m.Merge(false, nil); err != nil { // of the weights times 1.5
				t.Fatal(err)
			}
		},
	} {
		for _, s := range subjects() {
			u := newSubject(t, s, "")
			fault(u)
			if err := u.check(); err == nil {
				t.Errorf("%s: %s: nobody notices", s.Name, name)
			} else {
				t.Logf("%s: %s: %v", s.Name, name, err)
			}
		}
	}
}
