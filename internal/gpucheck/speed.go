package gpucheck

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/internal/gpuproof"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// Timing is the median of several measurements, and their quartiles, in
// microseconds a launch. Each measurement is of many launches between two events,
// recorded as one graph, on buffers in turn, so that none finds its operands in the
// cache.
type Timing struct {
	Median   float64 `json:"median_us"`
	Low      float64 `json:"low_us"`
	High     float64 `json:"high_us"`
	Launches int     `json:"launches"`
	Buffers  int     `json:"buffers"`
	// Cached says that all buffers together are smaller than the L2 cache.
	Cached bool `json:"cached,omitempty"`
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
	if ks, err = c.compile(ks); err != nil {
		return err
	}
	if c.d.Sync {
		c.note("each launch is waited for: no graphs, and the host's time is in that of the kernels")
	}
	cached := 0
	for _, k := range ks {
		for _, rows := range c.TimedRows {
			if err := c.at("%s, %d rows", k.Name, rows); err != nil {
				return err
			}
			p := k.Shape.Product
			if p != nil && (k.Rows.To > 0) != (rows <= gpu.FewTokens) && p.Precision == table.BF16 {
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
			if errors.Is(err, errNoTime) {
				c.check(fmt.Sprintf("%s with %d rows", k.Name, rows), err)
				continue
			}
			if err != nil {
				return fmt.Errorf("%s with %d rows: %w", k.Name, rows, err)
			}
			c.part.Checks++
			if t.Cached {
				cached++
			}
			rate := func(n float64) float64 { return n / (t.Median / 1e6) }
			gbs := rate(float64(in.Bytes())) / 1e9
			if p == nil {
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
	if cached > 0 {
		c.note("%d timings, which are marked L2, are of buffers that fit the L2 cache all together", cached)
	}
	return c.torch()
}

// attentionFLOPs are those of a pass of causal attention over a sequence, halved,
// 0 for other kernels: two products forward, three for the queries' gradients, four
// for those of keys and values.
func attentionFLOPs(k table.Kernel, rows int) float64 {
	a := k.Shape.Attention
	if a == nil || a.Cache {
		return 0
	}
	products := map[table.AttendPass]float64{table.AttendForward: 2, table.AttendQueries: 3, table.AttendKeys: 4}[a.Pass]
	sequences := 1.0
	if rows <= 65 {
		sequences = 2
	}
	return sequences * products * 2 * float64(a.Heads*a.HeadDim) * float64(rows) * float64(rows+1) / 2
}

// Measurements: of about so long, in microseconds, on sets of buffers in turn that
// are together several times the L2 cache, and at most a share of the memory that
// is free. Launches of a measurement are one graph, so that the host has no part in
// the time; so many of them bound what recording takes.
const (
	timedFor     = 2000
	mostLaunches = 4096
	cacheTimes   = 4
	memoryShare  = 4 // a quarter
)

// setsOf is how many sets of so many bytes are rotated through.
func setsOf(bytes, l2 int, free int64) int {
	bytes = max(1, bytes)
	n := 2 + cacheTimes*l2/bytes
	n = min(n, int(free/memoryShare/int64(bytes)), mostLaunches)
	return max(1, n)
}

// rotate gives a kernel so many sets of its inputs. Arrays of all sets lie in one
// piece of memory each, of which the first part comes from the host.
func (c *check) rotate(s *cuda.Stream, k table.Kernel, in *gpuproof.Inputs, sets int) (args []cuda.Args, free func(), err error) {
	var all []cuda.Buffer
	free = func() {
		for _, b := range all {
			c.d.Free(b)
		}
	}
	for range sets {
		args = append(args, cuda.Args{})
	}
	add := func(name string, n int, data []byte) error {
		slot := (n + 255) &^ 255 // a multiple of what the driver aligns memory to
		b, err := c.d.Alloc(slot * sets)
		if err != nil {
			return err
		}
		all = append(all, b)
		for i, a := range args {
			a[name] = b.Slice(i*slot, n)
		}
		if data == nil {
			return s.Clear(b)
		}
		if err := cuda.Upload(s, b, data); err != nil {
			return err
		}
		for have := 1; have < sets; have *= 2 {
			n := min(have, sets-have)
			if err := s.Copy(b.Slice(have*slot, n*slot), b.Slice(0, n*slot)); err != nil {
				return err
			}
		}
		return nil
	}
	for name, data := range in.Arrays {
		if err := add(name, len(data), data); err != nil {
			return nil, free, err
		}
	}
	for name, n := range in.Written {
		if err := add(name, n, nil); err != nil {
			return nil, free, err
		}
	}
	for _, p := range k.Params {
		n, ok := in.Numbers[p.Name]
		for _, a := range args {
			if ok && p.Type == table.Float32 {
				a[p.Name] = cuda.Float32Bits(n)
			} else if ok {
				a[p.Name] = cuda.Uint32(n)
			}
		}
	}
	return args, free, nil
}

// time measures a kernel on inputs.
func (c *check) time(k table.Kernel, in *gpuproof.Inputs) (t Timing, err error) {
	left, _, err := c.d.FreeMemory()
	if err != nil {
		return t, err
	}
	s, err := c.d.NewStream()
	if err != nil {
		return t, err
	}
	defer func() { err = errors.Join(err, s.Close(), c.d.Trim()) }()
	sets := setsOf(in.Bytes(), c.d.L2Cache, left)
	args, free, err := c.rotate(s, k, in, sets)
	defer free()
	if err != nil {
		return t, err
	}
	once, err := c.microseconds(s, k, in, args, sets, 1)
	if err != nil {
		return t, err
	}
	t = Timing{Launches: max(sets, min(mostLaunches, int(timedFor/once[0]))), Buffers: sets, Cached: sets*in.Bytes() < c.d.L2Cache}
	us, err := c.microseconds(s, k, in, args, t.Launches, max(1, c.Repeats))
	if err != nil {
		return t, err
	}
	slices.Sort(us)
	t.Median, t.Low, t.High = us[len(us)/2], us[len(us)/4], us[len(us)*3/4]
	return t, nil
}

// errNoTime says that two events have no time between them.
var errNoTime = errors.New("the time between two events is no time")

// microseconds measures so many launches several times, once more to warm up, and
// says what one takes. Where each launch is waited for, the host's time is in it.
func (c *check) microseconds(s *cuda.Stream, k table.Kernel, in *gpuproof.Inputs, args []cuda.Args, launches, repeats int) (us []float64, err error) {
	work := func() error {
		for i := range launches {
			if err := s.Launch(c.loaded[k.Name], in.Counts, args[i%len(args)]); err != nil {
				return err
			}
		}
		return nil
	}
	if !c.d.Sync {
		g, err := s.Capture(work)
		if g != nil {
			defer g.Close()
		}
		if err != nil {
			return nil, err
		}
		work = func() error { return g.Launch(s) }
	}
	for try := range 1 + repeats {
		sec, err := between(s, work)
		if err != nil {
			return nil, err
		}
		if v := 1e6 * sec / float64(launches); !(v > 0) || math.IsInf(v, 0) {
			return nil, fmt.Errorf("%w: %v s for %d launches", errNoTime, sec, launches)
		} else if try > 0 {
			us = append(us, v)
		}
	}
	return us, nil
}

// between is the time that a stream takes for work, in seconds.
func between(s *cuda.Stream, work func() error) (sec float64, err error) {
	from, err := s.Record()
	if err != nil {
		return 0, err
	}
	defer from.Close()
	if err := work(); err != nil {
		return 0, err
	}
	to, err := s.Record()
	if err != nil {
		return 0, err
	}
	defer to.Close()
	if err := s.Wait(); err != nil {
		return 0, err
	}
	return to.Since(from)
}
