package cuda

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"unsafe"
	"weak"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/fakecuda"
	"github.com/structuredffn/sffn/internal/gpuproof"
	"github.com/structuredffn/sffn/internal/gz"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// open opens the fake device and demands at the end that nothing is left of it.
func open(t *testing.T, fake *fakecuda.Device) *Device {
	t.Helper()
	d, err := Open(fake.API(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
		if left := fake.Left(); left != "" {
			t.Error(left)
		}
	})
	return d
}

func newStream(t *testing.T, d *Device) *Stream {
	t.Helper()
	s, err := d.NewStream()
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func alloc(t *testing.T, d *Device, n int) Buffer {
	t.Helper()
	b, err := d.Alloc(n)
	must(t, err)
	return b
}

func TestOpen(t *testing.T) {
	absent, old, small := fakecuda.New(), fakecuda.New(), fakecuda.New()
	absent.Absent, old.Version, small.Compute = true, 11030, [2]int{7, 5}
	const devices = "0 is PTX interpreter (GPU-5ffa4e00-0000-0000-0000-000000000000), 1 is PTX interpreter (GPU-5ffb0000-0000-0000-0000-000000000000)"
	two := fakecuda.New()
	two.UUIDs = append(two.UUIDs, driver.UUID{0x5f, 0xfb})
	for _, c := range []struct {
		fake  *fakecuda.Device
		which string
		is    error
		want  string
	}{
		{absent, "", ErrNoDevice, "the CUDA driver finds no device"},
		{old, "", ErrOldDriver, "the CUDA driver is too old: it is for CUDA 11.3, the kernels need 11.4 or newer"},
		{small, "", ErrDevice, "the device is not supported: PTX interpreter has compute capability 7.5, the kernels need 8.0 or newer"},
		{fakecuda.New(), "1", nil, "device 1 is not there: 0 is PTX interpreter (GPU-5ffa4e00-0000-0000-0000-000000000000)"},
		{two, "2", nil, "device 2 is not there: " + devices},
		{two, "GPU-5ffc", nil, "device GPU-5ffc is not there: " + devices},
		{two, "GPU-5ff", nil, "device GPU-5ff may be any of 2: " + devices},
		{two, "-1", nil, `device "-1": want a number from 0, or a UUID that begins with GPU-`},
		{two, "GPU-", nil, `device "GPU-": want a number from 0, or a UUID that begins with GPU-`},
	} {
		if _, err := Open(c.fake.API(), c.which); err == nil || err.Error() != c.want || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
	d := open(t, fakecuda.New())
	if got := d.String(); got != "PTX interpreter (compute capability 8.0, 4 multiprocessors)" {
		t.Error(got)
	}
	if d.UUID != "GPU-5ffa4e00-0000-0000-0000-000000000000" || d.Driver != 12040 || d.Library != "PTX interpreter" || d.TotalMemory != 2<<30 ||
		d.L2Cache != 64<<10 || d.ClockRate != 1.41e9 || d.MemoryBandwidth != 1555.2e9 {
		t.Errorf("%+v", d)
	}
	// The device that was asked for is the one that is used.
	for which, number := range map[string]driver.Device{"": 0, "0": 0, "1": 1, "GPU-5FFB0000-0000-0000-0000-000000000000": 1, "GPU-5ffa": 0} {
		d, err := Open(two.API(), which)
		must(t, err)
		if use := two.InUse(); d.UUID != two.UUIDs[number].String() || len(use) != 1 || use[0] != number {
			t.Errorf("%q opens %s and uses %v, want device %d", which, d.UUID, use, number)
		}
		alloc(t, d, 100)
		must(t, d.Close())
	}
}

// Memory comes from what was freed where it can, and errors say what is short.
func TestMemory(t *testing.T) {
	fake := fakecuda.New()
	fake.Memory = 1 << 20
	d := open(t, fake)
	a, b := alloc(t, d, 100_000), alloc(t, d, 100)
	if m := d.Memory(); m.Used != 106496+512 || m.Peak != m.Used || m.Allocated != 2 {
		t.Errorf("%+v", m)
	}
	d.Free(a)
	if c := alloc(t, d, 99_000); c.at != a.at || c.Size() != 99_000 {
		t.Errorf("%+v does not reuse %+v", c, a)
	}
	if m := d.Memory(); m.Reused != 1 || m.Allocated != 2 || m.Cached != 0 {
		t.Errorf("%+v", m)
	}
	_, err := d.Alloc(2_000_000)
	var e *MemoryError
	if !errors.As(err, &e) || !errors.Is(err, driver.OutOfMemory) ||
		err.Error() != "out of device memory: 2097152 bytes more are wanted, 941568 of 1048576 are free; this program holds 107008" {
		t.Errorf("%v", err)
	}
	// What was freed goes back to the driver where something larger needs it.
	d.Free(b)
	big := alloc(t, d, 800_000)
	d.Free(big)
	if alloc(t, d, 900_000); d.Memory().Cached != 0 {
		t.Errorf("%+v", d.Memory())
	}
	if _, err := d.Alloc(0); err == nil {
		t.Error("no bytes")
	}
	for n := int64(1); n < 1<<40; n = n*9/8 + 1 {
		if c := class(n); c < n || c > max(512, n+n/8+512) || class(c) != c {
			t.Errorf("%d bytes take %d", n, c)
		}
	}
}

// Work of a stream is done in order, when somebody waits, on any thread.
func TestStreams(t *testing.T) {
	d := open(t, fakecuda.New())
	s, other := newStream(t, d), newStream(t, d)
	a, b := alloc(t, d, 16), alloc(t, d, 16)
	h, err := d.AllocHost(16)
	must(t, err)
	defer h.Close()
	copy(Of[int32](h), []int32{1, 2, 3, 4})
	must(t, s.Push(a, h, 16))
	must(t, s.Copy(b, a))
	e, err := s.Record()
	must(t, err)
	must(t, s.Wait())
	must(t, other.Copy(a, b))
	must(t, other.Wait())
	later, err := s.Record()
	must(t, err)
	must(t, s.Clear(b.Slice(4, 8)))
	got := make([]int32, 4)
	must(t, Download(s, got, b))
	if !slices.Equal(got, []int32{1, 0, 0, 4}) {
		t.Errorf("b is %v", got)
	}
	if dt, err := later.Since(e); err != nil || dt < 0 {
		t.Errorf("%v seconds, %v", dt, err)
	}
	must(t, e.Close())
	must(t, later.Close())
	// Host memory that changes before the copy was waited for is a mistake that
	// the fake driver shows.
	must(t, s.Push(a, h, 16))
	Of[int32](h)[0] = 9
	must(t, Download(s, got, a))
	if got[0] != 9 {
		t.Error("a copy did not wait")
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			v := make([]int32, 1)
			if err := Download(s, v, a.Slice(4*(i%4), 4)); err != nil {
				t.Error(err)
			}
		})
		wg.Wait()
	}
	for name, err := range map[string]error{"push": s.Push(a.Slice(0, 8), h, 16), "pull": s.Pull(h, a.Slice(0, 8), 16), "upload": Upload(s, a, make([]int32, 5)), "download": Download(s, make([]int32, 5), a)} {
		if err == nil {
			t.Errorf("%s of too much", name)
		}
	}
}

