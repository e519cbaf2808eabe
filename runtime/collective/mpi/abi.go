//go:build linux && (amd64 || arm64)

package mpi

import (
	"fmt"
	"strings"
)

// abi is all that differs between binary interfaces: how wide handles are, and what
// they and the constants are. Sources: the MPI 5.0 standard (Application Binary Interface),
// and the headers mpi.h of MPICH and Open MPI.
type abi struct {
	name     string
	requests int // bytes of a request in an array
	statuses int // bytes of a status in an array
	failure  int // where a status has the error of its operation
	funneled int // MPI_THREAD_FUNNELED

	world, byte, inPlace, errorsReturn uintptr
}

// The three interfaces; handles of Open MPI's are addresses of what it exports.
var (
	standard = abi{name: "MPI 5's standard interface", requests: 8, statuses: 32, failure: 8, funneled: 1024,
		world: 0x101, byte: 0x247, inPlace: 1, errorsReturn: 0x143}
	mpich = abi{name: "MPICH's interface", requests: 4, statuses: 20, failure: 16, funneled: 1,
		world: 0x44000000, byte: 0x4c00010d, inPlace: ^uintptr(0), errorsReturn: 0x54000001}
	openMPI = abi{name: "Open MPI's interface", requests: 8, statuses: 24, failure: 8, funneled: 1,
		inPlace: 1}
)

// recognise tells the interface by what a library exports and says. Names of files
// prove nothing, nor does it that a library has MPI_Abi_get_version: MPICH's own
// interface has it, too, and answers -1.
func (l *library) recognise() error {
	if l.symbol("ompi_mpi_comm_world") != 0 {
		l.abi = openMPI
		for name, to := range map[string]*uintptr{"ompi_mpi_comm_world": &l.world, "ompi_mpi_byte": &l.byte, "ompi_mpi_errors_return": &l.errorsReturn} {
			if *to = l.symbol(name); *to == 0 {
				return fmt.Errorf("%s has no %s", l.file, name)
			}
		}
		return l.fill()
	}
	out := new([2]int32)
	if f := l.symbol("MPI_Abi_get_version"); f != 0 && call(f, address(&out[0]), address(&out[1])) == 0 && out[0] >= 1 {
		l.abi = standard
		return l.fill()
	}
	if strings.Contains(l.version, "MPICH") || strings.Contains(l.version, "Intel(R) MPI") || strings.Contains(l.version, "CRAY") {
		l.abi = mpich
		return l.fill()
	}
	if l.version == "" {
		return fmt.Errorf("%s is not an MPI library: it has no MPI_Get_library_version", l.file)
	}
	return fmt.Errorf("%s says that it is %q: neither Open MPI nor MPICH, and without MPI 5's standard interface", l.file, l.version)
}
