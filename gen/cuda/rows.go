package cuda

import (
	"errors"
	"fmt"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/internal/gz"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// Rows is the file of the kernels' rows, which launchers and proofs go by.
const Rows = table.File

// Proven are what proofs of kernels need: PTX, its manifest and rows. What lies in dir
// is taken where it is fresh, and nvcc makes it otherwise.
func Proven(dir string, kernels []gpu.Kernel) (Files, error) {
	files, err := Sources(kernels)
	if err != nil {
		return nil, err
	}
	if Fresh(dir, files, PTX) == nil {
		return files, errors.Join(files.AddRows(kernels), files.keep(dir))
	}
	return Build(dir, "", kernels)
}

// AddRows adds the rows of kernels, each with the hash of itself and of its kernel's
// PTX, which is among the files.
func (f Files) AddRows(kernels []gpu.Kernel) error {
	texts := map[string]table.Text{}
	for _, file := range gpu.Files(kernels) {
		ptx, err := f.PTX(file)
		if err != nil {
			return err
		}
		for name, t := range table.Split(string(ptx)) {
			texts[name] = t
		}
	}
	rows := gpu.Rows(kernels)
	for i := range rows {
		t, ok := texts[rows[i].Name]
		if !ok {
			return fmt.Errorf("cuda: %s has no PTX", rows[i].Name)
		}
		rows[i].Hash = rows[i].Sum(t)
		if err := rows[i].Check(t); err != nil {
			return fmt.Errorf("cuda: %w", err)
		}
	}
	data, err := table.Encode(rows)
	if err != nil {
		return fmt.Errorf("cuda: %w", err)
	}
	f[Rows] = gz.Pack(data)
	return nil
}