// small are networks whose kernels gen/cuda has compiled for its tests.
var small = []spec.FFN{
	{Kind: spec.Dense, Hidden: 64, FFN: 136, Act: spec.SwiGLU},
	{Kind: spec.BlockShuffle, Hidden: 192, FFN: 384, Blocks: 2, Act: spec.GELU},
	{Kind: spec.LowRank, Hidden: 72, FFN: 208, Rank: 40, Act: spec.GELU},
}

func kernels(t *testing.T, fs ...spec.FFN) []table.Kernel {
	t.Helper()
	for _, dir := range []string{"gen/cuda/testdata/small", "gen/cuda/testdata/edges", "gen/cuda/testdata/passes", "internal/goldenkernels/layers"} {
		Register(os.DirFS("../../" + dir))
	}
	var ps []gpu.FFN
	for _, f := range fs {
		p, err := gpu.NewBF16(f)
		must(t, err)
		ps = append(ps, p)
	}
	return gpu.Rows(gpu.Table(ps...))
}

// Kernels are compared with the CPU's when they are loaded, once.
func TestLoad(t *testing.T) {
	fake := fakecuda.New()
	d := open(t, fake)
	ks := kernels(t, small...)
	must(t, d.Load(ks))
	ran := fake.Launches()
	for _, k := range ks {
		if ran[k.Name] < 1 || d.Kernel(k) == nil {
			t.Errorf("%s ran %d times", k.Name, ran[k.Name])
		}
	}
	must(t, d.Load(ks))
	if n := fake.Launches(); !maps.Equal(n, ran) {
		t.Error("kernels were tried again")
	}
	if m := d.Memory(); m.Used != 0 || m.Cached != 0 {
		t.Errorf("the self-test left memory: %+v", m)
	}
	wide := table.Kernel{Name: "gemm_bf16_of_nothing"}
	var missing *MissingError
	if err := d.Load([]table.Kernel{ks[0], wide}); !errors.As(err, &missing) || err.Error() != "1 GPU kernels are not in this program (gemm_bf16_of_nothing)" {
		t.Errorf("%v", err)
	}
	// What is asked for is a product, not the threads and the pipeline of one that does
	// it: what runs is the program's, by its own row.
	p, err := gpu.NewBF16(small[0])
	must(t, err)
	other, own := p.FC1.Factors[0].Forward, p.FC1.Factors[0].Forward.Kernel()
	other.Stages, other.BlocksPerSM = 2*other.Stages, 1
	asked := other.Kernel().Kernel
	must(t, d.Load([]table.Kernel{asked}))
	if got := d.Kernel(asked); got.Name != own.Name || got.SharedBytes != own.SharedBytes || asked.Name == own.Name {
		t.Errorf("%s runs as %s with %d bytes of shared memory, want %s with %d", asked.Name, got.Name, got.SharedBytes, own.Name, own.SharedBytes)
	}
	// Another product is missing.
	other.Bias = !other.Bias
	if err := d.Load([]table.Kernel{other.Kernel().Kernel}); !errors.As(err, &missing) {
		t.Errorf("%s: %v", other.Kernel().Name, err)
	}
}

