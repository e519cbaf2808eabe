//go:build amd64 && !purego

package kernel

import "github.com/klauspost/cpuid/v2"

// assembly says that this build has the assembly of sffngen.
const assembly = true

var featureIDs = map[Feature]cpuid.FeatureID{
	HasAVX2: cpuid.AVX2, HasFMA: cpuid.FMA3, HasF16C: cpuid.F16C, HasAVXVNNI: cpuid.AVXVNNI,
	HasAVX512F: cpuid.AVX512F, HasAVX512DQ: cpuid.AVX512DQ, HasAVX512BW: cpuid.AVX512BW, HasAVX512VL: cpuid.AVX512VL,
	HasAVX512BF16: cpuid.AVX512BF16, HasAVX512VNNI: cpuid.AVX512VNNI,
}

// Has reports whether the processor and the operating system support all of the
// features.
func Has(fs ...Feature) bool {
	for _, f := range fs {
		if id, ok := featureIDs[f]; !ok || !cpuid.CPU.Has(id) {
			return false
		}
	}
	return true
}

// processor is the one that runs the program.
func processor() Processor {
	return Processor{Vendor: cpuid.CPU.VendorString, Family: cpuid.CPU.Family, Model: cpuid.CPU.Model}
}
