package data

import (
	"fmt"
	"math/bits"
)

// Sampler says which tokens each sequence of a training run is: a pure
// function of the place in the run, so that a run that resumes, or that runs
// on several machines, reads what an unbroken one on one machine would.
//
// Each epoch cuts the split, at its own offset, into windows of Seq+1 tokens
// that overlap by one, and visits every window once, in its own order.
type Sampler struct {
	split   *Split
	seq     int
	seed    uint64
	windows uint64
	window  []int32 // scratch of Read
}

// NewSampler returns a sampler of sequences of seq tokens.
func NewSampler(s *Split, seq int, seed uint64) (*Sampler, error) {
	// One window less than fits, to leave room for the offset.
	n := (s.size-1)/int64(seq) - 1
	if n < 1 {
		return nil, fmt.Errorf("%d training tokens are too few for sequences of %d, want %d or more", s.size, seq, 2*seq+1)
	}
	return &Sampler{split: s, seq: seq, seed: seed, windows: uint64(n), window: make([]int32, seq+1)}, nil
}

// Epochs is the share of the split that n sequences see.
func (s *Sampler) Epochs(n int64) float64 { return float64(n) / float64(s.windows) }

// Read fills ids and targets [rows, seq], which lag by one, with the rows
// sequences from number first of the run on. It is for one caller at a time.
func (s *Sampler) Read(ids, targets []int32, first uint64, rows int) error {
	window := s.window
	for r := range rows {
		if err := s.split.Read(window, s.at(first+uint64(r))); err != nil {
			return err
		}
		copy(ids[r*s.seq:], window[:s.seq])
		copy(targets[r*s.seq:], window[1:])
	}
	return nil
}

func (s *Sampler) at(n uint64) int64 {
	epoch := n / s.windows
	key := mix(s.seed ^ mix(epoch+1))
	offset := key % uint64(s.seq)
	return int64(offset + permute(n%s.windows, s.windows, key)*uint64(s.seq))
}

// permute is a permutation of [0, n) chosen by the key: a Feistel network on
// the next even number of bits, repeated until the value falls below n.
func permute(i, n, key uint64) uint64 {
	half := uint((bits.Len64(n-1) + 1) / 2)
	if half == 0 {
		return 0
	}
	mask := uint64(1)<<half - 1
	for {
		l, r := i>>half, i&mask
		for round := range uint64(4) {
			l, r = r, l^mix(r^key^round<<56)&mask
		}
		i = l<<half | r
		if i < n {
			return i
		}
	}
}

// mix is a bijection that scatters its input's bits (splitmix64's finaliser).
func mix(x uint64) uint64 {
	x += 0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Windows reads n windows of seq tokens and their targets, evenly spaced over
// the split, or as many as there are: what evaluation runs on.
func (s *Split) Windows(n, seq int) (ids, targets []int32, err error) {
	have := int((s.size - 1) / int64(seq))
	if have < 1 {
		return nil, nil, fmt.Errorf("%d tokens are too few for a sequence of %d", s.size, seq)
	}
	n = min(n, have)
	ids, targets = make([]int32, n*seq), make([]int32, n*seq)
	window := make([]int32, seq+1)
	for i := range n {
		if err := s.Read(window, int64(i)*int64(have)/int64(n)*int64(seq)); err != nil {
			return nil, nil, err
		}
		copy(ids[i*seq:], window[:seq])
		copy(targets[i*seq:], window[1:])
	}
	return ids, targets, nil
}
