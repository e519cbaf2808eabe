package cuda

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/internal/fakecuda"
	"github.com/structuredffn/sffn/internal/gz"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// A launcher goes by rows: nothing of the generator is linked with it.
func TestImportsNoPlanner(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").Output()
	must(t, err)
	if !strings.Contains(string(out), "sffn/runtime/cuda/table") {
		t.Fatal("the list has not what is linked")
	}
	for p := range strings.Lines(string(out)) {
		if strings.Contains(p, "sffn/gen/") || strings.Contains(p, "sffn/generated") {
			t.Errorf("runtime/cuda imports %s", strings.TrimSpace(p))
		}
	}
}

// alone makes a folder the only one that is registered.
func alone(t *testing.T, files fs.FS) {
	t.Helper()
	unread, kernels, variants := sources.unread, sources.kernels, sources.variants
	t.Cleanup(func() { sources.unread, sources.kernels, sources.variants = unread, kernels, variants })
	sources.unread, sources.kernels, sources.variants = []fs.FS{files}, nil, nil
}

// passes are the rows and the PTX of a shipped package's kernels around products.
func passes(t *testing.T) (rows []table.Kernel, ptx []byte) {
	t.Helper()
	const dir = "../../generated/gpt2s/"
	data, err := os.ReadFile(dir + table.File)
	must(t, err)
	text, err := gz.Unpack(data)
	must(t, err)
	all, err := table.Decode(text)
	must(t, err)
	for _, k := range all {
		if k.File == "passes" {
			rows = append(rows, k)
		}
	}
	ptx, err = os.ReadFile(dir + "z_passes.ptx.gz")
	must(t, err)
	return rows, ptx
}

func folder(t *testing.T, rows []table.Kernel, ptx []byte) fs.FS {
	t.Helper()
	data, err := table.Encode(rows)
	must(t, err)
	return fstest.MapFS{"z_passes.ptx.gz": {Data: ptx}, table.File: {Data: gz.Pack(data)}}
}

// Rows that were made for another text, or changed, are refused by name, whatever is
// changed. A row that lies with the right hash is caught by its text or by the proof.
func TestRowsAreHeld(t *testing.T) {
	asked := gpu.PackBF16.Kernel().Kernel
	for what, c := range map[string]struct {
		change func(k *table.Kernel)
		seal   bool // gives the row the hash that it should have
		want   string
	}{
		"as it is":               {func(*table.Kernel) {}, false, ""},
		"another grid":           {func(k *table.Kernel) { k.Grid[0].Each *= 2 }, false, "its row is stale"},
		"more shared memory":     {func(k *table.Kernel) { k.SharedBytes += 64 }, false, "its row is stale"},
		"another hash":           {func(k *table.Kernel) { k.Hash = strings.Repeat("0", 64) }, false, "its row is stale"},
		"threads, sealed":        {func(k *table.Kernel) { k.Threads = 128 }, true, "its row has 128 threads, its text 256 x 1 x 1"},
		"parameters, sealed":     {func(k *table.Kernel) { k.Params = k.Params[:2] }, true, "its row has 2 parameters, its text 3"},
		"a type, sealed":         {func(k *table.Kernel) { k.Params[2].Type, k.Params[2].Count = table.Float32, "" }, true, "its row has entries as float32, its text as .u32"},
		"half of a grid, sealed": {func(k *table.Kernel) { k.Grid[0].Each *= 2 }, true, "self-test: "},
		"no arrays, sealed":      {func(k *table.Kernel) { k.Params[1].Len.N = 0 }, true, "self-test: "},
		"huge arrays, sealed":    {func(k *table.Kernel) { k.Params[0].Len.N = 1 << 60 }, true, "its row contradicts itself: w has "},
	} {
		rows, ptx := passes(t)
		text, err := gz.Unpack(ptx)
		must(t, err)
		texts := table.Split(string(text))
		for i := range rows {
			if rows[i].Name == asked.Name {
				c.change(&rows[i])
				if c.seal {
					rows[i].Hash = rows[i].Sum(texts[asked.Name])
				}
			}
		}
		alone(t, folder(t, rows, ptx))
		err = open(t, fakecuda.New()).Load([]table.Kernel{asked})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), asked.Name)) {
			t.Errorf("%s: %v, want %q of %s", what, err, c.want, asked.Name)
		}
	}
}

