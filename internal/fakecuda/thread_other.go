//go:build !linux

package fakecuda

// thread does not tell threads apart here.
func thread() int { return 0 }
