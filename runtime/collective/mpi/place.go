package mpi

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// Place is where a rank runs, and with whom.
type Place struct {
	// Host is the machine's name; Hosts how many machines the ranks run on.
	Host  string
	Hosts int
	// Ranks is the number of ranks on this machine, this one included; Local its
	// number among them.
	Ranks, Local int
	// Cores is the number of physical cores that this rank may use; Share its part of
	// them, where ranks may use the same; Together those that any rank of this machine
	// may use, and Machine all that it has.
	Cores, Share, Together, Machine int

	moreCPUs string
	machines []Place // of the first rank of each machine
	own      []int   // CPUs of this rank alone, where the launcher leaves the same to several
}

// seat is what a rank says of itself.
type seat struct {
	Machine string // tells machines apart
	Host    string
	CPUs    []int // that it may use
	Cores   []int // the physical core of each
	All     int   // cores of the machine
	Quota   int   // how many threads may run at a time, by the limits of containers
}

func (s seat) encode() []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // strings and numbers
	}
	return b
}

func decodeSeat(b []byte) (s seat, err error) {
	if err = json.Unmarshal(b, &s); err == nil && len(s.CPUs) != len(s.Cores) {
		err = fmt.Errorf("%d CPUs and %d cores", len(s.CPUs), len(s.Cores))
	}
	return s, err
}

// here is this rank's seat.
func here() seat {
	s := seat{Quota: runtime.GOMAXPROCS(0), CPUs: allowed()}
	s.Host, _ = os.Hostname()
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	s.Machine = strings.TrimSpace(string(boot))
	if err != nil {
		s.Machine = s.Host
	}
	for _, cpu := range s.CPUs {
		s.Cores = append(s.Cores, coreOf(cpu))
	}
	all := map[int]bool{}
	for _, cpu := range list("/sys/devices/system/cpu/online") {
		all[coreOf(cpu)] = true
	}
	s.All = len(all)
	return s
}

// coreOf is the physical core of a CPU, by the first of its CPUs.
func coreOf(cpu int) int {
	if siblings := list(fmt.Sprintf("/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu)); len(siblings) > 0 {
		return siblings[0]
	}
	return cpu
}

// list reads numbers as the kernel writes sets of them: 0-3,8.
func list(file string) (numbers []int) {
	text, err := os.ReadFile(filepath.FromSlash(file))
	if err != nil {
		return nil
	}
	for part := range strings.SplitSeq(strings.TrimSpace(string(text)), ",") {
		a, b, is := strings.Cut(part, "-")
		if !is {
			b = a
		}
		from, err1 := strconv.Atoi(a)
		to, err2 := strconv.Atoi(b)
		if err1 != nil || err2 != nil || to-from > 1<<16 {
			return nil
		}
		for n := from; n <= to; n++ {
			numbers = append(numbers, n)
		}
	}
	return numbers
}

// places is a rank's place among the seats of all, with what it takes to warn of each
// machine.
func places(seats []seat, rank int, from launcher) Place {
	p := placeOf(seats, rank, from)
	p.own = ownCPUs(seats, rank)
	seen := map[string]bool{}
	for q, s := range seats {
		if !seen[s.Machine] {
			seen[s.Machine] = true
			p.machines = append(p.machines, placeOf(seats, q, from))
		}
	}
	return p
}

// placeOf is a rank's place.
func placeOf(seats []seat, rank int, from launcher) Place {
	me := seats[rank]
	p := Place{Host: me.Host, Machine: me.All, moreCPUs: from.moreCPUs}
	machines := map[string]bool{}
	users := map[int]int{} // of each core of this machine
	shared := 0            // ranks that share this one's quota of time
	for q, s := range seats {
		machines[s.Machine] = true
		if s.Machine != me.Machine {
			continue
		}
		if q < rank {
			p.Local++
		}
		p.Ranks++
		if s.Host == me.Host { // and not another container's
			shared++
		}
		for _, core := range distinct(s.Cores) {
			users[core]++
		}
	}
	p.Hosts, p.Together = len(machines), len(users)
	// Cores that several ranks may use are shared out evenly.
	mine, share := distinct(me.Cores), 0.0
	for _, core := range mine {
		share += 1 / float64(users[core])
	}
	p.Cores = len(mine)
	p.Share = max(1, int(share+1e-9))
	if quota := me.Quota; quota < len(me.CPUs) {
		p.Share = max(1, min(p.Share, quota/shared))
	}
	return p
}

// ownCPUs deals the cores that a launcher leaves to several ranks alike out to them, in
// stretches; nil where there is one rank, or fewer cores than ranks.
func ownCPUs(seats []seat, rank int) (cpus []int) {
	me := seats[rank]
	alike, before := 0, 0
	for q, s := range seats {
		if s.Machine == me.Machine && slices.Equal(s.CPUs, me.CPUs) {
			alike++
			if q < rank {
				before++
			}
		}
	}
	cores := distinct(me.Cores)
	if alike < 2 || len(cores) < alike {
		return nil
	}
	own := cores[before*len(cores)/alike : (before+1)*len(cores)/alike]
	for i, cpu := range me.CPUs {
		if slices.Contains(own, me.Cores[i]) {
			cpus = append(cpus, cpu)
		}
	}
	return cpus
}

func distinct(x []int) []int {
	return slices.Compact(slices.Sorted(slices.Values(x)))
}

// Threads is how many threads a rank here shall compute with: what was asked for, or
// its share of the cores where that is 0. It gives Go as many to run at a time, and
// one more for what talks to MPI, and keeps them on cores of their own, where the
// launcher left the same cores to several ranks and SFFN_PIN is not off. Warnings say
// what makes this slow on any machine, the same at all ranks, and what would help.
func (p Place) Threads(asked int) (threads int, warnings []string) {
	threads = p.threads(asked)
	runtime.GOMAXPROCS(threads + 1)
	if os.Getenv("SFFN_PIN") != "off" && p.pins(threads) {
		pin(p.own)
	}
	for _, m := range p.machines {
		warnings = append(warnings, m.warnings(m.threads(asked))...)
	}
	if n := len(warnings) - mostWarnings; n > 0 {
		warnings = append(warnings[:mostWarnings], fmt.Sprintf("and so on %d more machines", n))
	}
	return threads, warnings
}

// mostWarnings is how many machines are warned of one by one.
const mostWarnings = 4

// pins reports whether so many threads have cores of their own.
func (p Place) pins(threads int) bool { return len(p.own) > 0 && threads <= p.Share }

func (p Place) threads(asked int) int {
	if asked > 0 {
		return asked
	}
	return p.Share
}

func (p Place) warnings(threads int) (w []string) {
	switch {
	case p.Cores == 0: // the system does not say
	case p.Ranks*threads > p.Machine:
		w = append(w, fmt.Sprintf("%s has %d cores for %d ranks with --threads %d: they share cores, which is slow; start fewer ranks, or give them fewer threads", p.Host, p.Machine, p.Ranks, threads))
	case threads > p.Cores, p.Ranks*threads > p.Together, p.Cores == 1 && p.Together < p.Machine:
		w = append(w, fmt.Sprintf("the launcher gives the %d ranks on %s %d of its %d cores, and %d to a rank with --threads %d; for more: %s", p.Ranks, p.Host, p.Together, p.Machine, p.Cores, threads, p.moreCPUs))
	}
	return w
}
