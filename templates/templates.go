// Package templates holds the text of the GPU kernels.
package templates

import "embed"

// FS holds the device vocabulary, device.cuh, and the kernel templates,
// *.cu.tmpl, which gen/cuda executes with a plan.
//
//go:embed device.cuh *.cu.tmpl
var FS embed.FS
