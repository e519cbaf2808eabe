package model

import (
	"fmt"
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
	Activation, Softmax, Dropout                         time.Duration
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
		{"dropout", false, p.Dropout},
		{"cross entropy", false, p.CrossEntropy},
		{"adamw and clipping", false, p.Optimizer},
		{"weight packing", false, p.Pack},
	}
}

// Table has a line of heading, one for each part, and one for all that is no
// matrix product.
func (p *Profile) Table() [][]string {
	var total, outside time.Duration
	for _, s := range p.Shares() {
		total += s.Time
		if !s.Product {
			outside += s.Time
		}
	}
	rows := [][]string{{"where the time went", "seconds", "share"}}
	for _, s := range append(p.Shares(), Share{"outside matrix products", false, outside}) {
		rows = append(rows, []string{s.Name, fmt.Sprintf("%.2f", s.Time.Seconds()), fmt.Sprintf("%.1f %%", 100*s.Time.Seconds()/total.Seconds())})
	}
	return rows
}

// since adds the time from start on to d, one of the profile's, which several
// callers may do at once.
func (p *Profile) since(d *time.Duration, start time.Time) {
	atomic.AddInt64((*int64)(d), int64(time.Since(start)))
}

// Profile gives the times so far; the trainer adds the optimizer's.
func (t *Model) Profile() *Profile { return t.prof }
