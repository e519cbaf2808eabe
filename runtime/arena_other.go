//go:build !linux

package runtime

func mapMemory(size int) []byte { return make([]byte, size) }

func adviseHuge([]byte) {}

func unmapMemory([]byte) {}
