//go:build !linux || (!amd64 && !arm64)

package mpi

import (
	"errors"
	"os"

	"github.com/structuredffn/sffn/runtime/collective"
)

// Group is this process's end of all ranks; there is none on this system.
type Group struct{ collective.Group }

// Place is where this rank runs.
func (*Group) Place() Place { return Place{} }

// Library is which MPI library it is.
func (*Group) Library() string { return "" }

// Start fails on this system.
func Start(Options) (*Group, error) {
	return nil, errors.New("MPI runs on Linux, on amd64 and arm64")
}

// Heard returns at once: there is no launcher.
func Heard() {}

// Exit ends the process.
func Exit(code int) { os.Exit(code) }
