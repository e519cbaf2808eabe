// Package goldenkernels carries the GPU kernels of the golden cases, layers and
// models of up to 256 columns, and the configurations of those models. Tests and
// gpucheck run the cases on them.
package goldenkernels

import (
	"embed"
	"fmt"
	"io/fs"
	"sync"

	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/runtime/cuda"
)

//go:embed layers/*.gz models/*.gz
var ptx embed.FS

//go:embed *.yaml
var configs embed.FS

// Cases are the models of the golden cases that there are kernels for, by case;
// Models lists them, and tiny, with what the golden ones have not.
var (
	Cases = map[string]string{
		"model_dense_ln_gelu_tied":            "golden-dense",
		"model_lowrank_rms_swiglu_untied_gqa": "golden-lowrank",
		"model_dense_abspos_scaleattn":        "golden-absolute",
	}
	Models = []string{"golden-dense", "golden-lowrank", "golden-absolute", "tiny"}
)

// Register makes the kernels known to devices.
var Register = sync.OnceFunc(func() {
	for _, dir := range []string{"layers", "models"} {
		files, err := fs.Sub(ptx, dir)
		if err != nil {
			panic("goldenkernels: " + err.Error())
		}
		cuda.Register(files)
	}
})

// Config is the configuration of a model.
func Config(name string) (*config.Config, error) {
	src, err := configs.ReadFile(name + ".yaml")
	if err != nil {
		return nil, fmt.Errorf("no golden model %s", name)
	}
	return config.Parse(name+".yaml", src)
}
