//go:build linux && (amd64 || arm64)

package libcuda

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// Load fills the driver's functions from its library. Errors are, or wrap, a
// *NoDriverError, unless the environment names a library.
func Load() (*driver.API, error) {
	// The loader keeps the reason of a failure for the thread that asked.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if name := os.Getenv(EnvLibrary); name != "" {
		api, err := open(name)
		if err != nil {
			return nil, fmt.Errorf("%s=%s: %w", EnvLibrary, name, err)
		}
		return api, nil
	}
	return load(candidates())
}

// candidates are the driver's libraries in the order in which they are tried:
// that which the system's loader knows, then those in the folders where
// distributions, containers, WSL and NixOS keep it without telling the loader.
func candidates() []string {
	multiarch := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
	paths := []string{Library}
	for _, dir := range []string{
		"/usr/lib/" + multiarch, "/lib/" + multiarch, "/usr/lib64", "/usr/lib",
		"/usr/lib/" + multiarch + "/nvidia/current", "/usr/lib64/nvidia",
		"/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", // containers
		"/usr/lib/wsl/lib",
		"/run/opengl-driver/lib", // NixOS
		"/usr/local/cuda/compat", // newer than the kernel's part, for data centres only
	} {
		paths = append(paths, filepath.Join(dir, Library))
	}
	return paths
}

// load takes the first library that loads and is not a toolkit's stub, which is
// found by the same name where somebody runs with a linker's settings.
func load(paths []string) (*driver.API, error) {
	e := &NoDriverError{}
	for _, p := range paths {
		if filepath.IsAbs(p) {
			if _, err := os.Stat(p); errors.Is(err, fs.ErrNotExist) {
				e.Tried = append(e.Tried, Attempt{Path: p, Absent: true})
				continue
			}
		}
		api, err := open(p)
		if err == nil && filepath.Base(filepath.Dir(api.Library)) != "stubs" {
			return api, nil
		}
		if err == nil {
			err = fmt.Errorf("%s is the stub of a toolkit, to link with, and no driver", api.Library)
		}
		reason := err.Error()
		// The loader says the same of a library that p needs, but by its name.
		absent := !filepath.IsAbs(p) && strings.Contains(reason, p+": ") && strings.HasSuffix(reason, ": No such file or directory")
		e.Tried = append(e.Tried, Attempt{Path: p, Absent: absent, Reason: strings.TrimPrefix(reason, p+": ")})
	}
	return nil, e
}

// missing says which function a driver lacks: an older one than CUDA 11.4.
func missing(symbol string) error {
	return fmt.Errorf("has no %s: a CUDA driver of version 11.4 or newer is needed", symbol)
}

// file is the one whose code lies at an address, which is how the process sees
// what the system's loader chose; empty where that cannot be told.
func file(address uintptr) string {
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(maps)) {
		f := strings.Fields(line) // first-last permissions offset device inode path
		if len(f) < 6 {
			continue
		}
		first, last, _ := strings.Cut(f[0], "-")
		from, err1 := strconv.ParseUint(first, 16, 64)
		to, err2 := strconv.ParseUint(last, 16, 64)
		if err1 == nil && err2 == nil && from <= uint64(address) && uint64(address) < to {
			return strings.TrimSpace(line[strings.Index(line, f[5]):])
		}
	}
	return ""
}
