package tool

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/structuredffn/sffn/internal/fakecuda"
	"github.com/structuredffn/sffn/internal/goldenkernels"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/model/token"
	"github.com/structuredffn/sffn/model/train"
	"github.com/structuredffn/sffn/runtime/cuda"
	"github.com/structuredffn/sffn/runtime/cuda/driver"
	"github.com/structuredffn/sffn/runtime/kernel"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"sffn": Main, "sffn-gpu": mainOnFake})
}

// gpuModels has configurations of models whose GPU kernels goldenkernels embeds.
const gpuModels = "../../../internal/goldenkernels"

// mainOnFake is the tool on a driver that runs kernels in the PTX interpreter,
// with the kernels of gpuModels, and an image of machine code that is too new for
// that driver.
func mainOnFake() {
	loadDriver = func() (*driver.API, error) { return fakecuda.New().API(), nil }
	goldenkernels.Register()
	fatbin := []byte{0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	cuda.RegisterImages(func(string) *byte { return &fatbin[0] })
	Main()
}

// testbed is the table of the scaling laws' source.
const testbed = "../../../model/scaling/testdata/testbed.csv"

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		// Programs that sffn build makes use the machine's module and build caches.
		Setup: func(env *testscript.Env) error {
			for _, name := range []string{"GOMODCACHE", "GOCACHE"} {
				out, err := exec.Command("go", "env", name).Output()
				if err != nil {
					return err
				}
				env.Setenv(name, strings.TrimSpace(string(out)))
			}
			// What the tests compute in scripts, they compute as the tool does.
			env.Setenv(kernel.EnvISA, os.Getenv(kernel.EnvISA))
			for name, path := range map[string]string{"TESTBED": testbed, "GPU": gpuModels, "FIRST": "testdata/first", "PAPER": "../../../experiments/paper"} {
				abs, err := filepath.Abs(path)
				if err != nil {
					return err
				}
				env.Setenv(name, abs)
			}
			return nil
		},
		Condition: func(cond string) (bool, error) {
			switch isa := kernel.ISA(cond); isa {
			case "nvidia":
				_, err := os.Stat("/dev/nvidiactl")
				return err == nil, nil
			case kernel.AVX512, kernel.AVX2:
				return slices.Contains(kernel.Available(), isa), nil
			}
			return false, fmt.Errorf("unknown condition %q", cond)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			// corpus FILE writes a text long enough for both splits.
			"corpus": func(ts *testscript.TestScript, _ bool, args []string) {
				var b bytes.Buffer
				for i := range 40000 {
					fmt.Fprintf(&b, "line %d of %s, and %d more\n", i, args[0], i*i%97)
				}
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), b.Bytes(), 0o666))
			},
			// same FILE FILE compares bytes.
			"same": func(ts *testscript.TestScript, neg bool, args []string) {
				if equal := ts.ReadFile(args[0]) == ts.ReadFile(args[1]); equal == neg {
					ts.Fatalf("%s and %s: same is %v", args[0], args[1], equal)
				}
			},
			// replace OLD NEW FILE changes a text in place.
			"replace": func(ts *testscript.TestScript, _ bool, args []string) {
				text := ts.ReadFile(args[2])
				if !strings.Contains(text, args[0]) {
					ts.Fatalf("%s has no %q", args[2], args[0])
				}
				ts.Check(os.WriteFile(ts.MkAbs(args[2]), []byte(strings.ReplaceAll(text, args[0], args[1])), 0o666))
			},
			// bench-json FILE FIELD... demands that some result has each field, a
			// path of names through objects and lists.
			"bench-json": func(ts *testscript.TestScript, _ bool, args []string) {
				var all any
				ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &all))
				for _, path := range args[1:] {
					if !hasField(all, strings.Split(path, ".")) {
						ts.Fatalf("%s has no %s", args[0], path)
					}
				}
			},
			// near RUN RUN PERCENT compares the losses of two runs, step by step.
			"near": func(ts *testscript.TestScript, _ bool, args []string) {
				a, _, err := train.ReadMetrics(ts.MkAbs(args[0]), 1<<30)
				ts.Check(err)
				b, _, err := train.ReadMetrics(ts.MkAbs(args[1]), 1<<30)
				ts.Check(err)
				tol, err := strconv.ParseFloat(args[2], 64)
				ts.Check(err)
				if len(a) != len(b) || len(a) == 0 {
					ts.Fatalf("%d and %d steps", len(a), len(b))
				}
				for i := range a {
					if math.Abs(a[i].Loss-b[i].Loss) > tol/100*b[i].Loss {
						ts.Fatalf("step %d: losses %v and %v", i+1, a[i].Loss, b[i].Loss)
					}
				}
			},
			// decoded RUN IDS FILE demands that the logits of FILE are those that a
			// decoder gives for the ids, one after the other.
			"decoded": func(ts *testscript.TestScript, _ bool, args []string) {
				var m machine
				ts.Check(m.open())
				defer m.close()
				c, err := openModel(ts.MkAbs(args[0]))
				ts.Check(err)
				l, err := c.Load(m.Options)
				ts.Check(err)
				defer l.Close()
				ids, err := token.ReadIDs(ts.MkAbs(args[1]), l.Spec.Vocab, 1, l.Spec.MaxPositions)
				ts.Check(err)
				f, err := safetensors.Open(ts.MkAbs(args[2]))
				ts.Check(err)
				defer f.Close()
				if n := len(f.Tensors()); n != 1 {
					ts.Fatalf("%s has %d tensors, want one", args[2], n)
				}
				got := make([]float32, len(ids)*l.Spec.Vocab)
				ts.Check(f.ReadFloat32s(got, "logits", []int{len(ids), l.Spec.Vocab}))
				d, err := l.NewDecoder(1, len(ids))
				ts.Check(err)
				defer d.Close()
				for i := range ids {
					want, err := d.Feed([]int{0}, [][]int32{ids[i : i+1]})
					ts.Check(err)
					if !slices.Equal(got[i*l.Spec.Vocab:(i+1)*l.Spec.Vocab], want) {
						ts.Fatalf("%s: row %d is not what the decoder gives", args[2], i)
					}
				}
			},
			// ids FILE PROMPT TEXT ... demands so many tokens in each of the results of
			// generate --json.
			"ids": func(ts *testscript.TestScript, _ bool, args []string) {
				var all struct {
					Results []struct {
						PromptIDs []int32 `json:"prompt_ids"`
						IDs       []int32 `json:"ids"`
					} `json:"results"`
				}
				ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &all))
				var got []string
				for _, r := range all.Results {
					got = append(got, fmt.Sprint(len(r.PromptIDs)), fmt.Sprint(len(r.IDs)))
				}
				if !slices.Equal(got, args[1:]) {
					ts.Fatalf("%s has prompts and texts of %v tokens, want %v", args[0], got, args[1:])
				}
			},
			// copydir FROM TO copies a folder.
			"copydir": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(os.CopyFS(ts.MkAbs(args[1]), os.DirFS(ts.MkAbs(args[0]))))
			},
			// fill FILE TENSOR VALUE sets all of a tensor.
			"fill": func(ts *testscript.TestScript, _ bool, args []string) {
				name := ts.MkAbs(args[0])
				x, err := strconv.ParseFloat(args[2], 32)
				ts.Check(err)
				f, err := safetensors.Open(name)
				ts.Check(err)
				var all []safetensors.Value
				for _, t := range f.Tensors() {
					v := safetensors.Value{Name: t.Name, Shape: t.Shape}
					v.Data, err = f.Float32s(t.Name)
					ts.Check(err)
					if t.Name == args[1] {
						for i := range v.Data {
							v.Data[i] = float32(x)
						}
					}
					all = append(all, v)
				}
				if _, ok := f.Lookup(args[1]); !ok {
					ts.Fatalf("%s has no tensor %s", args[0], args[1])
				}
				ts.Check(f.Close())
				var b bytes.Buffer
				ts.Check(safetensors.Write(&b, all, f.Metadata()))
				ts.Check(os.WriteFile(name, b.Bytes(), 0o666))
			},
			// lines FILE N counts lines.
			"lines": func(ts *testscript.TestScript, _ bool, args []string) {
				if n := fmt.Sprint(strings.Count(ts.ReadFile(args[0]), "\n")); n != args[1] {
					ts.Fatalf("%s has %s lines, want %s", args[0], n, args[1])
				}
			},
		},
	})
}

// hasField reports whether a value at the end of the path, through any entry
// of each list, is neither empty nor 0.
func hasField(v any, path []string) bool {
	switch v := v.(type) {
	case []any:
		return slices.ContainsFunc(v, func(e any) bool { return hasField(e, path) })
	case map[string]any:
		if len(path) > 0 {
			return hasField(v[path[0]], path[1:])
		}
		return len(v) > 0
	}
	return len(path) == 0 && v != nil && v != "" && v != 0.0
}
