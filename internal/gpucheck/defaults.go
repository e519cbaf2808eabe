package gpucheck

import (
	"github.com/structuredffn/sffn/gen/specfile"
	"github.com/structuredffn/sffn/internal/goldenkernels"
)

// Defaults fills in what a user with a GPU wants where nothing is said. The
// models are those whose kernels the program has.
func (c *Config) Defaults() {
	kinds := []string{"dense", "lowrank-63", "lowrank-32", "blockdense-63", "blockdense-32", "blockshuffle-63", "blockshuffle-32"}
	presets := func(size string, kinds ...string) (cs []*specfile.Config) {
		for _, k := range kinds {
			cfg, err := specfile.Load(size + "-" + k)
			if err != nil {
				panic("gpucheck: " + err.Error())
			}
			cs = append(cs, cfg)
		}
		return cs
	}
	c.Kernels = presets("gpt2s", kinds...)
	c.Trained = presets("gpt2s", "lowrank-63")
	for _, name := range goldenkernels.Models {
		cfg, err := goldenkernels.Config(name)
		if err != nil {
			panic("gpucheck: " + err.Error())
		}
		c.Trained = append([]*specfile.Config{cfg}, c.Trained...)
	}
	goldenkernels.Register()
	c.TimedRows, c.Contexts = []int{1, 16, 64, 1024, 8192}, []int{1024}
	if c.Steps == 0 {
		c.Steps = 50
	}
	if c.Quick {
		c.Rows = []int{1, 17, 64, 65, 128, 129, 1000, 8192}
		c.TimedRows = []int{16, 8192}
		c.Timed = presets("gpt2s", "dense", "lowrank-63")
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
	c.Timed = presets("gpt2s", kinds...)
	if c.Repeats == 0 {
		c.Repeats = 7
	}
}
