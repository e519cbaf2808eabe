//go:build cuda && cgo

package main

import (
	_ "github.com/structuredffn/sffn/generated/gpt2l/cudalib" // machine code of the L shapes' GPU kernels
	_ "github.com/structuredffn/sffn/generated/gpt2m/cudalib" // of the M shapes'
	_ "github.com/structuredffn/sffn/generated/gpt2s/cudalib" // and of the S shapes'
)
