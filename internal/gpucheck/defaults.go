package gpucheck

import (
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/internal/goldenkernels"
	"github.com/structuredffn/sffn/model/config"
)

// Defaults fills in what a user with a GPU wants where nothing is said. The
// models are those whose kernels the program has.
func (c *Config) Defaults() {
	sizes := []string{"gpt2s", "gpt2m", "gpt2l"}
	presets := func(names ...string) (cs []*config.Config) {
		for _, name := range names {
			cfg, err := config.Load(name)
			if err != nil {
				panic("gpucheck: " + err.Error())
			}
			cs = append(cs, cfg)
		}
		return cs
	}
	c.Kernels = presets(specfile.GPUShapes("gpt2s")...)
	c.Trained = presets("gpt2s-lowrank-63")
	for _, name := range goldenkernels.Models {
		cfg, err := goldenkernels.Config(name)
		if err != nil {
			panic("gpucheck: " + err.Error())
		}
		c.Trained = append([]*config.Config{cfg}, c.Trained...)
	}
	goldenkernels.Register()
	c.TimedRows, c.Contexts = []int{1, 16, 64, 1024, 8192}, []int{1024}
	if c.Steps == 0 {
		c.Steps = 50
	}
	if c.Quick {
		c.Rows = []int{1, 17, 64, 65, 128, 129, 1000, 8192}
		c.TimedRows = []int{16, 8192}
		for _, size := range sizes {
			c.Timed = append(c.Timed, presets(size+"-dense", size+"-lowrank-63")...)
		}
		if c.Repeats == 0 {
			c.Repeats = 3
		}
		return
	}
	for n := range 129 {
		c.Rows = append(c.Rows, n+1)
	}
	c.Rows = append(c.Rows, 1000, 8192)
	c.Contexts = []int{128, 1024}
	for _, size := range sizes {
		c.Timed = append(c.Timed, presets(specfile.GPUShapes(size)...)...)
	}
	c.Kernels = c.Timed
	if c.Repeats == 0 {
		c.Repeats = 7
	}
}