// A folder whose PTX cannot be read is an error of every kernel, which names the
// file.
func TestDamagedPTX(t *testing.T) {
	defer func() { sources.unread = nil }()
	for name, c := range map[string]struct {
		data []byte
		want string
	}{
		"cut":          {gz.Pack([]byte(".version 7.0\n"))[:20], "cuda: z_cut.ptx.gz: unexpected EOF"},
		"not packed":   {[]byte(".version 7.0\n"), "cuda: z_not packed.ptx.gz: gzip: invalid header"},
		"without end":  {gz.Pack(make([]byte, gz.Limit+1)), "cuda: z_without end.ptx.gz: gzip: more than 67108864 bytes of text"},
		"as it should": {gz.Pack([]byte(".version 7.0\n")), "1 GPU kernels are not in this program (none)"},
	} {
		sources.unread = nil
		rows, err := table.Encode(nil)
		must(t, err)
		Register(fstest.MapFS{"z_" + name + ".ptx.gz": {Data: c.data}, "z_cuda.txt": {Data: []byte("no PTX")}, table.File: {Data: gz.Pack(rows)}})
		d := open(t, fakecuda.New())
		for range 2 {
			if err := d.Load([]table.Kernel{{Name: "none"}}); err == nil || err.Error() != c.want {
				t.Errorf("%s: %v, want %s", name, err, c.want)
			}
		}
	}
}

