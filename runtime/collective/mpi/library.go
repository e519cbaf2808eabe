//go:build linux && (amd64 || arm64)

package mpi

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"unsafe"

	"github.com/ebitengine/purego"
)

// library is an MPI library that was loaded.
type library struct {
	abi
	functions
	handle  uintptr
	file    string
	version string // its own words, one line
}

// functions are addresses of what is called, by their names in the library.
type functions struct {
	Init      uintptr `mpi:"MPI_Init_thread"`
	Finalize  uintptr `mpi:"MPI_Finalize"`
	Abort     uintptr `mpi:"MPI_Abort"`
	Rank      uintptr `mpi:"MPI_Comm_rank"`
	Size      uintptr `mpi:"MPI_Comm_size"`
	OnError   uintptr `mpi:"MPI_Comm_set_errhandler"`
	Words     uintptr `mpi:"MPI_Error_string"`
	Send      uintptr `mpi:"MPI_Isend"`
	Receive   uintptr `mpi:"MPI_Irecv"`
	TestAll   uintptr `mpi:"MPI_Testall"`
	Count     uintptr `mpi:"MPI_Get_count"`
	AllGather uintptr `mpi:"MPI_Iallgatherv"`
	Broadcast uintptr `mpi:"MPI_Ibcast"`
	Barrier   uintptr `mpi:"MPI_Ibarrier"`
	Exit      uintptr `mpi:"exit"` // C's
}

// call runs a function of C and returns its int.
func call(f uintptr, args ...uintptr) int {
	r, _, _ := purego.SyscallN(f, args...)
	return int(int32(r))
}

// address makes what p points to lie in the heap: on the stack of a goroutine it
// would move, when the stack grows before C writes there. The caller keeps p until
// the library is done with it.
func address[T any](p *T) uintptr {
	escape.Store((*byte)(unsafe.Pointer(p)))
	return uintptr(unsafe.Pointer(p))
}

var escape atomic.Pointer[byte]

func (l *library) symbol(name string) uintptr {
	p, err := purego.Dlsym(l.handle, name)
	if err != nil {
		return 0
	}
	return p
}

// fill finds all functions.
func (l *library) fill() error {
	v := reflect.ValueOf(&l.functions).Elem()
	for i := range v.NumField() {
		name := v.Type().Field(i).Tag.Get("mpi")
		p := l.symbol(name)
		if p == 0 {
			return fmt.Errorf("%s has no %s: want MPI 3.0 or newer", l.file, name)
		}
		v.Field(i).SetUint(uint64(p))
	}
	return nil
}

// open loads a library, and finds out what it is.
func open(file string) (*library, error) {
	handle, err := purego.Dlopen(file, purego.RTLD_NOW|purego.RTLD_GLOBAL)
	if err != nil {
		return nil, err
	}
	l := &library{handle: handle, file: file}
	if f := l.symbol("MPI_Get_library_version"); f != 0 { // may be called before all else
		text, n := make([]byte, 8192), new(int32)
		call(f, address(&text[0]), address(n))
		runtime.KeepAlive(text)
		l.version = strings.Join(strings.Fields(string(text[:min(max(0, int(*n)), len(text))])), " ")
		l.version, _, _ = strings.Cut(l.version, "\x00")
	}
	if err := l.recognise(); err != nil {
		return nil, err
	}
	return l, nil
}

// product is what the library calls itself, without how it was built.
func (l *library) product() string {
	name := l.version
	if before, after, ok := strings.Cut(name, " Version: "); ok { // MPICH's way
		version, _, _ := strings.Cut(after, " ")
		name = before + " " + version
	}
	name, _, _ = strings.Cut(name, ",")
	return name
}

// find loads the library that SFFN_MPI names, or else the first of candidates.
func find(from launcher) (*library, error) {
	if name := os.Getenv(EnvLibrary); name != "" {
		l, err := open(name)
		if err != nil {
			return nil, fmt.Errorf("%s=%s: %w", EnvLibrary, name, err)
		}
		return l, nil
	}
	var wrong []string
	for _, file := range candidates(from) {
		if filepath.IsAbs(file) {
			if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
				continue
			}
		}
		l, err := open(file)
		if err == nil {
			return l, nil
		}
		if !strings.HasPrefix(err.Error(), file+": cannot open shared object file: No such file") {
			wrong = append(wrong, err.Error())
		}
	}
	if wrong != nil {
		return nil, fmt.Errorf("the MPI library does not load: %s (%s names another one)", strings.Join(wrong, "; "), EnvLibrary)
	}
	return nil, fmt.Errorf("%s has started this as one of %d ranks, but no MPI library is found beside it, nor by the loader (%s); %s names one",
		from.name, from.ranks, strings.Join(from.libraries(), ", "), EnvLibrary)
}

// libraries are names of libraries that a launcher can start.
func (l launcher) libraries() []string {
	mpich := []string{"libmpi_abi.so.1", "libmpi.so.12", "libmpich.so.12"}
	switch l.family {
	case familyOpenMPI:
		return []string{"libmpi.so.40"}
	case familyPMI:
		return mpich
	}
	return append(mpich, "libmpi.so.40")
}

// candidates are files that may be the library: beside the launcher that started
// this process, beside the mpiexec that a shell would find, then the loader's own.
func candidates(from launcher) (files []string) {
	var programs []string
	for pid, i := os.Getppid(), 0; i < 4 && pid > 1; i++ {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil {
			programs = append(programs, exe)
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			break
		}
		// behind the name, which may have any characters: the state, the parent
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if pid, err = strconv.Atoi(fields[1]); err != nil {
			break
		}
	}
	if exe, err := exec.LookPath("mpiexec"); err == nil {
		if exe, err = filepath.EvalSymlinks(exe); err == nil {
			programs = append(programs, exe)
		}
	}
	multiarch := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
	for _, program := range programs {
		for _, dir := range []string{"../lib", "../lib64", "../lib/release", "../lib/" + multiarch} {
			for _, name := range from.libraries() {
				if file := filepath.Join(filepath.Dir(program), dir, name); !slices.Contains(files, file) {
					files = append(files, file)
				}
			}
		}
	}
	return append(files, from.libraries()...)
}

// words says what an error code means.
func (l *library) words(code int) string {
	text, n := make([]byte, 8192), new(int32)
	call(l.Words, uintptr(code), address(&text[0]), address(n))
	runtime.KeepAlive(text)
	if *n <= 0 || int(*n) > len(text) {
		return fmt.Sprintf("error %d", code)
	}
	return strings.Join(strings.Fields(string(text[:*n])), " ")
}
