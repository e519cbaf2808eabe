// Package templates holds the text of the GPU kernels.
package templates

import "embed"

// FS holds the device vocabulary, device.cuh, the kernel templates, *.cu.tmpl, which
// gen/cuda executes with a plan, and the functions of activations that the vocabulary has
// none for, each in a file of its name, *.cuh.tmpl.
//
//go:embed device.cuh *.cu.tmpl *.cuh.tmpl
var FS embed.FS