// Machine code comes before PTX where the driver takes it: for the chips that it
// was made for, if the driver is not older. Elsewhere the driver compiles PTX, and
// the device says why. Both are compared with the CPU's kernels.
func TestMachineCode(t *testing.T) {
	const dir = "../../generated/gpt2s"
	Register(os.DirFS(dir))
	data, err := os.ReadFile(dir + "/z_passes.ptx.gz")
	must(t, err)
	src, err := gz.Unpack(data)
	must(t, err)
	committed, err := os.ReadFile(dir + "/z_passes.fatbin")
	must(t, err)
	ks := gpu.Rows(gpu.Unique([]gpu.Kernel{gpu.PackBF16.Kernel(), gpu.SumSquares.Kernel()}))
	for _, c := range []struct {
		name    string
		compute [2]int
		old     bool // the driver
		change  func(fatbin []byte)
		refused string
	}{
		{"A100", [2]int{8, 0}, false, nil, ""},
		{"RTX 4090", [2]int{8, 9}, false, nil, ""},
		{"H100", [2]int{9, 0}, false, nil, ""},
		{"B200", [2]int{10, 0}, false, nil, "cuModuleLoadDataEx: CUDA_ERROR_NO_BINARY_FOR_GPU (209): "},
		{"old driver", [2]int{9, 0}, true, nil, "cuModuleLoadDataEx: CUDA_ERROR_INVALID_IMAGE (200): "},
		{"damaged", [2]int{8, 0}, false, func(fatbin []byte) { fatbin[len(fatbin)/2] ^= 1 }, "cuModuleLoadDataEx: CUDA_ERROR_INVALID_IMAGE (200): "},
	} {
		t.Run(c.name, func(t *testing.T) {
			fatbin := slices.Clone(committed)
			if c.change != nil {
				c.change(fatbin)
			}
			RegisterImages(Embedded(fstest.MapFS{"z_passes.fatbin": {Data: fatbin}}))
			defer func() { sources.images = nil }()
			fake := fakecuda.New()
			fake.Compute = c.compute
			if !c.old {
				fake.Assembled = func(code []byte) string {
					if !bytes.Equal(code, committed) {
						return ""
					}
					return string(src)
				}
			}
			var texts []string
			fake.Tamper = func(ptx string) string { texts = append(texts, ptx); return ptx }
			d := open(t, fake)
			must(t, d.Load(ks))
			for _, k := range ks {
				if fake.Launches()[k.Name] < 1 {
					t.Errorf("%s ran %d times", k.Name, fake.Launches()[k.Name])
				}
			}
			if len(texts) != 1 || (texts[0] == string(src)) != (c.refused == "") {
				t.Errorf("%d modules were loaded, or not from what they should be", len(texts))
			}
			if c.refused == "" && d.FromPTX != nil || c.refused != "" && !strings.HasPrefix(fmt.Sprint(d.FromPTX), c.refused) {
				t.Errorf("from PTX because of %v, want %q", d.FromPTX, c.refused)
			}
		})
	}
	// A driver that takes neither says what it would need.
	RegisterImages(Embedded(os.DirFS(dir)))
	defer func() { sources.images = nil }()
	fake := fakecuda.New()
	fake.Tamper = func(ptx string) string { return strings.Replace(ptx, ".version 7.0", ".version 9.9", 1) }
	if err := open(t, fake).Load(ks); !errors.Is(err, ErrOldDriver) {
		t.Errorf("%v, want %v", err, ErrOldDriver)
	}
	// Machine code that computes something else is refused like PTX.
	fake = fakecuda.New()
	fake.Assembled = func([]byte) string { return strings.ReplaceAll(string(src), "add.f32", "sub.f32") }
	if err := open(t, fake).Load(ks); err == nil || !strings.Contains(err.Error(), "self-test: sum_") {
		t.Errorf("%v, want a failed self-test", err)
	}
}

// Every template has a self-test.
func TestFamilies(t *testing.T) {
	for _, k := range kernels(t, small...) {
		if !gpuproof.Knows(k.Role) {
			t.Errorf("%s: no self-test", k.Role)
		}
	}
}

// A kernel that computes something else, and one that does what it must not, is
// refused with words that name it, and so is the device.
func TestRefusal(t *testing.T) {
	for _, c := range []struct{ name, old, new, want string }{
		{"another constant of GELU", "0f3D372713", "0f3D972713", "self-test: gemm_bf16_"},
		{"a sum begun with one", "0f00000000", "0f3F800000", "self-test: gemm_bf16_"},
		{"a difference for a sum", "add.f32", "sub.f32", "self-test: gemm_bf16_"},
		{"a barrier left out", "bar.sync \t0;", "", "shared memory"},
		{"a row too far", "setp.ge.u32", "setp.gt.u32", "gemm_bf16_"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fake := fakecuda.New()
			d, err := Open(fake.API(), "")
			must(t, err)
			tampered := 0
			fake.Tamper = func(ptx string) string {
				tampered += strings.Count(ptx, c.old)
				return strings.ReplaceAll(ptx, c.old, c.new)
			}
			ks := kernels(t, small[2])
			err = d.Load(ks)
			if tampered == 0 {
				t.Skipf("no %q in the PTX", c.old)
			}
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %s", err, c.want)
			}
			t.Log(err)
			if again := d.Load(ks); again == nil {
				t.Error("the device was used after all")
			}
		})
	}
}

