package peer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// Program is other software that computes whole networks and models, in a process of its
// own.
type Program interface {
	// Name is what the program is asked for by.
	Name() string
	// Start builds a job's model, and runs everything once.
	Start(job Job) (*Process, error)
	check() error
}

// FindPrograms returns the programs of these names that compute a mode of [Job] in a
// format, or for "all" those that can run here: then absent says why the others cannot.
func FindPrograms(mode string, format kernel.FormatName, names []string) (found []Program, absent []error, err error) {
	known := []Program{Torch{Format: format}, Torch{Compile: true, Format: format}}
	if mode == "decode" {
		known = append(known, LlamaCPP{Format: format})
	}
	return find(names, known)
}

// Job says what a program is to build.
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
	// for ffn, x and dy, which PyTorch takes; otherwise it draws them.
	File string
	// Params makes the parameters of Model, which llama.cpp takes.
	Params func() *model.Params `json:"-"`
}

// Process is a program at work on a job.
type Process struct {
	// Version is that of the program, with what it says of how it runs.
	Version string
	name    string
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
	stderr  bytes.Buffer
}

// launch starts a program, and gives it a line, to which it answers that it is ready.
func launch(name string, cmd *exec.Cmd, line string, threads int) (*Process, error) {
	p := &Process{name: name, cmd: cmd}
	cmd.Stderr = &p.stderr
	var err error
	if p.in, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	p.out = bufio.NewReader(out)
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	var ready struct {
		Version string `json:"version"`
		Threads int    `json:"threads"`
	}
	if err := p.ask(line, &ready); err != nil {
		return nil, err
	}
	if ready.Threads != threads {
		p.Close()
		return nil, fmt.Errorf("%s runs on %d threads, want %d", name, ready.Threads, threads)
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
		p.in.Close()
		if end := p.cmd.Wait(); end != nil { // which is when it has said all
			err = end
		}
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

// lastLine is where a program says what went wrong.
func lastLine(text []byte, otherwise error) string {
	if text = bytes.TrimSpace(text); len(text) == 0 {
		return otherwise.Error()
	}
	return string(text[bytes.LastIndexByte(text, '\n')+1:])
}
