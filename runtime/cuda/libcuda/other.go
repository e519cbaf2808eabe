//go:build !linux || !(amd64 || arm64)

package libcuda

import "github.com/structuredffn/sffn/runtime/cuda/driver"

// Load says that there is no driver for this system.
func Load() (*driver.API, error) { return nil, ErrNoDriver }
