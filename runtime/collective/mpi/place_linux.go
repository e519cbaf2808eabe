package mpi

import (
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// allowed are the CPUs that this process may use.
func allowed() (cpus []int) {
	var set unix.CPUSet
	if unix.SchedGetaffinity(0, &set) != nil {
		return nil
	}
	for cpu := range len(set) * 64 {
		if set.IsSet(cpu) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus
}

// pin keeps this process on these CPUs: its threads, and those that they start. What
// cannot be pinned runs anywhere, as before.
func pin(cpus []int) {
	var set unix.CPUSet
	for _, cpu := range cpus {
		set.Set(cpu)
	}
	// A thread that was started meanwhile has its parent's CPUs, which may be the old ones.
	for range 2 {
		threads, _ := os.ReadDir("/proc/self/task")
		for _, t := range threads {
			if id, err := strconv.Atoi(t.Name()); err == nil {
				_ = unix.SchedSetaffinity(id, &set)
			}
		}
	}
}
