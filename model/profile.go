package model

import "time"

// Profile is where the time of training went.
type Profile struct {
	FFN, Projections, Head                               time.Duration // matrix products
	Attention                                            time.Duration // products and softmax
	Norm, RoPE, Embedding, CrossEntropy, Optimizer, Pack time.Duration
}

// track adds the time until the returned function is called.
func (p *Profile) track(d *time.Duration) func() {
	start := time.Now()
	return func() { *d += time.Since(start) }
}

// Profile gives the times so far; the trainer adds the optimizer's.
func (t *Model) Profile() *Profile { return t.prof }
