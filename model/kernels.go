package model

import (
	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/plan/cpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// LayerKernels tells how a kind of layer of a model runs on this machine.
type LayerKernels struct {
	Layer string `json:"layer"` // the canonical name of the network or projection
	Count int    `json:"count"` // how many of them the model has
	// Linked of the Wanted specialised kernels are part of this program; the
	// others run as any-shape kernels.
	Linked int `json:"specialised_linked"`
	Wanted int `json:"specialised"`
}

// Kernels lists the distinct layers of a model, with the specialised kernels
// that this program has for them.
func Kernels(m spec.Model, isa kernel.ISA) []LayerKernels {
	t := kernel.For(isa)
	var ls []LayerKernels
	add := func(name string, plans ...plan.Layer) {
		for i := range ls {
			if ls[i].Layer == name {
				ls[i].Count++
				return
			}
		}
		l := LayerKernels{Layer: name, Count: 1}
		if isa != kernel.Portable {
			for _, k := range cpu.Specialised(t, plans...) {
				l.Wanted++
				if _, ok := kernel.Lookup(k.Name()); ok {
					l.Linked++
				}
			}
		}
		ls = append(ls, l)
	}
	for i := range m.Layers {
		add("qkv "+m.QKV().Name(), plan.NewLayer(m.QKV()))
		add("output "+m.Output().Name(), plan.NewLayer(m.Output()))
		f := plan.NewFFN(m.LayerFFN(i))
		add(f.Spec.Name(), f.FC1, f.FC2)
	}
	add("head "+m.Head().Name(), plan.NewLayer(m.Head()))
	return ls
}
