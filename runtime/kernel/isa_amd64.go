//go:build amd64 && !purego

package kernel

import "github.com/klauspost/cpuid/v2"

// cpuHas reports whether the CPU and the operating system support isa. Each
// sub-feature that the emitters may use is checked by itself.
func cpuHas(isa ISA) bool {
	switch isa {
	case AVX512:
		return cpuid.CPU.Supports(cpuid.AVX2, cpuid.FMA3, cpuid.AVX512F, cpuid.AVX512DQ, cpuid.AVX512BW, cpuid.AVX512VL)
	case AVX2:
		return cpuid.CPU.Supports(cpuid.AVX2, cpuid.FMA3)
	}
	return false
}
