package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen"
	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/scratch"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// scratchModule makes a module outside this one.
func scratchModule(t *testing.T, name string) (dir string) {
	t.Helper()
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	if err := scratch.Write(dir, name, root); err != nil {
		t.Fatal(err)
	}
	return dir
}

// command runs the go command in a scratch module.
func command(t *testing.T, dir string, args ...string) string {
	t.Helper()
	out, err := scratch.Go(t.Context(), dir, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("go %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// README's way into a user's own module: the commands, in a folder that has nothing
// but the program, behind a proxy that forbids this module, which lies in a folder.
// What the cache lacks of others, files of a few versions that nothing is built
// from, comes from where the machine takes modules.
func TestReadme(t *testing.T) {
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.Contains(r.URL.Path, "/structuredffn/") {
			t.Errorf("the proxy is asked for %s", r.URL)
		}
		http.Error(w, "forbidden", http.StatusForbidden)
	}))
	defer proxy.Close()
	others, err := exec.Command("go", "env", "GOPROXY").Output()
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile(filepath.Join(root, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(filepath.Join("testdata", "downstream", "main.go"))
	if err != nil {
		t.Fatal(err)
	}
	generate := regexp.MustCompile(`(?m)^//go:generate .*$`)
	if page, own := generate.FindString(string(readme)), generate.FindString(string(program)); page != own {
		t.Errorf("README has\n%s\nthe program\n%s", page, own)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "main.go"), program, 0o666); err != nil {
		t.Fatal(err)
	}
	var commands []string
	out := ""
	for _, line := range regexp.MustCompile(`(?m)^    go .*$`).FindAllString(string(readme), -1) {
		line, _, _ = strings.Cut(line, " # ")
		args := strings.Fields(line)
		for i := range args {
			args[i] = strings.Replace(args[i], "=../sffn", "="+root, 1)
		}
		commands = append(commands, strings.Join(args, " "))
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "GOPROXY="+proxy.URL+"|"+strings.TrimSpace(string(others)), "GONOPROXY=none", "GOSUMDB=off")
		text, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s\n%v\n%s", strings.Join(commands, "\n"), err, text)
		}
		out = string(text)
	}
	if len(commands) != 7 {
		t.Fatalf("README has the commands\n%s", strings.Join(commands, "\n"))
	}
	losses := regexp.MustCompile(`loss ([\d.]+)`).FindAllStringSubmatch(out, -1)
	if len(losses) != 60 {
		t.Fatalf("the trainer printed\n%s", out)
	}
	first, err1 := strconv.ParseFloat(losses[0][1], 64)
	last, err2 := strconv.ParseFloat(losses[59][1], 64)
	if err1 != nil || err2 != nil || !(last < first/2) {
		t.Errorf("the loss went from %v to %v", first, last)
	}
}

// Random specs, generated into one scratch module, assembled and run: each
// package's own test compares every kernel with float64, and the network on
// every instruction set.
func TestDrawnSpecs(t *testing.T) {
	dir := scratchModule(t, "example.com/drawn")
	r := rand.New(rand.NewPCG(11, 12))
	// Deep sums before a product of two results.
	specs := []spec.FFN{{Kind: spec.Dense, Hidden: 1537, FFN: 48, Act: spec.SwiGLU, Bias: true}}
	for range 12 {
		specs = append(specs, drawFFN(r))
	}
	shaped := 0
	for i, f := range specs {
		pkg := gen.Package{Name: fmt.Sprintf("p%d", i), FFNs: []spec.FFN{f}}
		if i%3 == 0 {
			pkg.Formats = kernel.Formats()
		}
		t.Logf("%s: %s", pkg.Name, f.Name())
		files, err := pkg.Files()
		if err != nil {
			t.Fatalf("%s: %v", f.Name(), err)
		}
		for _, file := range files {
			shaped += bytes.Count(file.Data, []byte("TEXT ·mul_bf16_k"))
		}
		if err := gen.Write(filepath.Join(dir, pkg.Name), files); err != nil {
			t.Fatal(err)
		}
	}
	if shaped < 20 {
		t.Errorf("%d kernels for bf16 were made", shaped)
	}
	command(t, dir, "test", "./...")
}

// A structured model with and without guides: two networks that differ in
// nothing else have names of their own.
func TestGuidedBesidePlain(t *testing.T) {
	dir := scratchModule(t, "example.com/guided")
	cmd := newCommand()
	cmd.SetArgs([]string{"--config", "gpt2s-lowrank-32,gpt2s-lowrank-32-guided-fixedflop", "--out", filepath.Join(dir, "gpt2s")})
	if err := cmd.Execute(); err != nil {
		t.Fatal(err)
	}
	command(t, dir, "test", "-run", "FFNs", "./...")
}

func drawFFN(r *rand.Rand) spec.FFN {
	kind := []spec.Kind{spec.Dense, spec.LowRank, spec.BlockDense, spec.BlockShuffle}[r.IntN(4)]
	f := spec.FFN{Kind: kind, Hidden: 1 + r.IntN(200), FFN: 1 + r.IntN(900), Act: []spec.Act{spec.GELU, spec.SwiGLU}[r.IntN(2)], Bias: r.IntN(2) == 0}
	switch kind {
	case spec.LowRank:
		f.Rank = 1 + r.IntN(min(f.Hidden, f.FFN))
	case spec.BlockDense:
		f.Blocks = 1 + r.IntN(4)
		f.Hidden, f.FFN, f.Rank = f.Hidden*f.Blocks, f.FFN/2*f.Blocks+f.Blocks, f.Blocks*(1+r.IntN(40))
	case spec.BlockShuffle:
		f.Blocks = 1 + r.IntN(6)
		f.Hidden, f.FFN = f.Hidden/2*f.Blocks+f.Blocks, f.FFN/4*f.Blocks+f.Blocks
	}
	return f
}

// The generator needs none of what it generates, and nothing of training: without
// generated/ it still builds.
func TestNeedsNothingGenerated(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for line := range bytes.Lines(out) {
		if bytes.Contains(line, []byte("sffn/generated")) || bytes.Contains(line, []byte("sffn/model")) || bytes.Contains(line, []byte("sffn/runtime\n")) {
			t.Errorf("sffngen imports %s", line)
		}
	}
}
