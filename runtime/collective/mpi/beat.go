//go:build linux && (amd64 || arm64)

package mpi

import (
	"fmt"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// Every rank tells rank 0 now and then that it lives, and rank 0 all others. So a
// rank that has died ends all of them, also where a launcher would leave the others
// waiting, as srun does without -K, or where its machine is cut off.

// link is what goes between this rank and another one: how many operations each rank
// has begun, and, as the last word, whether this was the last time.
type link struct {
	peer          int
	in, out       []uint64 // of the thread's memory
	request       [2]uint64
	sending       bool
	heard         time.Time
	met           bool // it was heard of
	ended, saidIt bool // the last word has come, and was sent
}

const (
	beatEvery = time.Second
	lookEvery = 100 * time.Millisecond
)

// link begins to listen: rank 0 to all others, they to rank 0.
func (t *talker) link() {
	now := time.Now()
	t.seen = now
	words := func(n int) []uint64 {
		b := t.arena.Bytes(8 * n)
		return unsafe.Slice((*uint64)(unsafe.Pointer(&b[0])), n)
	}
	for q := range t.size {
		l := &link{peer: q, heard: now}
		switch {
		case q == t.rank:
			continue
		case t.rank == 0:
			l.in, l.out = words(2), words(t.size+1)
		case q == 0:
			l.in, l.out = words(t.size+1), words(2)
		default:
			continue
		}
		t.links = append(t.links, l)
		t.listen(l)
	}
}

func (t *talker) listen(l *link) {
	t.survive(l, call(t.Receive, address(&l.in[0]), uintptr(8*len(l.in)), t.byte, uintptr(l.peer), tagBeat, t.world, address(&l.request[0])))
}

// beat listens, speaks when it is time, and ends all ranks when one is silent.
func (t *talker) beat(now time.Time) {
	silence := t.options.Silence
	if now.Sub(t.seen) > silence/4 { // this process was stopped: it has not listened
		for _, l := range t.links {
			l.heard = now
		}
	}
	t.seen = now
	if now.Sub(t.looked) < min(lookEvery, silence/8) {
		return
	}
	t.looked = now
	speak := now.Sub(t.beats) >= min(beatEvery, silence/4)
	if speak {
		t.beats = now
	}
	for _, l := range t.links {
		t.hear(l, now)
		if speak {
			t.speak(l, false)
		}
		allowed := silence
		if !l.met { // the first word takes as long as a start may
			allowed = max(silence, t.options.Limit)
		}
		if !l.ended && now.Sub(l.heard) > allowed {
			t.die(fmt.Sprintf("rank %d%s has died or is cut off: nothing was heard of it for %v", l.peer, t.on(l.peer), now.Sub(l.heard).Round(time.Second)))
		}
	}
}

// hear takes what has come from another rank.
func (t *talker) hear(l *link, now time.Time) {
	if !l.ended && t.over(l, 0) {
		l.heard, l.met = now, true
		t.mu.Lock()
		if t.rank == 0 {
			t.counts[l.peer] = l.in[0]
		} else {
			copy(t.counts, l.in[:t.size])
		}
		t.mu.Unlock()
		if l.ended = l.in[len(l.in)-1] != 0; !l.ended {
			t.listen(l)
		}
	}
	if l.sending {
		l.sending = !t.over(l, 1)
	}
}

// speak sends to another rank, unless it has not taken what was sent before.
func (t *talker) speak(l *link, last bool) {
	if l.sending || l.saidIt {
		return
	}
	t.mu.Lock()
	t.counts[t.rank] = t.begun
	if t.rank == 0 {
		copy(l.out, t.counts)
	} else {
		l.out[0] = t.begun
	}
	t.mu.Unlock()
	if last {
		l.out[len(l.out)-1], l.saidIt = 1, true
	}
	l.sending = true
	t.survive(l, call(t.Send, address(&l.out[0]), uintptr(8*len(l.out)), t.byte, uintptr(l.peer), tagBeat, t.world, address(&l.request[1])))
}

// over reports whether what was received (0) or sent (1) is done.
func (t *talker) over(l *link, which int) bool {
	t.survive(l, call(t.TestAll, 1, address(&l.request[which]), address(&t.flag), address(&t.status[0])))
	return t.flag != 0
}

// farewell says and hears the last words, so that nothing is under way when MPI ends.
func (t *talker) farewell() {
	limit := time.Now().Add(t.options.Limit)
	for {
		now, left := time.Now(), 0
		for _, l := range t.links {
			t.hear(l, now)
			t.speak(l, true)
			if !l.ended || l.sending || !l.saidIt {
				left++
			}
		}
		if left == 0 {
			return
		}
		if now.After(limit) {
			t.die(fmt.Sprintf("%d ranks do not end", left))
		}
		syscall.Syscall(syscall.SYS_SCHED_YIELD, 0, 0, 0)
	}
}

// survive ends all ranks when one cannot be reached.
func (t *talker) survive(l *link, code int) {
	if code != 0 {
		t.die(fmt.Sprintf("rank %d%s has died or is cut off: %s", l.peer, t.on(l.peer), t.words(code)))
	}
}

// die is Abort for the thread itself.
func (t *talker) die(message string) {
	if t.aborted.Swap(true) {
		return // somebody says why, and comes to the thread then
	}
	t.say(message)
	call(t.library.Abort, t.world, 1)
	os.Exit(1)
}
