package bench

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/gpu"
	"github.com/structuredffn/sffn/model/train"
	"github.com/structuredffn/sffn/runtime/cuda"
)

// DeviceResult is the speed of a model on a device.
type DeviceResult struct {
	Model string `json:"model"`
	Op    string `json:"op"` // train, prefill or decode
	Batch int    `json:"batch"`
	Seq   int    `json:"seq"`
	// Seconds of one step, Tokens those of a second, GFLOPS the model's rate:
	// three forward passes for training, attention not halved.
	Seconds Spread  `json:"seconds"`
	Tokens  float64 `json:"tokens_per_second"`
	GFLOPS  float64 `json:"gflops"`
	// Memory is what the device holds meanwhile, in bytes: with room for the largest
	// of the shapes that are timed together.
	Memory int64 `json:"device_memory"`
}

// timed runs a step once to warm up, then so many times more.
func timed(repeats int, step func() error) (Spread, error) {
	var all []float64
	for i := range repeats + 1 {
		start := time.Now()
		if err := step(); err != nil {
			return Spread{}, err
		}
		if i > 0 {
			all = append(all, time.Since(start).Seconds())
		}
	}
	return spreadOf(all), nil
}

// Shape is a batch of sequences: those that are trained on, or decoded after
// prompts of Seq tokens.
type Shape struct{ Batch, Seq int }

// Shapes are all pairs, the ones that take the least memory first.
func Shapes(batches, seqs []int) (all []Shape) {
	for _, seq := range seqs {
		for _, batch := range batches {
			all = append(all, Shape{batch, seq})
		}
	}
	slices.SortStableFunc(all, func(a, b Shape) int { return cmp.Compare(a.Batch*a.Seq, b.Batch*b.Seq) })
	return all
}

// largest are the most sequences, tokens of one and of all.
func largest(shapes []Shape) (batch, seq, tokens int) {
	for _, s := range shapes {
		batch, seq, tokens = max(batch, s.Batch), max(seq, s.Seq), max(tokens, s.Batch*s.Seq)
	}
	return batch, seq, tokens
}

// DeviceModel is a model that is timed on a device. Its parameters are drawn once.
type DeviceModel struct {
	d      *cuda.Device
	spec   spec.Model
	params *model.Params
}

// NewDeviceModel draws the parameters of a model whose kernels the device has
// loaded.
func NewDeviceModel(d *cuda.Device, s spec.Model) *DeviceModel {
	return &DeviceModel{d, s, anyParams(s)}
}

// Close frees the parameters.
func (m *DeviceModel) Close() { m.params.Close() }

// result rates what was timed. A clock that shows no time is an error.
func (m *DeviceModel) result(op string, s Shape, tokens int, flops float64, t Spread) (DeviceResult, error) {
	r := DeviceResult{Model: m.spec.Name, Op: op, Batch: s.Batch, Seq: s.Seq, Seconds: t, Tokens: float64(tokens) / t.Median, GFLOPS: flops / t.Median / 1e9, Memory: m.d.Memory().Used}
	if !(t.Median > 0) || math.IsInf(r.GFLOPS, 0) {
		return r, fmt.Errorf("%s, %s of %d x %d takes %v s", r.Model, op, s.Batch, s.Seq, t.Median)
	}
	return r, nil
}

// Train times steps of one micro-batch of each shape, the optimizer included. One
// engine has room for all.
func (m *DeviceModel) Train(shapes []Shape, repeats int) (rs []DeviceResult, err error) {
	_, seq, rows := largest(shapes)
	if seq > m.spec.MaxPositions {
		return nil, fmt.Errorf("%s takes %d positions, got %d", m.spec.Name, m.spec.MaxPositions, seq)
	}
	e, err := gpu.NewEngine(m.d, train.Start{Spec: m.spec, Params: m.params, Train: training(1, rows)})
	if err != nil {
		return nil, err
	}
	defer e.Close()
	for _, s := range shapes {
		n := s.Batch * s.Seq
		ids := tokens(n, m.spec.Vocab)
		t, err := timed(repeats, func() error {
			if _, err := e.Backward(ids, ids, s.Batch, 1, false); err != nil {
				return err
			}
			_, err := e.Step(1e-6)
			return err
		})
		if err != nil {
			return rs, err
		}
		r, err := m.result("train", s, n, 3*m.spec.ForwardFLOPs(s.Batch, s.Seq), t)
		if err != nil {
			return rs, err
		}
		rs = append(rs, r)
	}
	return rs, nil
}

// Decode times filling in a prompt of each length, and decoding one token a
// sequence after such prompts. One decoder has room for all.
func (m *DeviceModel) Decode(shapes []Shape, repeats int) (rs []DeviceResult, err error) {
	batch, context, _ := largest(shapes)
	if context+1 > m.spec.MaxPositions {
		return nil, fmt.Errorf("%s takes %d positions, %d and one more do not fit", m.spec.Name, m.spec.MaxPositions, context)
	}
	dec, err := gpu.NewDecoder(m.d, m.params, batch, context+1)
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	ids := tokens(context+1, m.spec.Vocab)
	layers, head := perToken(m.spec)
	add := func(op string, s Shape, tokens int, flops float64, t Spread) error {
		r, err := m.result(op, s, tokens, flops, t)
		if err == nil {
			rs = append(rs, r)
		}
		return err
	}
	shapes = slices.Clone(shapes)
	slices.SortStableFunc(shapes, func(a, b Shape) int { return cmp.Or(cmp.Compare(a.Seq, b.Seq), cmp.Compare(a.Batch, b.Batch)) })
	filled := 0 // sequences that hold prompts of the present length
	for i, s := range shapes {
		fill := func(seq int) error {
			dec.Truncate(seq, 0)
			_, err := dec.Feed([]int{seq}, [][]int32{ids[:s.Seq]})
			return err
		}
		if i == 0 || s.Seq != shapes[i-1].Seq {
			t, err := timed(repeats, func() error { return fill(0) })
			if err != nil {
				return rs, err
			}
			n := float64(s.Seq)
			if err := add("prefill", Shape{1, s.Seq}, s.Seq, n*layers+head+attentionFLOPs(m.spec, s.Seq, s.Seq)/2, t); err != nil {
				return rs, err
			}
			filled = 1
		}
		for ; filled < s.Batch; filled++ {
			if err := fill(filled); err != nil {
				return rs, err
			}
		}
		var seqs []int
		var last [][]int32
		for seq := range s.Batch {
			seqs, last = append(seqs, seq), append(last, ids[s.Seq:s.Seq+1])
		}
		t, err := timed(repeats, func() error {
			for _, seq := range seqs {
				dec.Truncate(seq, s.Seq)
			}
			_, err := dec.Feed(seqs, last)
			return err
		})
		if err != nil {
			return rs, err
		}
		n := float64(s.Batch)
		if err := add("decode", s, s.Batch, n*(layers+head+attentionFLOPs(m.spec, 1, s.Seq)), t); err != nil {
			return rs, err
		}
	}
	return rs, nil
}
