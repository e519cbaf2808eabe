package peer

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/structuredffn/sffn/model/hub"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// LlamaCPP is llama.cpp, as make llamacpp builds it in build/llamacpp, on a GGUF file of
// the type that stands for a format. Structured networks are merged in it.
type LlamaCPP struct{ Format kernel.FormatName }

// ggufTypes are the types that formats are set against: how a file is written, and what
// llama.cpp's own quantizer makes of that.
var ggufTypes = map[kernel.FormatName]struct{ written, quantized string }{
	kernel.F32: {"f32", ""}, kernel.BF16: {"bf16", ""}, kernel.Int8: {"f32", "Q8_0"}, kernel.Int4: {"f32", "Q4_0"},
}

// Name is what it is asked for by.
func (LlamaCPP) Name() string { return "llamacpp" }

func (l LlamaCPP) check() error {
	if _, ok := ggufTypes[l.Format]; !ok {
		return fmt.Errorf("llama.cpp has no type that stands for %s; want %s, %s, %s or %s", l.Format, kernel.F32, kernel.BF16, kernel.Int8, kernel.Int4)
	}
	_, err := l.program()
	return err
}

// llamaProgram is what make llamacpp builds, from the project's folder.
var llamaProgram = filepath.Join("build", "llamacpp", "bench")

// program finds llama.cpp in the project's folder: the working directory, or where sffn
// is in bin.
func (LlamaCPP) program() (string, error) {
	folders := []string{"."}
	if self, err := os.Executable(); err == nil {
		folders = append(folders, filepath.Dir(filepath.Dir(self)))
	}
	for _, dir := range folders {
		name, err := filepath.Abs(filepath.Join(dir, llamaProgram))
		if err != nil {
			return "", err
		}
		if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
			return name, nil
		} else if _, err := os.Stat(filepath.Dir(name)); err == nil {
			return "", fmt.Errorf("%s is not whole, it has no %s: build it again with make llamacpp", filepath.Dir(name), filepath.Base(name))
		}
	}
	return "", absent{fmt.Errorf("there is no %s in the working directory, nor where sffn is in bin: build it with make llamacpp", llamaProgram)}
}

// Start writes the job's parameters to a file, which llama.cpp reads. Each sequence has
// keys and values of its own, of llama.cpp's default type.
func (l LlamaCPP) Start(job Job) (p *Process, err error) {
	program, err := l.program()
	if err != nil {
		return nil, err
	}
	s := job.Model
	if s.Window > 0 && job.Seq+job.Steps > s.Window {
		return nil, fmt.Errorf("llamacpp: %s sees a window of %d positions, which a prompt of %d tokens and %d more leave; llama.cpp's file has none", s.Name, s.Window, job.Seq, job.Steps)
	}
	dir, err := os.MkdirTemp("", "sffn-llamacpp-")
	if err != nil {
		return nil, err
	}
	// What llama.cpp has opened it keeps.
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	file := filepath.Join(dir, hub.GGUFFile)
	params := job.Params()
	types := ggufTypes[l.Format]
	_, err = hub.WriteGGUF(params, file, types.written)
	params.Close()
	if err != nil {
		return nil, fmt.Errorf("llamacpp: %s: %w", s.Name, err)
	}
	if types.quantized != "" {
		from := file
		file = filepath.Join(dir, types.quantized+".gguf")
		if out, err := exec.Command(program, "quantize", from, file, types.quantized, strconv.Itoa(job.Threads)).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("llamacpp: %s: %s", s.Name, lastLine(out, err))
		}
		if err := os.Remove(from); err != nil {
			return nil, err
		}
	}
	cmd := exec.Command(program, file, strconv.Itoa(job.Threads), strconv.Itoa(job.Batch), strconv.Itoa(job.Seq), strconv.Itoa(job.Steps))
	return launch(l.Name(), cmd, strings.Trim(fmt.Sprint(job.IDs), "[]"), job.Threads)
}
