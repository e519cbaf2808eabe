//go:build cuda && cgo

package main

import _ "github.com/structuredffn/sffn/generated/gpt2s/cudalib" // machine code of the S shapes' GPU kernels
