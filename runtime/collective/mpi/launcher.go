package mpi

import (
	"os"
	"strconv"
)

// EnvLibrary is the environment variable that names the MPI library's file,
// EnvLimit the one that says how long a wait may last, as "20m".
const (
	EnvLibrary = "SFFN_MPI"
	EnvLimit   = "SFFN_MPI_LIMIT"
)

// family is what a launcher and the ranks that it starts talk through.
type family int

const (
	familyOpenMPI family = iota + 1
	familyPMI            // of MPICH and Intel MPI
	familySlurm          // any that srun offers
)

// launcher is who started this process as one of several.
type launcher struct {
	name     string // for messages
	ranks    int    // how many it promises, 0 where nobody has started ranks
	variable string // which says so
	family   family
	moreCPUs string // what to pass for more cores a rank
	match    string // what to do where the library is another MPI's
}

// launched reads the launcher from the environment that it gives.
func launched() launcher {
	const (
		own      = "take the library's own mpirun"
		slurm    = "srun --mpi=pmi2 is for MPICH and Intel MPI, --mpi=pmix for Open MPI"
		moreCPUs = "srun -c N for N cores a rank, or --cpu-bind=none"
	)
	for _, l := range []launcher{
		{name: "Open MPI's launcher", variable: "OMPI_COMM_WORLD_SIZE", family: familyOpenMPI, moreCPUs: "mpirun --bind-to none, or --map-by slot:PE=N for N cores a rank", match: own},
		{name: "MPICH's or Intel's launcher", variable: "PMI_SIZE", family: familyPMI, moreCPUs: "mpiexec -bind-to none, or I_MPI_PIN=off with Intel MPI", match: own},
		{name: "Slurm", variable: "SLURM_STEP_NUM_TASKS", family: familySlurm, moreCPUs: moreCPUs, match: slurm},
	} {
		n, err := strconv.Atoi(os.Getenv(l.variable))
		if err != nil || n < 1 {
			continue
		}
		l.ranks = n
		if l.family == familyPMI && os.Getenv("SLURM_STEP_NUM_TASKS") != "" && os.Getenv("HYDI_CONTROL_FD") == "" { // srun --mpi=pmi2
			l.name, l.moreCPUs, l.match = "Slurm (pmi2)", moreCPUs, slurm
		}
		return l
	}
	return launcher{}
}

// Launched returns how many ranks a launcher (mpirun, mpiexec, srun) has started,
// this process one of them, as its environment says; 0 without one.
func Launched() int { return launched().ranks }