// launchable loads one forward kernel and its operands.
func launchable(t *testing.T, d *Device, s *Stream, tokens int) (*Kernel, table.Counts, Args) {
	t.Helper()
	p, err := gpu.NewBF16(small[0])
	must(t, err)
	k := p.FC2.Factors[0].Few.Kernel().Kernel
	kernels(t, small[0])
	must(t, d.Load([]table.Kernel{k}))
	c := table.Counts{table.Tokens: tokens, table.Parts: 1}
	args := Args{"split": Uint32(1)}
	for _, q := range k.Params {
		if q.Type.Array() && !q.Optional {
			b := alloc(t, d, q.Bytes(c))
			args[q.Name] = b
			if q.Access == table.Read {
				must(t, Upload(s, b, bytes.Repeat([]byte{0x80, 0x3f}, b.size/2))) // ones
			}
		}
	}
	return d.Kernel(k), c, args
}

// A graph does again what was recorded, with what its buffers hold then.
func TestGraph(t *testing.T) {
	fake := fakecuda.New()
	d := open(t, fake)
	s := newStream(t, d)
	k, c, args := launchable(t, d, s, 3)
	before := fake.Launches()[k.Name]
	h, err := d.AllocHost(2)
	must(t, err)
	defer h.Close()
	g, err := s.Capture(func() error {
		return errors.Join(s.Push(args["a"].(Buffer), h, 2), s.Launch(k, c, args))
	})
	must(t, err)
	if n := fake.Launches()[k.Name]; n != before {
		t.Error("the capture ran")
	}
	// The sum of 136 ones, the first of them replaced.
	for _, first := range []float32{0, 120, -136} {
		bf16 := func(f float32) uint16 { return uint16(math.Float32bits(f) >> 16) } // of few digits
		Of[uint16](h)[0] = bf16(first)
		must(t, g.Launch(s))
		got := make([]uint16, 3*64)
		must(t, Download(s, got, args["c"].(Buffer)))
		if want := bf16(135 + first); got[0] != want || got[63] != want || got[64] != bf16(136) {
			t.Errorf("first row %#x, second %#x, want %#x and %#x", got[0], got[64], want, bf16(136))
		}
	}
	must(t, g.Close())
	if _, err := s.Capture(func() error { _, err := d.Alloc(10); return err }); !errors.Is(err, driver.Capturing) {
		t.Errorf("allocation in a capture: %v", err)
	}
	if _, err := s.Capture(s.Wait); !errors.Is(err, driver.Capturing) {
		t.Errorf("wait in a capture: %v", err)
	}
	must(t, s.Wait())
}

// What a launch lacks is an error before it runs; what a kernel does wrong is one
// when somebody waits, and every call after that.
func TestLaunchErrors(t *testing.T) {
	fake := fakecuda.New()
	d, err := Open(fake.API(), "")
	must(t, err)
	s, err := d.NewStream()
	must(t, err)
	k, c, args := launchable(t, d, s, 3)
	for _, e := range []struct {
		change func(Args)
		want   string
	}{
		{func(a Args) { delete(a, "b") }, "no argument for b"},
		{func(a Args) { a["d"] = a["b"] }, "arguments, of which it has"},
		{func(a Args) { a["a"] = a["a"].(Buffer).Slice(0, 16) }, "a has 16 bytes, want 816 for map[parts:1 tokens:3]"},
		{func(a Args) { a["a"] = Uint32(3) }, "a is no bf16[]"},
		{func(a Args) { a["split"] = Float32(3) }, "split is no uint32"},
	} {
		a := Args{}
		for name, v := range args {
			a[name] = v
		}
		e.change(a)
		if err := s.Launch(k, c, a); err == nil || !strings.Contains(err.Error(), e.want) {
			t.Errorf("%v, want %s", err, e.want)
		}
	}
	fresh := Args{}
	for name, v := range args {
		fresh[name] = v
	}
	fresh["a"] = alloc(t, d, fresh["a"].(Buffer).size)
	must(t, s.Launch(k, c, fresh))
	want := fmt.Sprintf("cuStreamSynchronize: CUDA_ERROR_LAUNCH_FAILED (719): %s: uninitialised read: block", k.Name)
	if err := s.Wait(); !errors.Is(err, driver.LaunchFailed) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want %s", err, want)
	}
	if err := s.Launch(k, c, args); !errors.Is(err, driver.LaunchFailed) {
		t.Errorf("after a failed launch: %v", err)
	}
}

