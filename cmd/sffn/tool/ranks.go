package tool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/model/train"
	"github.com/structuredffn/sffn/runtime/collective"
	"github.com/structuredffn/sffn/runtime/collective/mpi"
)

// ranks are the processes of one command that mpirun or srun has started, or this one
// alone.
type ranks struct{ collective.Group }

// inRanks runs a command in all of them: where one fails, all end, with one message.
func inRanks(run func(cmd *cobra.Command, r ranks) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		g, err := mpi.Join()
		if err != nil {
			return err
		}
		r := ranks{g}
		if g.Rank() > 0 { // one speaks for all
			cmd.SetOut(io.Discard)
			cmd.SetErr(io.Discard)
		}
		own := run(cmd, r)
		if err = r.together(own); errors.As(err, new(*cli.Quiet)) && own != nil {
			err = &cli.Quiet{Err: own} // with its own exit code
		}
		if err != nil && g.Size() > 1 && !errors.As(err, new(*cli.Quiet)) {
			// Before the others leave, after whom a launcher ends this one.
			if g.Rank() > 0 {
				err = fmt.Errorf("rank %d: %w", g.Rank(), err)
			}
			cli.Report(cmd, err)
			mpi.Heard()
			err = &cli.Quiet{Err: err}
		}
		return cmp.Or(err, g.Close())
	}
}

// together is called by all ranks: where one has an error, all do.
func (r ranks) together(err error) error {
	err = train.Together(r, err)
	if errors.As(err, new(*train.Elsewhere)) {
		return &cli.Quiet{Err: err}
	}
	return err
}

// open starts the pool of this rank: on its share of the machine's cores, where the
// flag says nothing.
func (r ranks) open(m *machine, log io.Writer) error {
	m.threads = r.threads(m.threads, log)
	return m.open()
}

// threads is how many threads a rank computes with where the flag says so many.
func (r ranks) threads(flag int, log io.Writer) int {
	g, ok := r.Group.(*mpi.Group)
	if !ok || flag < 0 {
		return flag
	}
	threads, warnings := g.Place().Threads(flag)
	for _, w := range warnings {
		fmt.Fprintln(log, "warning:", w)
	}
	return threads
}

// here is how many ranks there are on this machine.
func (r ranks) here() int {
	if g, ok := r.Group.(*mpi.Group); ok {
		return g.Place().Ranks
	}
	return 1
}

// interrupted is the end of a command that the signal of any rank has cut; nil where
// there was none.
func (r ranks) interrupted(ctx context.Context, format string, args ...any) error {
	err := cli.CutBy(ctx, format, args...)
	var mine int64
	if cut := (*cli.Interrupted)(nil); errors.As(err, &cut) {
		mine = int64(cut.Signal)
	}
	all, down := collective.All(context.Background(), r, mine)
	if down != nil {
		return down
	}
	if s := slices.Max(all); s > 0 && mine == 0 {
		err = &cli.Interrupted{Signal: syscall.Signal(s), Text: fmt.Sprintf(format, args...)}
	}
	if err != nil && r.Rank() > 0 {
		return &cli.Quiet{Err: err}
	}
	return err
}

// of says of how many this rank is one.
func (r ranks) of() string {
	if g, ok := r.Group.(*mpi.Group); ok {
		return fmt.Sprintf(" in each of %d ranks, joined by %s", r.Size(), g.Library())
	}
	return ""
}

// onThis says how many ranks share this machine's memory.
func (r ranks) onThis() string {
	if n := r.here(); n > 1 {
		return fmt.Sprintf(" for the %d ranks of this machine", n)
	}
	return ""
}
