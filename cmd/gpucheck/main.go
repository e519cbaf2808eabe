// Command gpucheck proves and times this project's GPU kernels on a machine that
// has nothing but NVIDIA's driver: kernels, golden cases and all else that it needs
// are in the program.
package main

import (
	"os"

	_ "github.com/structuredffn/sffn/generated/gpt2s" // kernels of the S shapes
	"github.com/structuredffn/sffn/internal/gpucheck/command"
	"github.com/structuredffn/sffn/runtime/cuda/libcuda"
)

func main() { os.Exit(command.Run(os.Args[1:], libcuda.Load, os.Stdout, os.Stderr)) }
