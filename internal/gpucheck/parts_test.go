package gpucheck

import (
	"bytes"
	"context"
	"errors"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/structuredffn/sffn/internal/fakecuda"
	vectors "github.com/structuredffn/sffn/internal/golden"
	"github.com/structuredffn/sffn/internal/goldenkernels"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/gpu"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// newCheck is a run of one part on a fake driver, and what it logs.
func newCheck(t *testing.T, api *driver.API, cfg Config) (*check, *bytes.Buffer) {
	t.Helper()
	goldenkernels.Register()
	d, err := cuda.Open(api, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	log := &bytes.Buffer{}
	cfg.Log = log
	return &check{Config: cfg, Context: t.Context(), d: d, loaded: map[string]*cuda.Kernel{}, report: &Report{}, part: &Part{}}, log
}

// passes fails the test where a part fails.
func passes(t *testing.T, c *check, log *bytes.Buffer, err error) {
	t.Helper()
	if err != nil || len(c.part.Problems) > 0 || c.part.Checks == 0 {
		t.Errorf("%v, %d checks\n%s", err, c.part.Checks, log)
	}
}

var tinyModel = func(t *testing.T) []*config.Config { return []*config.Config{modelOf(t, "tiny")} }

// Where each launch is waited for no graph is recorded: parts leave graphs out, and
// say so.
func TestWaiting(t *testing.T) {
	t.Setenv(cuda.EnvSync, "1")
	c, log := newCheck(t, fakecuda.New().API(), Config{Trained: tinyModel(t), Kernels: tinyModel(t), Steps: 3, TimedRows: []int{16}, Match: regexp.MustCompile("^norm_rms"), Python: noPython})
	golden := func() error {
		const name = "model_dense_ln_gelu_tied"
		cases, err := vectors.List(vectors.Cases())
		if err != nil {
			return err
		}
		g := &goldenCase{Case: &cases[slices.IndexFunc(cases, func(c vectors.Case) bool { return c.Name == name })]}
		if g.file, err = safetensors.OpenFS(vectors.Cases(), g.File); err != nil {
			return err
		}
		defer g.file.Close()
		c.check(name, errors.Join(c.goldenModel(g, goldenkernels.Cases[name]), g.err))
		return nil
	}
	for _, part := range []func() error{golden, func() error { return c.each(c.Trained, c.decode) }, c.speed} {
		passes(t, c, log, part())
	}
	for _, want := range []string{"decoding with graphs is left out", "no graphs, and the host's time"} {
		if !slices.ContainsFunc(c.part.Notes, func(n string) bool { return strings.Contains(n, want) }) {
			t.Errorf("no note says %q: %q", want, c.part.Notes)
		}
	}
}

// Passes and steps are held to the CPU's: what a device leaves out of gradients or
// of a step shows.
func TestTrain(t *testing.T) {
	fake := fakecuda.New()
	c, log := newCheck(t, fake.API(), Config{Trained: tinyModel(t)})
	ks, err := gpu.Kernels(c.Trained[0].Model)
	if err == nil {
		err = c.d.Load(ks)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, broken := range []struct {
		kernel string
		steps  int
		want   string
	}{
		{"", 2, ""},
		{"gemm_bf16_backward_weight", 2, "of kind "},
		{"adamw", 5, "loss of step "},
	} {
		// After the right run all memory holds values, so that what is not computed is
		// wrong, and not missing.
		hit := 0
		fake.TamperLaunch = func(kernel string, grid *[3]int) {
			if broken.kernel != "" && strings.HasPrefix(kernel, broken.kernel) {
				hit++
				for i := range grid {
					if grid[i] > 1 {
						grid[i] /= 2
						break
					}
				}
			}
		}
		c.Steps, c.part = broken.steps, &Part{}
		err = c.each(c.Trained, c.train)
		if broken.kernel == "" {
			passes(t, c, log, err)
			continue
		}
		if problems := strings.Join(c.part.Problems, "\n"); err != nil || hit == 0 || !strings.Contains(problems, broken.want) {
			t.Errorf("%s, half of which does not run (%d times): %v, no problem %q\n%s", broken.kernel, hit, err, broken.want, log)
		}
	}
}

// Sets of buffers are several times the L2 cache, within the memory and the
// launches that there are.
func TestSets(t *testing.T) {
	const l2, free = 50 << 20, 80 << 30
	for _, c := range []struct {
		bytes int
		free  int64
		want  int
	}{
		{1 << 20, free, 202},
		{100 << 10, free, 2050},
		{1 << 10, free, mostLaunches},
		{400 << 20, free, 2},
		{1 << 20, 100 << 20, 25},
		{1 << 30, 2 << 30, 1}, // one may fit
	} {
		if n := setsOf(c.bytes, l2, c.free); n != c.want {
			t.Errorf("%d sets of %d bytes, want %d", n, c.bytes, c.want)
		}
	}
}

// Launches that are timed are recorded once and launched as one graph: the host
// has no part in their time. Buffers are together several times the cache, and
// hold the same; those that are not are marked.
func TestTimes(t *testing.T) {
	fake := fakecuda.New()
	api := fake.API()
	launch, launches := api.LaunchKernel, 0
	api.LaunchKernel = func(f driver.Function, gx, gy, gz, bx, by, bz, shared uint32, s driver.Stream, args, extra unsafe.Pointer) driver.Result {
		launches++
		return launch(f, gx, gy, gz, bx, by, bz, shared, s, args, extra)
	}
	c, log := newCheck(t, api, Config{Kernels: tinyModel(t), TimedRows: []int{16}, Match: regexp.MustCompile("^(norm_rms|gemm_bf16_forward|rotate)"), Repeats: 4, Python: noPython})
	passes(t, c, log, c.speed())
	ran := 0
	for _, n := range fake.Launches() {
		ran += n
	}
	if ran < 3*launches {
		t.Errorf("%d launches ran, of which the host made %d", ran, launches)
	}
	all := c.report.Passes
	for _, p := range c.report.Products {
		all = append(all, PassTime{Kernel: p.Kernel, Rows: p.Rows, Time: p.Time, GBs: p.GBs})
	}
	if len(c.report.Passes) == 0 || len(c.report.Products) == 0 {
		t.Fatalf("%d timings\n%s", len(all), log)
	}
	for _, p := range all {
		bytes := p.GBs * 1e9 * p.Time.Median / 1e6 * float64(p.Time.Buffers)
		if p.Time.Cached || bytes < cacheTimes*float64(c.d.L2Cache) || p.Time.Launches < p.Time.Buffers || p.Time.Median <= 0 {
			t.Errorf("%+v: %.0f bytes in turn", p, bytes)
		}
	}
	fake = fakecuda.New()
	c, log = newCheck(t, fake.API(), Config{Kernels: tinyModel(t), TimedRows: []int{16}, Match: regexp.MustCompile("^norm_rms"), Repeats: 1, Python: noPython})
	c.d.L2Cache, fake.Memory = 1<<20, 1<<20 // of which a share is used
	passes(t, c, log, c.speed())
	var page strings.Builder
	if err := c.report.Summary(&page); err != nil {
		t.Fatal(err)
	}
	if !c.report.Passes[0].Time.Cached || !strings.Contains(page.String(), inCache) {
		t.Errorf("%+v is not marked\n%s", c.report.Passes[0], page.String())
	}
}

// A Python that asks for another device, answers with no number, or not at all is
// a note at most, and what is cut short says so.
func TestTorchFaults(t *testing.T) {
	limit := torchLimit
	defer func() { torchLimit = limit }()
	for _, f := range []struct {
		script, want string
		limit        time.Duration
		ended        bool
	}{
		{script: `echo "{\"torch\": \"9.9\", \"device\": \"$CUDA_VISIBLE_DEVICES\"}"; while read line; do echo 2.5; done`, want: "torch 9.9 on GPU-", limit: limit},
		{script: `echo '{"torch": "9.9", "device": "any"}'; while read line; do echo nan; done`, want: "torch.matmul was not timed: it says that ", limit: limit},
		{script: `echo '{"torch": "9.9", "device": "any"}'; while read line; do echo inf; done`, want: "torch.matmul was not timed: it says that ", limit: limit},
		{script: `echo '{"torch": "9.9", "device": "any"}'; while read line; do echo 0; done`, want: "torch.matmul was not timed: it says that ", limit: limit},
		{script: `sleep 600`, want: "no answer in 200ms", limit: 200 * time.Millisecond},
		{script: `echo '{"torch": "9.9", "device": "any"}'; sleep 600`, want: "no answer in 2s", limit: 2 * time.Second},
		{script: `sleep 600`, limit: limit, ended: true},
	} {
		python := filepath.Join(t.TempDir(), "python")
		if err := os.WriteFile(python, []byte("#!/bin/sh\n"+f.script), 0o777); err != nil {
			t.Fatal(err)
		}
		torchLimit = f.limit
		c, log := newCheck(t, fakecuda.New().API(), Config{Python: python, Repeats: 1})
		c.report.Products = []ProductTime{{Kernel: "any", Pass: "forward", Precision: "bf16", M: 1, N: 1, K: 1, Blocks: 1, Time: Timing{Median: 5, Buffers: 2, Launches: 2}}}
		if f.ended {
			ctx, stop := context.WithCancel(t.Context())
			c.Context = ctx
			time.AfterFunc(50*time.Millisecond, stop)
			if err := c.torch(); !errors.Is(err, context.Canceled) {
				t.Errorf("what is cut short says %v", err)
			}
			continue
		}
		if err := c.torch(); err != nil || !strings.Contains(strings.Join(c.part.Notes, "\n"), f.want) {
			t.Errorf("%s: %v, no note says %q\n%s", f.script, err, f.want, log)
		}
		if p := c.report.Products[0]; strings.Contains(f.want, " on GPU-") {
			if p.Torch != 2.5 || p.Ratio != 0.5 || !strings.Contains(log.String(), c.d.UUID) {
				t.Errorf("%+v\n%s", p, log)
			}
		} else if p.Torch != 0 || p.Ratio != 0 {
			t.Errorf("%s: %+v", f.script, p)
		}
	}
}

// A model's parameters go to the device twice, whatever is timed: for training and
// for decoding. What does not fit is left out with a note, and the rest is timed.
func TestModels(t *testing.T) {
	fake := fakecuda.New()
	api := fake.API()
	copying, copied := api.MemcpyHtoDAsync, uint64(0)
	api.MemcpyHtoDAsync = func(to driver.Pointer, from unsafe.Pointer, n uint64, s driver.Stream) driver.Result {
		copied += n
		return copying(to, from, n, s)
	}
	c, log := newCheck(t, api, Config{Timed: tinyModel(t), Contexts: []int{4}, Repeats: 1})
	m := c.Timed[0].Model
	ks, err := gpu.Kernels(m)
	if err == nil {
		err = errors.Join(c.d.Load(ks), c.d.Trim())
	}
	if err != nil {
		t.Fatal(err)
	}
	size := uint64(0)
	for _, q := range m.Params() {
		size += 4 * uint64(q.Size())
	}
	copied = 0
	passes(t, c, log, c.each(c.Timed, c.model))
	if copied < 2*size || copied > 2*size+size/10 {
		t.Errorf("%d bytes were copied to the device, want twice the parameters' %d and little more", copied, size)
	}
	if n := len(c.report.Models); n != len(trainBatches)+1+len(decodeBatches) {
		t.Errorf("%d timings: %+v", n, c.report.Models)
	}
	used := uint64(0)
	for _, r := range c.report.Models {
		used = max(used, uint64(r.Memory))
	}
	c.report.Models, c.part = nil, &Part{}
	fake.Memory = used - used/8 // too little for what took the most
	passes(t, c, log, c.each(c.Timed, c.model))
	if n := len(c.report.Models); n == 0 || n >= len(trainBatches)+1+len(decodeBatches) || len(c.part.Notes) == 0 || !strings.Contains(c.part.Notes[0], "out of device memory") {
		t.Errorf("%d timings, notes %q", n, c.part.Notes)
	}
}

// Events without a time between them, or with one that is no number, are a problem,
// and leave no rate.
func TestNoTime(t *testing.T) {
	for _, ms := range []float32{0, float32(math.NaN()), float32(math.Inf(1))} {
		api := fakecuda.New().API()
		api.EventElapsedTime = func(to *float32, _, _ driver.Event) driver.Result {
			*to = ms
			return driver.Success
		}
		c, log := newCheck(t, api, Config{Kernels: tinyModel(t), TimedRows: []int{16}, Match: regexp.MustCompile("^norm_rms"), Repeats: 1, Python: noPython})
		if err := c.speed(); err != nil || len(c.part.Problems) == 0 || !strings.Contains(c.part.Problems[0], errNoTime.Error()) || len(c.report.Passes) != 0 {
			t.Errorf("%v ms: %v, timings %+v\n%s", ms, err, c.report.Passes, log)
		}
	}
}