// Counts and grids that their parameters cannot hold are errors before a launch,
// never a number cut off.
func TestCounts(t *testing.T) {
	fake := fakecuda.New()
	d := open(t, fake)
	s := newStream(t, d)
	k, c, args := launchable(t, d, s, 3)
	ran := fake.Launches()[k.Name]
	const most = 1<<32 - 1
	for _, e := range []struct {
		change func(k *Kernel, c table.Counts, a Args)
		want   string
	}{
		{func(_ *Kernel, c table.Counts, _ Args) { c[table.Tokens] = most + 1 + 3 }, "tokens is 4294967299, want 0 to 4294967295"},
		{func(_ *Kernel, c table.Counts, _ Args) { c[table.Tokens] = -3 }, "tokens is -3, want 0 to 4294967295"},
		{func(_ *Kernel, c table.Counts, _ Args) { c[table.Tokens] = 0 }, "a grid of 0 blocks in direction y for map[parts:1 tokens:0], want 1 to 65535"},
		{func(k *Kernel, _ table.Counts, _ Args) {
			k.Grid[0] = table.Extent{N: 1 << 30, Of: table.Tokens, Plus: 1 << 30}
		}, "a grid of 4294967296 blocks in direction x"},
		{func(k *Kernel, c table.Counts, _ Args) {
			k.Grid[1] = table.Extent{N: 1, Of: table.Tokens}
			c[table.Tokens] = 65536
		}, "a grid of 65536 blocks in direction y for map[parts:1 tokens:65536], want 1 to 65535"},
		{func(k *Kernel, c table.Counts, _ Args) {
			k.Grid[1], k.Grid[2] = table.Extent{N: 1}, table.Extent{N: 1 << 62, Of: table.Tokens, Times: table.Parts}
			c[table.Tokens], c[table.Parts] = most, most
		}, "a grid of 9223372036854775807 blocks in direction z"},
		{func(k *Kernel, c table.Counts, _ Args) {
			k.Params[0].Len = table.Extent{N: 1 << 62, Of: table.Tokens}
			c[table.Tokens] = 4
		}, "want 9223372036854775807 for map"},
		{func(_ *Kernel, _ table.Counts, a Args) { a["split"] = Int(most + 2) }, "split is 4294967297, want 0 to 4294967295"},
		{func(_ *Kernel, _ table.Counts, a Args) { a["split"] = Int(-1) }, "split is -1, want 0 to 4294967295"},
	} {
		k2, c2, a2 := *k, maps.Clone(c), maps.Clone(args)
		k2.Params = slices.Clone(k.Params)
		e.change(&k2, c2, a2)
		if err := s.Launch(&k2, c2, a2); err == nil || !strings.HasPrefix(err.Error(), "cuda: "+k.Name+": ") || !strings.Contains(err.Error(), e.want) {
			t.Errorf("%v, want %s", err, e.want)
		}
	}
	must(t, s.Wait())
	if fake.Launches()[k.Name] != ran {
		t.Error("a launch that was refused ran")
	}
	args["split"] = Int(1)
	must(t, s.Launch(k, c, args))
}

// An error that comes up late says that it does; waiting for each launch, it
// names the kernel.
func TestSync(t *testing.T) {
	broken := func() (*Device, *Stream, func() error) {
		d, err := Open(fakecuda.New().API(), "")
		must(t, err)
		s, err := d.NewStream()
		must(t, err)
		k, c, args := launchable(t, d, s, 3)
		args["a"] = alloc(t, d, args["a"].(Buffer).size) // never written
		return d, s, func() error { return s.Launch(k, c, args) }
	}
	_, s, launch := broken()
	must(t, launch())
	const hint = "this is of an earlier launch: with SFFN_CUDA_SYNC=1 each is waited for, and the error names the kernel"
	if err := s.Wait(); !errors.Is(err, driver.LaunchFailed) || !strings.HasSuffix(err.Error(), hint) {
		t.Errorf("%v, want %s", err, hint)
	}
	t.Setenv(EnvSync, "1")
	d, s, launch := broken()
	if err := launch(); !errors.Is(err, driver.LaunchFailed) || !strings.HasPrefix(err.Error(), "cuda: gemm_bf16_") || strings.Contains(err.Error(), EnvSync) {
		t.Errorf("%v, want the kernel's name", err)
	}
	if _, err := s.Capture(func() error { return nil }); err == nil || err.Error() != "cuda: no graph is recorded with SFFN_CUDA_SYNC, which waits for each kernel" {
		t.Errorf("a graph: %v", err)
	}
	if !d.Sync {
		t.Error("a device does not say that it waits")
	}
	t.Setenv(EnvSync, "yes?")
	if _, err := Open(fakecuda.New().API(), ""); err == nil || err.Error() != "SFFN_CUDA_SYNC=yes?: want 0 or 1" {
		t.Errorf("%v", err)
	}
	t.Setenv(EnvSync, "0")
	if d := open(t, fakecuda.New()); d.Sync {
		t.Error("0 means 1")
	}
}

