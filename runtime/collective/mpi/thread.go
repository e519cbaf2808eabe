//go:build linux && (amd64 || arm64)

package mpi

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"os"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"github.com/structuredffn/sffn/runtime/collective"
	"github.com/structuredffn/sffn/runtime/memory"
)

// messageBytes is the most that one message has; what is longer goes as several.
// Counts are 32 bits wide. It is a variable for tests.
var messageBytes = 1 << 30

// tags of messages between two ranks
const (
	tagExchange = 1
	tagBeat     = 2
)

// op is an operation from its begin to its end.
type op struct {
	collective.Op
	g      *Group
	number uint64
	done   chan struct{}
	err    error

	abort, code int // for the thread itself: end all, or leave
	exit        bool

	requests []uint64 // one each, or packed as the interface has them
	issued   int      // requests
	statuses []byte
	messages []message // those in requests that have a length and a peer
	flag     int32
	counts   []int32 // of an all-gather, and where parts begin
	displs   []int32

	staged []byte        // memory of the thread that stands for the caller's
	caller collective.Op // the caller's
}

// message is one that is sent or received.
type message struct {
	peer    int
	data    []byte
	receive bool
}

// talker is the thread that talks to MPI, and all that only it may touch.
type talker struct {
	*Group
	*library
	active []*op
	broken []*op // those that have failed: MPI may still write to their memory
	timer  *time.Timer
	// since is when the last operation ended while somebody waited, busy when there
	// was one.
	since, busy time.Time

	arena memory.Arena
	free  [bits.UintSize][][]byte // staging memory, by the power of two that it holds

	links         []*link
	beats, looked time.Time // when links were spoken and listened to
	seen          time.Time // when the thread was here
	flag          int32
	status        [64]byte

	ended bool // MPI has ended
}

// thread is the one that talks to MPI, from its start to the end of the process.
func (g *Group) thread(from launcher, ready chan<- error) {
	runtime.LockOSThread() // for good: MPI knows the thread that has started it
	t := &talker{Group: g, timer: time.NewTimer(time.Hour)}
	if err := t.start(from); err != nil {
		ready <- err
		select {} // what the library may have begun on this thread stays
	}
	defer g.guard()
	ready <- nil
	t.link()
	for !t.ended {
		t.take()
		ended := t.poll()
		now := time.Now()
		t.beat(now)
		if ended || g.waiting.Load() == 0 {
			t.since = now
		}
		if ended || len(t.active) > 0 {
			t.busy = now
		}
		switch {
		case ended:
		case len(t.active) == 0 && now.Sub(t.busy) > idleAfter:
			t.nap(idleNap)
		case len(t.active) == 0 || g.waiting.Load() == 0:
			t.nap(workNap)
		case now.Sub(t.since) > patience:
			t.nap(longNap)
		default:
			// Blocked threads of other ranks may share this core.
			syscall.Syscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
		}
	}
	// MPI has ended: wait for the word to leave.
	for {
		g.mu.Lock()
		queue := g.queue
		g.queue = nil
		g.mu.Unlock()
		for _, o := range queue {
			if o.exit || o.abort != 0 {
				// C's exit: its handlers at the end are what MPICH tells a good end by.
				call(t.Exit, uintptr(max(o.code, o.abort)))
			}
		}
		<-g.wake
	}
}

// How often the thread looks: operations move on only when it does.
const (
	workNap = time.Millisecond // something is under way, but its end is not waited for
	// Nothing is; but another rank may still wait for what the library has not sent.
	idleAfter = 100 * time.Millisecond
	idleNap   = 20 * time.Millisecond
	// Who waits gets all of the thread; from patience on, it is another rank that
	// takes its time, and the core may have better things to do.
	patience = 2 * time.Second
	longNap  = 200 * time.Microsecond
)

// nap sleeps, but not when there is news.
func (t *talker) nap(d time.Duration) {
	t.timer.Reset(d)
	select {
	case <-t.wake:
	case <-t.timer.C:
	}
}

