package gpucheck

import (
	"errors"
	"fmt"
	"slices"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/internal/gpuproof"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// Timing is the median of several measurements, and their quartiles, in
// microseconds a launch. Each measurement is of many launches between two events,
// on buffers in turn, so that none finds its operands in the cache.
type Timing struct {
	Median   float64 `json:"median_us"`
	Low      float64 `json:"low_us"`
	High     float64 `json:"high_us"`
	Launches int     `json:"launches"`
	Buffers  int     `json:"buffers"`
}

// ProductTime is the speed of a matrix product: Blocks of M x N sums of K
// products.
type ProductTime struct {
	Kernel    string  `json:"kernel"`
	Pass      string  `json:"pass"`
	Precision string  `json:"precision"`
	Rows      int     `json:"rows"`
	M         int     `json:"m"`
	N         int     `json:"n"`
	K         int     `json:"k"`
	Blocks    int     `json:"blocks"`
	Time      Timing  `json:"time"`
	TFLOPS    float64 `json:"tflops"`
	GBs       float64 `json:"gb_per_second"`
	// Torch is torch.matmul of the same shape, in microseconds, and Ratio how many
	// times as long it takes; 0 where there is no torch.
	Torch float64 `json:"torch_us,omitempty"`
	Ratio float64 `json:"torch_ratio,omitempty"`
}

// PassTime is the speed of any other kernel; attention has FLOPs, too.
type PassTime struct {
	Kernel string  `json:"kernel"`
	Rows   int     `json:"rows"`
	Time   Timing  `json:"time"`
	GBs    float64 `json:"gb_per_second"`
	TFLOPS float64 `json:"tflops,omitempty"`
}

// speed times every kernel.
func (c *check) speed() error {
	ks, err := c.table()
	if err != nil {
		return err
	}
	if err := c.compile(ks); err != nil {
		return err
	}
	for _, k := range ks {
		for _, rows := range c.TimedRows {
			if err := c.at("%s, %d rows", k.Name, rows); err != nil {
				return err
			}
			p, product := k.Plan.(plan.GPUProduct)
			few := product && p.Tile.M == 16
			if few != (rows <= plan.FewTokens) && product && p.Precision == plan.BF16 {
				continue // each runs where models run it
			}
			in, err := gpuproof.Prepare(k, rows)
			if err != nil {
				return err
			}
			t, err := c.time(k, in)
			if errors.Is(err, driver.OutOfMemory) {
				c.note("%s with %d rows is left out: %v", k.Name, rows, err)
				continue
			}
			if err != nil {
				return fmt.Errorf("%s with %d rows: %w", k.Name, rows, err)
			}
			c.part.Checks++
			rate := func(n float64) float64 { return n / (t.Median / 1e6) }
			gbs := rate(float64(in.Bytes())) / 1e9
			if !product {
				c.report.Passes = append(c.report.Passes, PassTime{Kernel: k.Name, Rows: rows, Time: t, GBs: gbs, TFLOPS: rate(attentionFLOPs(k, rows)) / 1e12})
				continue
			}
			m, n, depth := p.Rows(), p.Cols(), p.Depth()
			if m == 0 {
				m = rows
			}
			if depth == 0 {
				depth = rows
			}
			c.report.Products = append(c.report.Products, ProductTime{Kernel: k.Name, Pass: string(p.Pass), Precision: string(p.Precision), Rows: rows, M: m, N: n, K: depth, Blocks: p.Blocks,
				Time: t, TFLOPS: rate(2*float64(p.Blocks)*float64(m)*float64(n)*float64(depth)) / 1e12, GBs: gbs})
		}
	}
	c.torch()
	return nil
}

// attentionFLOPs are those of a pass of causal attention over a sequence, halved,
// 0 for other kernels: two products forward, three for the queries' gradients, four
// for those of keys and values.
func attentionFLOPs(k plan.GPUKernel, rows int) float64 {
	a, ok := k.Plan.(plan.GPUAttention)
	products := map[plan.GPUAttendPass]float64{plan.AttendForward: 2, plan.AttendQueries: 3, plan.AttendKeys: 4}[a.Pass]
	if !ok || a.Cache {
		return 0
	}
	sequences := 1.0
	if rows <= 65 {
		sequences = 2
	}
	return sequences * products * 2 * float64(a.Heads*a.HeadDim) * float64(rows) * float64(rows+1) / 2
}

// Measurements: of about so long, in microseconds, on buffers of together several
// times the L2 cache.
const (
	timedFor    = 2000
	mostTimed   = 500
	cacheTimes  = 4
	mostBuffers = 64
)

// time measures a kernel on inputs.
func (c *check) time(k plan.GPUKernel, in *gpuproof.Inputs) (t Timing, err error) {
	s, err := c.d.NewStream()
	if err != nil {
		return t, err
	}
	var all []cuda.Buffer
	defer func() {
		for _, b := range all {
			c.d.Free(b)
		}
		err = errors.Join(err, s.Close(), c.d.Trim())
	}()
	sets := min(mostBuffers, 2+cacheTimes*c.d.L2Cache/max(1, in.Bytes()))
	var args []cuda.Args
	for range sets {
		a := cuda.Args{}
		add := func(name string, n int, data []byte) error {
			b, err := c.d.Alloc(n)
			if err != nil {
				return err
			}
			all = append(all, b)
			a[name] = b
			return cuda.Upload(s, b, data)
		}
		for name, data := range in.Arrays {
			err = errors.Join(err, add(name, len(data), data))
		}
		for name, n := range in.Written {
			err = errors.Join(err, add(name, n, nil))
		}
		if err != nil {
			return t, err
		}
		for _, p := range k.Params {
			if n, ok := in.Numbers[p.Name]; ok && p.Type == plan.Float32 {
				a[p.Name] = cuda.Float32Bits(n)
			} else if ok {
				a[p.Name] = cuda.Uint32(n)
			}
		}
		args = append(args, a)
	}
	measure := func(launches int) (float64, error) {
		from, err := s.Record()
		if err != nil {
			return 0, err
		}
		defer from.Close()
		for i := range launches {
			if err := s.Launch(c.loaded[k.Name], in.Counts, args[i%sets]); err != nil {
				return 0, err
			}
		}
		to, err := s.Record()
		if err != nil {
			return 0, err
		}
		defer to.Close()
		if err := s.Wait(); err != nil {
			return 0, err
		}
		sec, err := to.Since(from)
		return 1e6 * sec / float64(launches), err
	}
	if _, err = measure(sets); err != nil { // warm
		return t, err
	}
	once, err := measure(sets)
	if err != nil {
		return t, err
	}
	t = Timing{Launches: max(1, min(mostTimed, int(timedFor/max(once, 1)))), Buffers: sets}
	var us []float64
	for range max(1, c.Repeats) {
		v, err := measure(t.Launches)
		if err != nil {
			return t, err
		}
		us = append(us, v)
	}
	slices.Sort(us)
	t.Median, t.Low, t.High = us[len(us)/2], us[len(us)/4], us[len(us)*3/4]
	return t, nil
}
