package cuda

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/structuredffn/sffn/gen/plan"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/fakecuda"
	"github.com/structuredffn/sffn/internal/gz"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// open opens the fake device and demands at the end that nothing is left of it.
func open(t *testing.T, fake *fakecuda.Device) *Device {
	t.Helper()
	d, err := Open(fake.API(), 0)
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
	for _, c := range []struct {
		fake   *fakecuda.Device
		number int
		is     error
		want   string
	}{
		{absent, 0, ErrNoDevice, "the CUDA driver finds no device"},
		{old, 0, ErrOldDriver, "the CUDA driver is too old: it is for CUDA 11.3, the kernels need 11.4 or newer"},
		{small, 0, ErrDevice, "the device is not supported: PTX interpreter has compute capability 7.5, the kernels need 8.0 or newer"},
		{fakecuda.New(), 1, nil, "device 1: the driver has 1, counted from 0"},
	} {
		if _, err := Open(c.fake.API(), c.number); err == nil || err.Error() != c.want || c.is != nil && !errors.Is(err, c.is) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
	d := open(t, fakecuda.New())
	if got := d.String(); got != "PTX interpreter (compute capability 8.0, 4 multiprocessors)" {
		t.Error(got)
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
	must(t, other.After(e))
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

func kernels(t *testing.T, fs ...spec.FFN) []plan.GPUKernel {
	t.Helper()
	for _, dir := range []string{"small", "golden", "edges", "passes"} {
		Register(os.DirFS("../../gen/cuda/testdata/" + dir))
	}
	var ps []plan.GPUFFN
	for _, f := range fs {
		p, err := plan.NewGPU(f)
		must(t, err)
		ps = append(ps, p)
	}
	return plan.GPUTable(ps...)
}

// Kernels are compared with the CPU's when they are loaded, once.
func TestLoad(t *testing.T) {
	fake := fakecuda.New()
	d := open(t, fake)
	ks := kernels(t, small...)
	must(t, d.Load(ks))
	ran := fake.Launches()
	for _, k := range ks {
		if ran[k.Name] != 1 || d.Kernel(k) == nil {
			t.Errorf("%s ran %d times", k.Name, ran[k.Name])
		}
	}
	must(t, d.Load(ks))
	if n := fake.Launches(); len(n) != len(ran) || n[ks[0].Name] != 1 {
		t.Error("kernels were tried again")
	}
	if m := d.Memory(); m.Used != 0 || m.Cached != 0 {
		t.Errorf("the self-test left memory: %+v", m)
	}
	wide := plan.GPUKernel{Name: "gemm_bf16_of_nothing"}
	var missing *MissingError
	if err := d.Load([]plan.GPUKernel{ks[0], wide}); !errors.As(err, &missing) || err.Error() != "1 GPU kernels are not in this program (gemm_bf16_of_nothing)" {
		t.Errorf("%v", err)
	}
	p := ks[slices.IndexFunc(ks, func(k plan.GPUKernel) bool { return k.Template == "gemm" && !k.Plan.(plan.GPUProduct).Split() })].Plan.(plan.GPUProduct)
	// The same product with another pipeline, or for other registers, is another kernel.
	stages, blocks := p, p
	stages.Stages, blocks.BlocksPerSM = 2*p.Stages, 1
	for _, p := range []plan.GPUProduct{stages, blocks} {
		if err := d.Load([]plan.GPUKernel{p.Kernel()}); !errors.As(err, &missing) {
			t.Errorf("%s: %v", p.Name(), err)
		}
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
		Register(fstest.MapFS{"z_" + name + ".ptx.gz": {Data: c.data}, "z_cuda.txt": {Data: []byte("no PTX")}})
		d := open(t, fakecuda.New())
		for range 2 {
			if err := d.Load([]plan.GPUKernel{{Name: "none"}}); err == nil || err.Error() != c.want {
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
	ks := plan.GPUUnique([]plan.GPUKernel{plan.PackBF16.Kernel(), plan.SumSquares.Kernel()})
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
		{"B200", [2]int{10, 0}, false, nil, "cuModuleLoadData: CUDA_ERROR_NO_BINARY_FOR_GPU (209): "},
		{"old driver", [2]int{9, 0}, true, nil, "cuModuleLoadData: CUDA_ERROR_INVALID_IMAGE (200): "},
		{"damaged", [2]int{8, 0}, false, func(fatbin []byte) { fatbin[len(fatbin)/2] ^= 1 }, "cuModuleLoadData: CUDA_ERROR_INVALID_IMAGE (200): "},
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
				if fake.Launches()[k.Name] != 1 {
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
		if _, ok := families[k.Template]; !ok {
			t.Errorf("%s: no self-test", k.Template)
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
			d, err := Open(fake.API(), 0)
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
func launchable(t *testing.T, d *Device, s *Stream, tokens int) (*Kernel, plan.GPUCountsOf, Args) {
	t.Helper()
	p, err := plan.NewGPU(small[0])
	must(t, err)
	k := p.FC2.Factors[0].Few.Kernel()
	kernels(t, small[0])
	must(t, d.Load([]plan.GPUKernel{k}))
	c := plan.GPUCountsOf{plan.Tokens: tokens, plan.Parts: 1}
	args := Args{"split": Uint32(1)}
	for _, q := range k.Params {
		if q.Type.Array() && !q.Optional {
			b := alloc(t, d, q.Bytes(c))
			args[q.Name] = b
			if q.Access == plan.Read {
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
		Of[uint16](h)[0] = toBF16(first)
		must(t, g.Launch(s))
		got, err := download(s, args["c"].(Buffer), plan.ArrayBF16, 3*64)
		must(t, err)
		if got[0] != 135+first || got[63] != 135+first || got[64] != 136 {
			t.Errorf("first row %v, second %v, want %v and 136", got[0], got[64], 135+first)
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
	d, err := Open(fake.API(), 0)
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