// start loads and initialises the library.
func (t *talker) start(from launcher) error {
	before := handlersNow()
	l, err := find(from)
	if err != nil {
		return err
	}
	t.library, t.Group.library = l, l
	mismatch := fmt.Errorf("%s has started this as one of %d ranks, but the MPI library %s (%s) is not its own: %s, or %s names another library",
		from.name, from.ranks, l.file, l.product(), from.match, EnvLibrary)
	if other := l.abi.name == openMPI.name; from.family == familyPMI && other || from.family == familyOpenMPI && !other {
		return mismatch
	}
	out := new([2]int32)
	code := call(l.Init, 0, 0, uintptr(l.funneled), address(&out[0]))
	before.restore()
	if code != 0 {
		return fmt.Errorf("MPI_Init_thread of %s: %s", l.file, l.words(code))
	}
	call(l.Rank, l.world, address(&out[0]))
	call(l.Size, l.world, address(&out[1]))
	t.rank, t.size = int(out[0]), int(out[1])
	if from.ranks > 0 && from.ranks != t.size {
		call(l.Finalize)
		return fmt.Errorf("%w (%s=%d, MPI_Comm_size is %d)", mismatch, from.variable, from.ranks, t.size)
	}
	call(l.OnError, l.world, l.errorsReturn)
	t.counts = make([]uint64, t.size)
	return nil
}

// take begins what was asked for.
func (t *talker) take() {
	t.mu.Lock()
	queue := t.queue
	t.queue = nil
	t.mu.Unlock()
	for _, o := range queue {
		switch {
		case o.abort != 0:
			call(t.library.Abort, t.world, uintptr(o.abort))
			os.Exit(o.abort)
		case o.exit: // Close was not waited for
			call(t.library.Abort, t.world, uintptr(max(1, o.code)))
			os.Exit(max(1, o.code))
		default:
			if err := t.post(o); err != nil {
				t.end(o, err)
				continue
			}
			t.active = append(t.active, o)
		}
	}
}

// pieces cuts memory into messages.
func pieces(to []message, peer int, data []byte, receive bool) []message {
	for len(data) > 0 {
		n := min(len(data), messageBytes)
		to = append(to, message{peer, data[:n], receive})
		data = data[n:]
	}
	return to
}

// post gives an operation to MPI.
func (t *talker) post(o *op) error {
	t.stage(o)
	switch o.Kind {
	case collective.KindExchange:
		return t.exchange(o, o.Send, o.Recv)
	case collective.KindAllGather:
		send, recv, empty := make([][]byte, t.size), make([][]byte, t.size), false
		for q := range t.size {
			send[q], recv[q] = o.Data[o.Bounds[t.rank]:o.Bounds[t.rank+1]], o.Data[o.Bounds[q]:o.Bounds[q+1]]
			empty = empty || len(recv[q]) == 0
		}
		// Intel MPI 2021 hangs where a part is empty and others are large.
		if empty || len(o.Data) > messageBytes {
			return t.exchange(o, send, recv)
		}
		o.counts, o.displs = make([]int32, t.size), make([]int32, t.size)
		for q := range t.size {
			o.counts[q], o.displs[q] = int32(len(recv[q])), int32(o.Bounds[q])
		}
		o.expect(t, 1)
		return t.issue(o, t.library.AllGather, t.inPlace, 0, t.byte, address(&o.Data[0]), address(&o.counts[0]), address(&o.displs[0]), t.byte, t.world)
	case collective.KindBroadcast:
		messages := pieces(nil, o.Root, o.Data, true)
		o.expect(t, len(messages))
		for _, m := range messages {
			if err := t.issue(o, t.library.Broadcast, address(&m.data[0]), uintptr(len(m.data)), t.byte, uintptr(o.Root), t.world); err != nil {
				return err
			}
		}
		return nil
	}
	o.expect(t, 1)
	return t.issue(o, t.library.Barrier, t.world)
}

