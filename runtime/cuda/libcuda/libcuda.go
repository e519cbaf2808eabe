// Package libcuda finds the CUDA driver of the machine. Built with the tag cuda
// and cgo it goes through the toolkit's header; otherwise the driver's library is
// loaded at run time without cgo, and no toolkit is needed to build.
package libcuda

import (
	"errors"
	"fmt"
	"strings"
)

// Library is the driver's name on Linux; EnvLibrary the environment variable
// that names another one.
const (
	Library    = "libcuda.so.1"
	EnvLibrary = "SFFN_CUDA_DRIVER"
)

// ErrNoDriver says that the machine has no CUDA driver, or none that loads.
var ErrNoDriver = errors.New("no CUDA driver (" + Library + ") on this machine; install NVIDIA's driver, or run on the CPU")

// NoDriverError says where a driver was looked for, and why none was found. It is
// an ErrNoDriver.
type NoDriverError struct{ Tried []Attempt }

// Attempt is one library that did not load.
type Attempt struct {
	// Path is its file, or the name that the system's loader looks for.
	Path string
	// Absent says that there is no such file, Reason what is wrong with it otherwise.
	Absent bool
	Reason string
}

// Error is one line: that there is no driver, or what is wrong with the one that
// is there.
func (e *NoDriverError) Error() string {
	if there := e.there(); there != nil {
		return "the CUDA driver does not load: " + strings.Join(there, "; ")
	}
	return ErrNoDriver.Error()
}

// Details is Error and everything that was tried, in one line.
func (e *NoDriverError) Details() string {
	var absent []string
	for _, a := range e.Tried {
		if a.Absent {
			absent = append(absent, a.Path)
		}
	}
	if absent == nil {
		return e.Error()
	}
	return fmt.Sprintf("%s (not there: %s; %s names another)", e.Error(), strings.Join(absent, ", "), EnvLibrary)
}

// there are the libraries that were found, with what is wrong with each.
func (e *NoDriverError) there() (s []string) {
	for _, a := range e.Tried {
		if !a.Absent {
			s = append(s, a.Path+": "+a.Reason)
		}
	}
	return s
}

// Unwrap makes errors.Is find ErrNoDriver.
func (e *NoDriverError) Unwrap() error { return ErrNoDriver }
