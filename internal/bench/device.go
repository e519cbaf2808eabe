package bench

import (
	"fmt"
	"time"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/gen/specfile"
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
	// Memory is the most that the device's pool held, in bytes.
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

func deviceResult(d *cuda.Device, s spec.Model, op string, batch, seq, tokens int, flops float64, t Spread) DeviceResult {
	return DeviceResult{Model: s.Name, Op: op, Batch: batch, Seq: seq, Seconds: t, Tokens: float64(tokens) / t.Median, GFLOPS: flops / t.Median / 1e9, Memory: d.Memory().Peak}
}

// DeviceTrain times steps of one micro-batch each on a device, the optimizer
// included.
func DeviceTrain(d *cuda.Device, s spec.Model, batch, seq, repeats int) (DeviceResult, error) {
	if seq > s.MaxPositions {
		return DeviceResult{}, fmt.Errorf("%s takes %d positions, got %d", s.Name, s.MaxPositions, seq)
	}
	p, m, v := anyParams(s), model.NewParams(s), model.NewParams(s)
	defer p.Close()
	defer m.Close()
	defer v.Close()
	e, err := gpu.NewEngine(d, train.Start{Spec: s, Params: p, M: m, V: v, Train: specfile.Train{Batch: batch, Seq: seq, Beta1: 0.9, Beta2: 0.95, Eps: 1e-8, WeightDecay: 0.1, Clip: 1}})
	if err != nil {
		return DeviceResult{}, err
	}
	defer e.Close()
	ids := tokens(batch*seq, s.Vocab)
	t, err := timed(repeats, func() error {
		if _, err := e.Backward(ids, ids, batch, 1, false); err != nil {
			return err
		}
		_, err := e.Step(1e-6)
		return err
	})
	return deviceResult(d, s, "train", batch, seq, batch*seq, 3*s.ForwardFLOPs(batch, seq), t), err
}

// DeviceDecode times filling in a prompt of context tokens, and decoding one
// token a sequence after such prompts.
func DeviceDecode(d *cuda.Device, s spec.Model, batch, context, repeats int) ([]DeviceResult, error) {
	if context+1 > s.MaxPositions {
		return nil, fmt.Errorf("%s takes %d positions, %d and one more do not fit", s.Name, s.MaxPositions, context)
	}
	p := anyParams(s)
	defer p.Close()
	dec, err := gpu.NewDecoder(d, p, batch, context+1)
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	ids := tokens(context+1, s.Vocab)
	fill := func(i int) error {
		dec.Truncate(i, 0)
		_, err := dec.Feed([]int{i}, [][]int32{ids[:context]})
		return err
	}
	prefill, err := timed(repeats, func() error { return fill(0) })
	if err != nil {
		return nil, err
	}
	var seqs []int
	var last [][]int32
	for i := range batch {
		if err := fill(i); err != nil {
			return nil, err
		}
		seqs, last = append(seqs, i), append(last, ids[context:])
	}
	next, err := timed(repeats, func() error {
		for i := range seqs {
			dec.Truncate(i, context)
		}
		_, err := dec.Feed(seqs, last)
		return err
	})
	layers, head := perToken(s)
	n := float64(batch)
	return []DeviceResult{
		deviceResult(d, s, "prefill", 1, context, context, float64(context)*layers+head+attentionFLOPs(s, context, context)/2, prefill),
		deviceResult(d, s, "decode", batch, context, batch, n*(layers+head+attentionFLOPs(s, 1, context)), next),
	}, err
}
