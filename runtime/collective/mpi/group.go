//go:build linux && (amd64 || arm64)

package mpi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/structuredffn/sffn/runtime/collective"
)

// Group is this process's end of all ranks that a launcher has started.
type Group struct {
	library *library
	options Options
	rank    int
	size    int
	hosts   []string // by rank
	place   Place

	waiting atomic.Int32 // goroutines in Wait
	closed  atomic.Bool
	aborted atomic.Bool
	wake    chan struct{}

	mu     sync.Mutex
	queue  []*op // that the thread has not taken
	begun  uint64
	failed error
	// of each rank, as far as is known: operations that it has begun
	counts []uint64
}

// started is the group of this process: MPI starts once.
var started struct {
	sync.Mutex
	group *Group
	tried bool
}

// Start loads the MPI library of the launcher that started this process and joins
// the other ranks, which all call it. A process ends by Exit from then on, also when
// Start fails.
func Start(o Options) (*Group, error) {
	started.Lock()
	defer started.Unlock()
	if started.tried {
		return nil, errors.New("MPI was started before: a process does so once")
	}
	started.tried = true
	o = o.withDefaults()
	g := &Group{options: o, wake: make(chan struct{}, 1)}
	me := here()
	ready := make(chan error, 1)
	go g.thread(launched(), ready)
	select {
	case err := <-ready:
		if err != nil {
			return nil, err
		}
	case <-time.After(o.Limit):
		return nil, fmt.Errorf("MPI_Init has not come back within %v", o.Limit)
	}
	started.group = g
	// The thread that talks to MPI needs a P beside that of who computes.
	runtime.GOMAXPROCS(max(2, runtime.GOMAXPROCS(0)))
	if err := g.meet(me); err != nil {
		return nil, err
	}
	return g, nil
}

// meet has all ranks know each other's places.
func (g *Group) meet(me seat) error {
	all, err := collective.AllBytes(context.Background(), g, me.encode())
	if err != nil {
		return err
	}
	seats := make([]seat, len(all))
	for q, b := range all {
		if seats[q], err = decodeSeat(b); err != nil {
			return fmt.Errorf("%s: what rank %d says of its machine: %w", g.me(), q, err)
		}
		g.hosts = append(g.hosts, seats[q].Host)
	}
	g.place = places(seats, g.rank, launched())
	return nil
}

// Rank is this process's number.
func (g *Group) Rank() int { return g.rank }

// Size is the number of ranks.
func (g *Group) Size() int { return g.size }

// Place is where this rank runs.
func (g *Group) Place() Place { return g.place }

// Library is which MPI library it is: its own words, and its file.
func (g *Group) Library() string {
	return fmt.Sprintf("%s, by %s (%s)", g.library.product(), g.library.name, g.library.file)
}

// me names this rank in messages.
func (g *Group) me() string { return fmt.Sprintf("rank %d of %d%s", g.rank, g.size, g.on(g.rank)) }

// on is where a rank runs, in brackets.
func (g *Group) on(rank int) string {
	if rank < len(g.hosts) {
		return " (" + g.hosts[rank] + ")"
	}
	return ""
}

// Exchange implements collective.Group.
func (g *Group) Exchange(send, recv [][]byte) collective.Pending {
	return g.begin(collective.Op{Kind: collective.KindExchange, Send: send, Recv: recv})
}

// AllGather implements collective.Group.
func (g *Group) AllGather(data []byte, bounds []int) collective.Pending {
	return g.begin(collective.Op{Kind: collective.KindAllGather, Data: data, Bounds: bounds})
}

// Broadcast implements collective.Group.
func (g *Group) Broadcast(root int, data []byte) collective.Pending {
	return g.begin(collective.Op{Kind: collective.KindBroadcast, Data: data, Root: root})
}

// Barrier implements collective.Group.
func (g *Group) Barrier() collective.Pending {
	return g.begin(collective.Op{Kind: collective.KindBarrier})
}

