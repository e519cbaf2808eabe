// Package mpi joins the processes that an MPI launcher (mpirun, mpiexec, srun) has
// started into a collective.Group. It loads the MPI library of the machine at run
// time, without cgo: any with MPI 5's standard binary interface, MPICH's (Intel MPI
// has it, too) or Open MPI's.
//
// Sources: the MPI 5.0 standard, Message Passing Interface Forum, 2025; for the
// binary interfaces of MPICH and Open MPI their headers mpi.h.
package mpi

import (
	"fmt"
	"os"
	"time"

	"github.com/structuredffn/sffn/runtime/collective"
)

// Options are settings of Start; zero is the default of each.
type Options struct {
	// Limit is how long a wait for other ranks may last (10 minutes): whatever a
	// rank does alone in between, as to write a checkpoint, takes less.
	Limit time.Duration
	// Silence is how long a rank may not be heard of before it counts as dead (15
	// seconds). The thread that talks to MPI is heard of even when all others of the
	// rank are busy or hang.
	Silence time.Duration
}

func (o Options) withDefaults() Options {
	if o.Limit <= 0 {
		o.Limit = 10 * time.Minute
	}
	if o.Silence <= 0 {
		o.Silence = 15 * time.Second
	}
	return o
}

// Join is the group of the ranks that a launcher has started, or of this process
// alone where there is no launcher, or it has started one rank. The environment
// variable SFFN_MPI names the library, SFFN_MPI_LIMIT the limit of waits.
func Join() (collective.Group, error) {
	var o Options
	if text := os.Getenv(EnvLimit); text != "" {
		limit, err := time.ParseDuration(text)
		if err != nil || limit <= 0 {
			return nil, fmt.Errorf("%s=%s: want a time above 0, as 20m", EnvLimit, text)
		}
		o.Limit = limit
	}
	if Launched() < 2 {
		return collective.Alone(), nil
	}
	g, err := Start(o)
	if err != nil {
		return nil, err // no group that is nil and yet one
	}
	return g, nil
}