// exchange posts all messages between this rank and the others, beginning with the
// nearest one: so not all send to the same.
func (t *talker) exchange(o *op, send, recv [][]byte) error {
	for d := 1; d < t.size; d++ {
		q := (t.rank - d + t.size) % t.size
		o.messages = pieces(o.messages, q, recv[q], true)
	}
	for d := 1; d < t.size; d++ {
		q := (t.rank + d) % t.size
		o.messages = pieces(o.messages, q, send[q], false)
	}
	o.expect(t, len(o.messages))
	for _, m := range o.messages {
		f := t.Send
		if m.receive {
			f = t.Receive
		}
		if err := t.issue(o, f, address(&m.data[0]), uintptr(len(m.data)), t.byte, uintptr(m.peer), tagExchange, t.world); err != nil {
			return err
		}
	}
	return nil
}

// expect makes room for n requests.
func (o *op) expect(t *talker, n int) {
	o.requests = make([]uint64, n)
	o.statuses = make([]byte, n*t.library.statuses)
}

// issue calls a function whose last argument is where the next request goes.
func (t *talker) issue(o *op, f uintptr, args ...uintptr) error {
	at := address(&o.requests[0]) + uintptr(o.issued*t.library.requests)
	o.issued++
	return t.check(o, call(f, append(args, at)...))
}

// check makes an error of a code.
func (t *talker) check(o *op, code int) error {
	if code == 0 {
		return nil
	}
	return fmt.Errorf("%s: %s (operation %d): %s", t.me(), o.Kind, o.number, t.words(code))
}

// poll sees how operations get on, and reports whether one has ended.
func (t *talker) poll() (ended bool) {
	left := t.active[:0]
	for _, o := range t.active {
		if o.Done() {
			continue
		}
		if !t.tested(o) {
			left = append(left, o)
			continue
		}
		ended = true
	}
	clear(t.active[len(left):])
	t.active = left
	return ended
}

// tested ends an operation that is done or has failed.
func (t *talker) tested(o *op) bool {
	if o.issued > 0 {
		code := call(t.TestAll, uintptr(o.issued), address(&o.requests[0]), address(&o.flag), address(unsafe.SliceData(o.statuses)))
		if code != 0 {
			t.end(o, t.why(o, code))
			return true
		}
		if o.flag == 0 {
			return false
		}
	}
	for i, m := range o.messages {
		if !m.receive {
			continue
		}
		n := new(int32)
		call(t.Count, address(&o.statuses[i*t.library.statuses]), t.byte, address(n))
		if int(*n) != len(m.data) {
			t.end(o, fmt.Errorf("%s: %s (operation %d): rank %d%s sends %d bytes where %d are expected", t.me(), o.Kind, o.number, m.peer, t.on(m.peer), *n, len(m.data)))
			return true
		}
	}
	if o.Kind == collective.KindClose {
		t.farewell()
		if code := call(t.Finalize); code != 0 {
			t.end(o, t.check(o, code))
			return true
		}
		t.ended = true
	}
	t.end(o, nil)
	return true
}

// why finds the message that has failed.
func (t *talker) why(o *op, code int) error {
	for i, m := range o.messages {
		status := o.statuses[i*t.library.statuses:]
		failed := int(int32(binary.NativeEndian.Uint32(status[t.failure:])))
		if failed == 0 {
			continue
		}
		if text := t.words(failed); !strings.Contains(strings.ToLower(text), "pending") {
			verb := "to"
			if m.receive {
				verb = "from"
			}
			return fmt.Errorf("%s: %s (operation %d) %s rank %d%s: %s", t.me(), o.Kind, o.number, verb, m.peer, t.on(m.peer), text)
		}
	}
	return t.check(o, code)
}

// end tells who waits.
func (t *talker) end(o *op, err error) {
	if err != nil {
		t.fail(err)
		t.broken = append(t.broken, o)
	}
	t.unstage(o, err == nil)
	o.err = err
	close(o.done)
}
