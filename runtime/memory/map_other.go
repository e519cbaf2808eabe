//go:build !linux

package memory

func mapMemory(size int) []byte { return make([]byte, size) }

func adviseHuge([]byte) {}

func unmapMemory([]byte) {}