// A row that gives a kernel less shared memory than its text uses does not pass the
// proof, whatever its hash says.
func TestRowOfLessSharedMemory(t *testing.T) {
	asked := gpu.SumSquares.Kernel().Kernel
	rows, ptx := passes(t)
	text, err := gz.Unpack(ptx)
	must(t, err)
	for i, k := range rows {
		if k.Name == asked.Name {
			rows[i].SharedBytes -= 16
			rows[i].Hash = rows[i].Sum(table.Split(string(text))[k.Name])
		}
	}
	alone(t, folder(t, rows, ptx))
	d, err := Open(fakecuda.New().API(), "") // which such a kernel takes down
	must(t, err)
	var wrong *MismatchError
	if err := d.Load([]table.Kernel{asked}); !errors.As(err, &wrong) || wrong.Kernel != asked.Name {
		t.Errorf("%d bytes of shared memory are enough: %v", asked.SharedBytes-16, err)
	}
}

// Of rows for one purpose the device gets the one that was made for the newest chips
// among those that it runs.
func TestVariantsByDevice(t *testing.T) {
	asked := gpu.PackBF16.Kernel().Kernel
	rows, ptx := passes(t)
	text, err := gz.Unpack(ptx)
	must(t, err)
	const newer = "pack_bf16_newer"
	src := string(text)
	t1 := table.Split(src)[asked.Name]
	src += strings.ReplaceAll(t1.Body, asked.Name, newer)
	texts := table.Split(src)
	var both []table.Kernel
	for _, k := range rows {
		if k.Name == asked.Name {
			n := k
			n.Name, n.Compute = newer, 90
			both = append(both, k, n)
		}
	}
	for i := range both {
		both[i].Hash = both[i].Sum(texts[both[i].Name])
	}
	alone(t, folder(t, both, gz.Pack([]byte(src))))
	for compute, want := range map[[2]int]string{{8, 0}: asked.Name, {8, 9}: asked.Name, {9, 0}: newer, {10, 0}: newer} {
		fake := fakecuda.New()
		fake.Compute = compute
		d := open(t, fake)
		must(t, d.Load([]table.Kernel{asked}))
		if got := d.Kernel(asked).Name; got != want {
			t.Errorf("compute capability %v runs %s, want %s", compute, got, want)
		}
	}
	alone(t, folder(t, both[1:], gz.Pack([]byte(src))))
	if err := open(t, fakecuda.New()).Load([]table.Kernel{asked}); !errors.Is(err, ErrDevice) {
		t.Errorf("only for newer devices: %v", err)
	}
}

// A folder without rows, or with ones that cannot be read, is an error that says so.
func TestDamagedRows(t *testing.T) {
	_, ptx := passes(t)
	for want, data := range map[string][]byte{
		"z_kernels.json.gz: gzip: invalid header": []byte("no gzip, but longer than its head"),
		"z_kernels.json.gz: kernels' table: ":     gz.Pack([]byte("{")),
		"version 9, this program reads 1":         gz.Pack([]byte(`{"version":9,"kernels":[]}`)),
		"z_kernels.json.gz: file does not exist":  nil,
	} {
		files := fstest.MapFS{"z_passes.ptx.gz": {Data: ptx}}
		if data != nil {
			maps.Copy(files, fstest.MapFS{table.File: {Data: data}})
		}
		alone(t, files)
		if err := open(t, fakecuda.New()).Load([]table.Kernel{gpu.PackBF16.Kernel().Kernel}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
