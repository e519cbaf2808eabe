//go:build !amd64 || purego

package kernel

// cpuHas reports false: this build has only the portable kernels.
func cpuHas(ISA) bool { return false }
