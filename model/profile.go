package model

import (
	"sync/atomic"
	"time"
)

// Profile is where the time of training went.
type Profile struct {
	// FFN, Projections and Head run matrix products, Attention also the
	// softmax; what these spend outside products is in Activation and Softmax
	// as well.
	FFN, Projections, Head, Attention                    time.Duration
	Norm, RoPE, Embedding, CrossEntropy, Optimizer, Pack time.Duration
	Activation, Softmax                                  time.Duration
}

// Share is one line of a profile.
type Share struct {
	Name    string        `json:"name"`
	Product bool          `json:"product"` // a matrix product
	Time    time.Duration `json:"nanoseconds"`
}

// Shares splits the profile into parts that do not overlap.
func (p *Profile) Shares() []Share {
	return []Share{
		{"ffn products", true, p.FFN - p.Activation},
		{"attention projections", true, p.Projections},
		{"head products", true, p.Head},
		{"attention products", true, p.Attention - p.Softmax},
		{"ffn activation gradient", false, p.Activation},
		{"softmax", false, p.Softmax},
		{"norms", false, p.Norm},
		{"rope", false, p.RoPE},
		{"embedding", false, p.Embedding},
		{"cross entropy", false, p.CrossEntropy},
		{"adamw and clipping", false, p.Optimizer},
		{"weight packing", false, p.Pack},
	}
}

// since adds the time from start on to d, one of the profile's, which several
// callers may do at once.
func (p *Profile) since(d *time.Duration, start time.Time) {
	atomic.AddInt64((*int64)(d), int64(time.Since(start)))
}

// Profile gives the times so far; the trainer adds the optimizer's.
func (t *Model) Profile() *Profile { return t.prof }
