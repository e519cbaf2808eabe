// Package libcuda finds the CUDA driver of the machine. Built with the tag cuda
// and cgo it goes through the toolkit's header; otherwise the driver's library is
// loaded at run time without cgo, and no toolkit is needed to build.
package libcuda

import (
	"errors"
	"fmt"
)

// Library is the driver's name on Linux; EnvLibrary the environment variable
// that names another one.
const (
	Library    = "libcuda.so.1"
	EnvLibrary = "SFFN_CUDA_DRIVER"
)

// ErrNoDriver says that the machine has no CUDA driver.
var ErrNoDriver = errors.New("no CUDA driver (" + Library + ") on this machine; install NVIDIA's driver, or run on the CPU")

func noDriver(name, reason string) error {
	if name == Library {
		return ErrNoDriver
	}
	return fmt.Errorf("%s=%s: %s", EnvLibrary, name, reason)
}

// missing says which function a driver lacks: an older one than CUDA 11.
func missing(name, symbol string) error {
	return fmt.Errorf("%s has no %s: a CUDA driver of version 11.4 or newer is needed", name, symbol)
}