// begin hands an operation to the thread.
func (g *Group) begin(what collective.Op) *op {
	o := &op{g: g, Op: what, done: make(chan struct{})}
	if err := collective.Check(g, what); err != nil {
		g.fail(err)
	} else if what.Kind == collective.KindExchange {
		what.CopyOwn(g.rank)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failed == nil && g.closed.Load() {
		g.failed = fmt.Errorf("%s: %s behind the end of the group", g.me(), what.Kind)
	}
	if g.failed != nil {
		o.err = g.failed
		close(o.done)
		return o
	}
	if what.Kind == collective.KindClose {
		g.closed.Store(true)
	}
	o.number = g.begun
	g.begun++
	g.queue = append(g.queue, o)
	g.poke()
	return o
}

// poke has the thread look around.
func (g *Group) poke() {
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// fail makes later operations fail.
func (g *Group) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.failed == nil {
		g.failed = err
	}
}

// Wait implements collective.Pending.
func (o *op) Wait(ctx context.Context) error {
	if o.Done() {
		return o.err
	}
	g := o.g
	g.waiting.Add(1)
	defer g.waiting.Add(-1)
	g.poke()
	limit := time.NewTimer(g.options.Limit)
	defer limit.Stop()
	select {
	case <-o.done:
		return o.err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-limit.C:
		err := g.late(o)
		g.fail(err)
		return err
	}
}

// Done implements collective.Pending.
func (o *op) Done() bool {
	select {
	case <-o.done:
		return true
	default:
		return false
	}
}

// late says that an operation takes too long, and which ranks have not come to it.
func (g *Group) late(o *op) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var behind []string
	for q, n := range g.counts {
		if q != g.rank && n <= o.number {
			behind = append(behind, fmt.Sprintf("rank %d%s", q, g.on(q)))
		}
	}
	why := "all ranks have come to it"
	if len(behind) > 0 {
		const most = 8
		rest := ""
		if n := len(behind) - most; n > 0 {
			behind, rest = behind[:most], fmt.Sprintf(" and %d more", n)
		}
		why = strings.Join(behind, ", ") + rest + " had not come to it when last heard of"
	}
	return fmt.Errorf("%s: %s (operation %d) has waited for %v, the limit: %s; %s sets another limit", g.me(), o.Kind, o.number, g.options.Limit, why, EnvLimit)
}

// Abort ends the processes of all ranks with an exit code, and a message on standard
// error that names this rank. It does not return.
func (g *Group) Abort(code int, message string) {
	if g.aborted.Swap(true) {
		select {} // one is enough
	}
	g.say(message)
	if code == 0 {
		code = 1
	}
	go func() {
		time.Sleep(abortTime) // the thread does not come, or the library does not end it
		os.Exit(code)
	}()
	g.mu.Lock()
	g.queue = append([]*op{{g: g, abort: code}}, g.queue...)
	g.mu.Unlock()
	g.poke()
	select {}
}

// abortTime is how long all others may take to be ended.
const abortTime = 10 * time.Second

// Close ends MPI once all ranks have called it. The process then leaves by Exit.
func (g *Group) Close() error {
	return g.begin(collective.Op{Kind: collective.KindClose}).Wait(context.Background())
}

// Exit ends the process, as os.Exit does where Start was not called. Behind Close it
// leaves as a program of C: a launcher may take another way for a crash. Before
// Close it ends all ranks.
func Exit(code int) {
	started.Lock()
	g := started.group
	started.Unlock()
	if g == nil {
		os.Exit(code)
	}
	if !g.closed.Load() {
		g.Abort(code, fmt.Sprintf("leaves the run before its end, with exit code %d", code))
	}
	g.mu.Lock()
	g.queue = append(g.queue, &op{g: g, exit: true, code: code})
	g.mu.Unlock()
	g.poke()
	time.Sleep(abortTime)
	os.Exit(code)
}

// guard ends all ranks when the thread panics.
func (g *Group) guard() {
	if v := recover(); v != nil {
		g.say(fmt.Sprintf("panic: %v\n\n%s", v, debug.Stack()))
		call(g.library.Abort, g.library.world, 2)
		os.Exit(2)
	}
}
