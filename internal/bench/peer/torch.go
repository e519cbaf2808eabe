package peer

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/runtime/kernel"
)

//go:embed torchmodels.py
var torchScript string

// Torch is PyTorch, as the python3 of PATH finds it: each of its operations
// by itself (eager), or all of them compiled by torch.compile. In BF16 it has weights and
// activations in bfloat16, and trains in autocast, over weights in float32.
type Torch struct {
	Compile bool
	Format  kernel.FormatName
}

// Name is what it is asked for by.
func (t Torch) Name() string {
	if t.Compile {
		return "torch-compile"
	}
	return "torch"
}

func (t Torch) check() error {
	if t.Format != kernel.F32 && t.Format != kernel.BF16 {
		return fmt.Errorf("PyTorch computes in %s or %s here, not in %s", kernel.F32, kernel.BF16, t.Format)
	}
	if out, err := exec.Command("python3", "-c", "import torch").CombinedOutput(); err != nil {
		return absent{fmt.Errorf("python3 has no torch (%s): install it with pip install torch, and have its python3 first in PATH", lastLine(out, err))}
	}
	if !t.Compile {
		return nil
	}
	cxx := os.Getenv("CXX")
	if cxx == "" {
		cxx = "g++"
	}
	if _, err := exec.LookPath(cxx); err != nil {
		return absent{fmt.Errorf("torch.compile needs a C++ compiler: install g++, or name another one in CXX (%w)", err)}
	}
	return nil
}

// Start builds the job's model in a process of its own, and runs everything
// once.
func (t Torch) Start(job Job) (*Process, error) {
	cmd := exec.Command("python3", "-c", torchScript)
	cmd.Env = append(os.Environ(), fmt.Sprintf("OMP_NUM_THREADS=%d", job.Threads))
	var networks []spec.FFN // of the model's layers
	if m := job.Model; m != nil {
		for i := range m.Layers {
			networks = append(networks, m.LayerFFN(i))
		}
	}
	line, err := json.Marshal(struct {
		Job
		Networks []spec.FFN
		Torch
	}{job, networks, t})
	if err != nil {
		return nil, err
	}
	return launch(t.Name(), cmd, string(line), job.Threads)
}