// Memory of Go's stays until a copy that the call only enqueued is done. The
// driver here keeps addresses as C does: nothing else holds the memory.
func TestCopiesHoldMemory(t *testing.T) {
	fake := fakecuda.New()
	api := fake.API()
	var held weak.Pointer[uint32]
	copies, lost := 0, 0
	hold := func(p unsafe.Pointer) driver.Result {
		copies++
		held = weak.Make((*uint32)(p))
		return driver.Success
	}
	api.MemcpyHtoDAsync = func(_ driver.Pointer, from unsafe.Pointer, _ uint64, _ driver.Stream) driver.Result {
		return hold(from)
	}
	api.MemcpyDtoHAsync = func(to unsafe.Pointer, _ driver.Pointer, _ uint64, _ driver.Stream) driver.Result { return hold(to) }
	wait := api.StreamSynchronize
	api.StreamSynchronize = func(s driver.Stream) driver.Result {
		if copies > 0 {
			runtime.GC()
			if held.Value() == nil {
				lost++
			}
		}
		return wait(s)
	}
	d, err := Open(api, "")
	must(t, err)
	defer d.Close()
	s, err := d.NewStream()
	must(t, err)
	b := alloc(t, d, 4<<10)
	must(t, Upload(s, b, make([]uint32, 1<<10)))
	must(t, Download(s, make([]uint32, 1<<10), b))
	if copies != 2 || lost > 0 {
		t.Errorf("%d copies, of which %d lost their memory", copies, lost)
	}
	copies = 0
	must(t, s.Close())
}

// So does what a module was loaded from, until it is unloaded.
func TestModulesHoldImages(t *testing.T) {
	fake := fakecuda.New()
	api := fake.API()
	var images []weak.Pointer[byte]
	loadData := api.ModuleLoadDataEx
	api.ModuleLoadDataEx = func(m *driver.Module, image *byte, n uint32, options, values unsafe.Pointer) driver.Result {
		images = append(images, weak.Make(image))
		return loadData(m, image, n, options, values)
	}
	d, err := Open(api, "")
	must(t, err)
	must(t, d.Load(kernels(t, small[2])[:1]))
	gone := func() (n int) {
		runtime.GC()
		for _, image := range images {
			if image.Value() == nil {
				n++
			}
		}
		return n
	}
	if n := gone(); len(images) == 0 || n > 0 {
		t.Errorf("%d of %d images are gone while their modules are loaded", n, len(images))
	}
	must(t, d.Close())
	if n := gone(); n != len(images) {
		t.Errorf("%d of %d images are gone after the modules", n, len(images))
	}
}

// What the driver's compiler says of text that it refuses is part of the error.
func TestCompilerLog(t *testing.T) {
	fake := fakecuda.New()
	fake.Tamper = func(ptx string) string { return strings.ReplaceAll(ptx, "add.f32", "frobnicate.f32") }
	d := open(t, fake)
	err := d.Load(kernels(t, small[2]))
	if !errors.Is(err, driver.InvalidPTX) || !strings.Contains(err.Error(), `CUDA_ERROR_INVALID_PTX (218)`) || !strings.Contains(err.Error(), "frobnicate.f32") {
		t.Errorf("%v, want the compiler's words", err)
	}
	t.Log(err)
}

// Programs that link kernels do not link what loads the driver, and with it
// depend on the system's libraries, unless they ask for it.
func TestDependencies(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".", "../../model/...", "../../generated/...").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if strings.Contains(string(out), "purego") || !strings.Contains(string(out), "runtime/cuda/driver") {
		t.Errorf("the libraries depend on\n%s", out)
	}
}
