package bench

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"testing"

	"github.com/structuredffn/sffn/internal/fakecuda"
	"github.com/structuredffn/sffn/internal/goldenkernels"
	"github.com/structuredffn/sffn/model/gpu"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// Shapes that are timed together share an engine and a decoder, and are rated one
// by one; prompts are filled in once for each length.
func TestDevice(t *testing.T) {
	goldenkernels.Register()
	cfg, err := goldenkernels.Config("tiny")
	if err != nil {
		t.Fatal(err)
	}
	s := cfg.Model
	fake := fakecuda.New()
	d, err := cuda.Open(fake.API(), "")
	if err != nil {
		t.Fatal(err)
	}
	ks, err := gpu.Kernels(s)
	if err == nil {
		err = d.Load(ks)
	}
	if err != nil {
		t.Fatal(err)
	}
	m := NewDeviceModel(d, s)
	shapes := Shapes([]int{1, 3}, []int{5, 9})
	if want := []Shape{{1, 5}, {1, 9}, {3, 5}, {3, 9}}; !slices.Equal(shapes, want) {
		t.Errorf("shapes %v, want %v", shapes, want)
	}
	trained, err := m.Train(shapes, 1)
	if err != nil {
		t.Fatal(err)
	}
	decoded, err := m.Decode(shapes, 1)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, r := range append(trained, decoded...) {
		got = append(got, fmt.Sprintf("%s %d x %d", r.Op, r.Batch, r.Seq))
		tokens, flops := r.Batch, 0.0
		layers, head := perToken(s)
		switch n := float64(r.Batch); r.Op {
		case "train":
			tokens, flops = r.Batch*r.Seq, 3*s.ForwardFLOPs(r.Batch, r.Seq)
		case "prefill":
			tokens, flops = r.Seq, float64(r.Seq)*layers+head+attentionFLOPs(s, r.Seq, r.Seq)/2
		default:
			flops = n * (layers + head + attentionFLOPs(s, 1, r.Seq))
		}
		if near := func(a, b float64) bool { return math.Abs(a-b) <= 1e-9*b }; r.Model != s.Name || r.Memory == 0 ||
			!near(r.Tokens*r.Seconds.Median, float64(tokens)) || !near(1e9*r.GFLOPS*r.Seconds.Median, flops) {
			t.Errorf("%+v, want the rates of %d tokens and %g FLOPs", r, tokens, flops)
		}
	}
	if want := []string{"train 1 x 5", "train 1 x 9", "train 3 x 5", "train 3 x 9",
		"prefill 1 x 5", "decode 1 x 5", "decode 3 x 5", "prefill 1 x 9", "decode 1 x 9", "decode 3 x 9"}; !slices.Equal(got, want) {
		t.Errorf("timed %v, want %v", got, want)
	}
	if _, err := m.Decode([]Shape{{1, s.MaxPositions}}, 1); err == nil {
		t.Error("a prompt that leaves no position is timed")
	}
	if err := d.Trim(); err != nil {
		t.Error(err)
	}
	fake.Memory = 1 << 20
	if _, err := m.Train(shapes, 1); !errors.Is(err, driver.OutOfMemory) {
		t.Errorf("a device that is too small: %v", err)
	}
	m.Close()
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if left := fake.Left(); left != "" {
		t.Error(left)
	}
}

// Weights depend on no schedule, and no two rows of a matrix are the same.
func TestAnyParams(t *testing.T) {
	cfg, err := goldenkernels.Config("tiny")
	if err != nil {
		t.Fatal(err)
	}
	p, q := anyParams(cfg.Model), anyParams(cfg.Model)
	defer p.Close()
	defer q.Close()
	same(t, "weights drawn twice", p.Data, q.Data)
	for _, w := range p.List() {
		if len(w.Shape) != 2 {
			continue
		}
		v, n, rows := p.Get(w.Name), w.Shape[1], map[float32]bool{}
		sum := 0.0
		for i := range w.Shape[0] {
			rows[v[i*n]] = true
		}
		for _, x := range v {
			sum += float64(x) * float64(x)
		}
		if len(rows) < w.Shape[0]-1 { // two of so many numbers may be the same
			t.Errorf("%s has %d different rows of %d", w.Name, len(rows), w.Shape[0])
		}
		if dev := math.Sqrt(sum / float64(len(v))); math.Abs(dev-0.02) > 0.001 {
			t.Errorf("%s has a standard deviation of %v, want 0.02", w.Name, dev)
		}
	}
}
