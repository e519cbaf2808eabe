package peer

import (
	"bufio"
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"

	"github.com/structuredffn/sffn/gen/spec"
)

//go:embed torchmodels.py
var torchScript string

// Torch is PyTorch, as the python3 of PATH finds it: each of its operations
// by itself (eager), or all of them compiled by torch.compile.
type Torch struct{ Compile bool }

// Name is what it is asked for by.
func (t Torch) Name() string {
	if t.Compile {
		return "torch-compile"
	}
	return "torch"
}

func (t Torch) check() error {
	if out, err := exec.Command("python3", "-c", "import torch").CombinedOutput(); err != nil {
		return fmt.Errorf("python3 has no torch (%s): install it with pip install torch, and have its python3 first in PATH", lastLine(out, err))
	}
	if !t.Compile {
		return nil
	}
	cxx := os.Getenv("CXX")
	if cxx == "" {
		cxx = "g++"
	}
	if _, err := exec.LookPath(cxx); err != nil {
		return fmt.Errorf("torch.compile needs a C++ compiler: install g++, or name another one in CXX (%w)", err)
	}
	return nil
}

// lastLine is where Python says what went wrong.
func lastLine(text []byte, otherwise error) string {
	if text = bytes.TrimSpace(text); len(text) == 0 {
		return otherwise.Error()
	}
	return string(text[bytes.LastIndexByte(text, '\n')+1:])
}

// FindTorch returns the ways to run PyTorch that are named torch and
// torch-compile, or both for "all": then absent says why one cannot run here.
func FindTorch(names []string) (found []Torch, absent []error, err error) {
	return find(names, []Torch{{}, {Compile: true}})
}

// Job says what PyTorch is to build.
type Job struct {
	// Mode is ffn (operations forward, forward and backward), train (train) or
	// decode (prefill, decode).
	Mode    string
	Threads int
	// FFN and Rows are for ffn, Model and what follows for the others: Batch
	// sequences IDs, whose Targets follow them in training. Decoding fills in
	// the first Seq tokens of each and goes on with the one after them, at one
	// of Steps places behind the prompt in turn.
	FFN               *spec.FFN
	Rows              int
	Model             *spec.Model
	Batch, Seq, Steps int
	IDs, Targets      []int32
	LR                float64
	// File, where not empty, is a safetensors file with all parameters and,
	// for ffn, x and dy; otherwise they are drawn.
	File string
}

// Process is PyTorch at work on a job.
type Process struct {
	// Version is that of PyTorch.
	Version string
	name    string
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	stderr  bytes.Buffer
}

// Start builds the job's model in a process of its own, and runs everything
// once.
func (t Torch) Start(job Job) (*Process, error) {
	p := &Process{name: t.Name(), cmd: exec.Command("python3", "-c", torchScript)}
	p.cmd.Stderr = &p.stderr
	p.cmd.Env = append(os.Environ(), fmt.Sprintf("OMP_NUM_THREADS=%d", job.Threads))
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	var networks []spec.FFN // of the model's layers
	if m := job.Model; m != nil {
		for i := range m.Layers {
			networks = append(networks, m.LayerFFN(i))
		}
	}
	line, err := json.Marshal(struct {
		Job
		Networks []spec.FFN
		Compile  bool
	}{job, networks, t.Compile})
	if err != nil {
		return nil, err
	}
	var ready struct {
		Version string `json:"version"`
		Threads int    `json:"threads"`
	}
	if err := p.ask(string(line), &ready); err != nil {
		p.Close()
		return nil, err
	}
	if ready.Threads != job.Threads {
		p.Close()
		return nil, fmt.Errorf("%s runs on %d threads, want %d", p.name, ready.Threads, job.Threads)
	}
	p.Version = ready.Version
	return p, nil
}

// ask sends a line and reads the answer to it.
func (p *Process) ask(line string, answer any) error {
	_, err := io.WriteString(p.in, line+"\n")
	if err == nil {
		var text []byte
		if text, err = p.out.ReadBytes('\n'); err == nil {
			err = json.Unmarshal(text, answer)
		}
	}
	if err != nil {
		p.Close() // waits for all that it has to say
		return fmt.Errorf("%s: %s", p.name, lastLine(p.stderr.Bytes(), err))
	}
	return nil
}

// Run runs an operation n times and returns the seconds that each took.
func (p *Process) Run(op string, n int) (float64, error) {
	var a struct {
		Seconds float64 `json:"seconds"`
	}
	if err := p.ask(fmt.Sprintf("run %d %s", n, op), &a); err != nil {
		return 0, err
	}
	if !(a.Seconds > 0) {
		return 0, errors.New(p.name + ": no time was measured")
	}
	return a.Seconds / float64(n), nil
}

// show runs an operation once and returns the tensors that it computed.
func (p *Process) show(op string) (tensors [][]float32, err error) {
	var a struct {
		Result [][]float32 `json:"result"`
	}
	return a.Result, p.ask("show "+op, &a)
}

// Close ends the process.
func (p *Process) Close() {
	p.in.Close()
	p.cmd.Wait()
}
