//go:build !amd64 || purego

package kernel

// assembly says that this build has only the portable kernels.
const assembly = false

// Has reports whether the processor has features that are none of this build's.
func Has(fs ...Feature) bool { return len(fs) == 0 }

func processor() Processor { return Processor{} }
