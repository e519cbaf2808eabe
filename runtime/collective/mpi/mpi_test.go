//go:build linux && (amd64 || arm64)

package mpi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// installation is an MPI of this machine.
type installation struct {
	name     string
	launcher string
	library  string // where not that beside the launcher
}

// installations are those of make mpi, in build/mpi, and what a shell finds.
func installations(t *testing.T) (all []installation) {
	t.Helper()
	built, err := filepath.Abs("../../../build/mpi")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, launcher := range []string{filepath.Join(built, "mpich/bin/mpirun"), filepath.Join(built, "openmpi/bin/mpirun"), "mpirun.mpich", "mpirun.openmpi", "mpirun"} {
		file, err := exec.LookPath(launcher)
		if err != nil {
			continue
		}
		out, err := exec.Command(file, "--version").CombinedOutput()
		if err != nil {
			t.Errorf("%s --version: %v\n%s", file, err, out)
			continue
		}
		name := "MPICH"
		if strings.Contains(string(out), "Open MPI") || strings.Contains(string(out), "OpenRTE") {
			name = "Open MPI"
		}
		if m := regexp.MustCompile(`\d+\.\d+[.\d]*`).Find(out); m != nil {
			name += " " + string(m)
		}
		if seen[name] {
			continue
		}
		seen[name] = true
		all = append(all, installation{name: name, launcher: file})
		// MPICH 5 has two libraries, each with an interface of its own.
		if other := filepath.Join(filepath.Dir(file), "../lib/libmpi.so.12"); exists(other) && exists(filepath.Join(filepath.Dir(other), "libmpi_abi.so.1")) {
			all = append(all, installation{name: name + " (its own interface)", launcher: file, library: other})
		}
	}
	if all == nil {
		t.Skip("there is no MPI: make mpi sets up two in build/mpi")
	}
	return all
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// command starts n ranks that play a part.
func (in installation) command(ctx context.Context, n int, part string, settings ...string) *exec.Cmd {
	args := []string{"-n", strconv.Itoa(n)}
	if strings.HasPrefix(in.name, "Open MPI") {
		args = append([]string{"--bind-to", "none", "--oversubscribe"}, args...)
	}
	cmd := exec.CommandContext(ctx, in.launcher, append(args, os.Args[0])...)
	cmd.Env = append(os.Environ(), envPart+"="+part, "OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1")
	if in.library != "" {
		cmd.Env = append(cmd.Env, EnvLibrary+"="+in.library)
	}
	cmd.Env = append(cmd.Env, settings...)
	cmd.WaitDelay = time.Minute
	return cmd
}

// run returns what n ranks print and the launcher's exit code. It is an error when
// they do not end, or a process of them is left.
func (in installation) run(t *testing.T, n int, part string, settings ...string) (out string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	b, err := in.command(ctx, n, part, settings...).CombinedOutput()
	out = string(b)
	if exit := new(exec.ExitError); err != nil && (!errors.As(err, &exit) || ctx.Err() != nil) {
		t.Fatalf("%v, %v\n%s", err, ctx.Err(), out)
	} else if err != nil {
		code = exit.ExitCode()
	}
	for _, m := range regexp.MustCompile(`begun as (\d+)\n`).FindAllStringSubmatch(out, -1) {
		for alive(m[1]) && ctx.Err() == nil {
			time.Sleep(10 * time.Millisecond)
		}
		if alive(m[1]) {
			t.Errorf("process %s is left", m[1])
		}
	}
	return out, code
}

// alive reports whether a process runs still, and is not only to be collected.
func alive(pid string) bool {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	return err == nil && !strings.Contains(string(stat), ") Z ")
}

// Every operation moves the right memory, of every size, and sums have the bits of
// the tree, by each library of this machine; many small ones, and those that are cut
// into messages.
func TestOperations(t *testing.T) {
	for i, in := range installations(t) {
		for _, n := range []int{2, 4} {
			t.Run(fmt.Sprintf("%s, %d ranks", in.name, n), func(t *testing.T) {
				floats := 120_000
				if i == 0 && n == 2 {
					floats = 3_250_000 // the largest part has twice as many
				}
				out, code := in.run(t, n, "operations", fmt.Sprintf("%s_FLOATS=%d", envPart, floats))
				if code != 0 || strings.Count(out, "has it all by ") != n {
					t.Errorf("exit code %d\n%s", code, out)
				}
				want := "by MPI 5's standard interface"
				switch {
				case strings.HasPrefix(in.name, "Open MPI"):
					want = "by Open MPI's interface"
				case in.library != "" || strings.HasPrefix(in.name, "MPICH 4"):
					want = "by MPICH's interface"
				}
				if !strings.Contains(out, want) {
					t.Errorf("want %s\n%s", want, out)
				}
			})
		}
	}
}

// Go's garbage collector and its panics from signals go on beside MPI.
func TestSignals(t *testing.T) {
	for _, in := range installations(t) {
		if in.library != "" {
			continue // what it does to signals is the same
		}
		t.Run(in.name, func(t *testing.T) {
			if out, code := in.run(t, 2, "signals"); code != 0 {
				t.Errorf("exit code %d\n%s", code, out)
			}
		})
	}
}

// Whatever happens to one rank ends all of them, with an exit code that is not 0 and
// a message that says what it was.
func TestFailures(t *testing.T) {
	for _, in := range installations(t) {
		for _, c := range []struct {
			part  string
			ranks int
			code  int // 0: any but 0
			want  string
		}{
			{"killed", 4, 0, `(?i)signal:? 9`},
			{"panic", 2, 2, `(?s)rank 1 of 2 \(.*\): panic: the sky falls\n.*rank_test\.go`},
			{"far", 2, 0, `panic: the sky falls elsewhere`},
			{"exit", 2, 3, `rank 1 of 2 \(.*\): leaves the run before its end, with exit code 3\n`},
			{"abort", 4, 42, `rank 3 of 4 \(.*\): the disk is full\n`},
			{"hangs", 4, 4, `rank \d of 4 \(.*\): barrier \(operation \d+\) has waited for 10s, the limit: .*rank 3 \(.*\) had not come to it`},
			{"stopped", 4, 1, `rank 0 of 4 \(.*\): rank 3 \(.*\) has died or is cut off: nothing was heard of it for `},
			{"shorter", 2, 4, `rank 0 of 2 \(.*\): exchange \(operation 2\): rank 1 \(.*\) sends 8 bytes where 12 are expected\n`},
			{"longer", 2, 4, `rank 0 of 2 \(.*\): exchange \(operation 2\) from rank 1 \(.*\): .*(?i:truncate)`},
			{"agreed", 2, 1, `end: all agree that this is the end\n`},
		} {
			if in.library != "" && c.part != "abort" && c.part != "longer" {
				continue // the launcher is the same
			}
			t.Run(in.name+", "+c.part, func(t *testing.T) {
				t.Parallel()
				settings := []string{envPart + "_LIMIT=1m"}
				switch c.part {
				case "hangs":
					settings = []string{envPart + "_LIMIT=10s"}
				case "stopped":
					settings = append(settings, envPart+"_SILENCE=5s")
				}
				out, code := in.run(t, c.ranks, c.part, settings...)
				if code == 0 || c.code != 0 && code != c.code {
					t.Errorf("exit code %d\n%s", code, out)
				}
				if !regexp.MustCompile(c.want).MatchString(out) {
					t.Errorf("want %s\n%s", c.want, out)
				}
				if n := strings.Count(out, " ranks do not end"); n != 0 {
					t.Errorf("they wait for each other\n%s", out)
				}
			})
		}
	}
}

// A library that is not there, is none or is another launcher's is an error that
// names it, on every rank.
func TestWrongLibrary(t *testing.T) {
	all := installations(t)
	for _, in := range all {
		cases := map[string]string{
			"/nowhere/libmpi.so": `SFFN_MPI=/nowhere/libmpi.so: .*No such file`,
			"libc.so.6":          `SFFN_MPI=libc.so.6: libc.so.6 is not an MPI library`,
		}
		for _, other := range all {
			if open := strings.HasPrefix(in.name, "Open MPI"); open != strings.HasPrefix(other.name, "Open MPI") {
				names := launcher{family: familyPMI}.libraries()
				if !open {
					names = launcher{family: familyOpenMPI}.libraries()
				}
				for _, name := range names {
					if file := filepath.Join(filepath.Dir(other.launcher), "../lib", name); exists(file) {
						cases[file] = `launcher has started this as one of 2 ranks, but the MPI library ` + regexp.QuoteMeta(file) + ` \(.*\) is not its own`
					}
				}
			}
		}
		for file, want := range cases {
			in.library = file
			out, code := in.run(t, 2, "operations")
			if n := len(regexp.MustCompile(`start: .*`+want).FindAllString(out, -1)); code != 1 || n == 0 {
				t.Errorf("%s with %s: exit code %d, want %s\n%s", in.name, file, code, want, out)
			}
		}
	}
}

// Without a launcher there is one rank, and no library is needed.
func TestJoinAlone(t *testing.T) {
	for _, l := range []string{"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"} {
		t.Setenv(l, "")
	}
	t.Setenv(EnvLibrary, "/nowhere")
	g, err := Join()
	if err != nil || g.Size() != 1 || g.Rank() != 0 {
		t.Fatalf("%v, %v", g, err)
	}
	t.Setenv("PMI_SIZE", "1")
	if g, err = Join(); err != nil || g.Size() != 1 {
		t.Fatalf("%v, %v", g, err)
	}
	for _, bad := range []string{"soon", "0s", "-3m", "5"} {
		t.Setenv(EnvLimit, bad)
		if _, err := Join(); err == nil || !strings.Contains(err.Error(), EnvLimit+"="+bad+": want a time above 0, as 20m") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

// A launcher is known by its environment.
func TestLaunched(t *testing.T) {
	all := []string{"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "HYDI_CONTROL_FD"}
	for _, c := range []struct {
		env  []string
		want launcher
	}{
		{nil, launcher{}},
		{[]string{"OMPI_COMM_WORLD_SIZE=3"}, launcher{name: "Open MPI's launcher", ranks: 3, family: familyOpenMPI}},
		{[]string{"PMI_SIZE=4"}, launcher{name: "MPICH's or Intel's launcher", ranks: 4, family: familyPMI}},
		{[]string{"PMI_SIZE=4", "SLURM_STEP_NUM_TASKS=2", "HYDI_CONTROL_FD=7"}, launcher{name: "MPICH's or Intel's launcher", ranks: 4, family: familyPMI}},
		{[]string{"PMI_SIZE=4", "SLURM_STEP_NUM_TASKS=4"}, launcher{name: "Slurm (pmi2)", ranks: 4, family: familyPMI}},
		{[]string{"SLURM_STEP_NUM_TASKS=4"}, launcher{name: "Slurm", ranks: 4, family: familySlurm}},
		{[]string{"OMPI_COMM_WORLD_SIZE=3", "SLURM_STEP_NUM_TASKS=2"}, launcher{name: "Open MPI's launcher", ranks: 3, family: familyOpenMPI}},
		{[]string{"SLURM_STEP_NUM_TASKS=0"}, launcher{}},
		{[]string{"PMI_SIZE=many"}, launcher{}},
	} {
		for _, name := range all {
			t.Setenv(name, "")
		}
		for _, e := range c.env {
			name, value, _ := strings.Cut(e, "=")
			t.Setenv(name, value)
		}
		got := launched()
		if got.name != c.want.name || got.ranks != c.want.ranks || got.family != c.want.family {
			t.Errorf("%v: %+v, want %+v", c.env, got, c.want)
		}
		if Launched() != c.want.ranks {
			t.Errorf("%v: %d ranks", c.env, Launched())
		}
	}
}

// Cores are shared out among the ranks that may use them.
func TestPlace(t *testing.T) {
	cpus := func(from, to int) (c []int) {
		for ; from < to; from++ {
			c = append(c, from)
		}
		return c
	}
	on := func(machine string, of int, c []int) seat {
		return seat{Machine: machine, Host: machine, CPUs: c, Cores: c, All: of, Quota: len(c)}
	}
	hyper := seat{Machine: "h", Host: "h", CPUs: cpus(0, 8), Cores: []int{0, 1, 2, 3, 0, 1, 2, 3}, All: 4, Quota: 8}
	quota := on("q", 64, cpus(0, 64))
	quota.Quota = 6
	from := launcher{moreCPUs: "pass more"}
	for _, c := range []struct {
		name    string
		seats   []seat
		rank    int
		want    Place
		threads int // asked for
		warn    string
	}{
		{"unbound", []seat{on("a", 8, cpus(0, 8)), on("a", 8, cpus(0, 8))}, 1,
			Place{Host: "a", Hosts: 1, Ranks: 2, Local: 1, Cores: 8, Share: 4, Together: 8, Machine: 8}, 0, ""},
		{"bound", []seat{on("a", 8, cpus(0, 4)), on("a", 8, cpus(4, 8))}, 0,
			Place{Host: "a", Hosts: 1, Ranks: 2, Local: 0, Cores: 4, Share: 4, Together: 8, Machine: 8}, 0, ""},
		{"bound to a core each", []seat{on("a", 8, cpus(0, 1)), on("a", 8, cpus(1, 2))}, 0,
			Place{Host: "a", Hosts: 1, Ranks: 2, Local: 0, Cores: 1, Share: 1, Together: 2, Machine: 8}, 0,
			"the launcher gives the 2 ranks on a 2 of its 8 cores, and 1 to a rank with --threads 1; for more: pass more"},
		{"all on one core", []seat{on("a", 8, cpus(0, 1)), on("a", 8, cpus(0, 1))}, 0,
			Place{Host: "a", Hosts: 1, Ranks: 2, Local: 0, Cores: 1, Share: 1, Together: 1, Machine: 8}, 0, "1 of its 8 cores"},
		{"more threads than cores", []seat{on("a", 8, cpus(0, 2)), on("a", 8, cpus(2, 4))}, 0,
			Place{Host: "a", Hosts: 1, Ranks: 2, Local: 0, Cores: 2, Share: 2, Together: 4, Machine: 8}, 3, "4 of its 8 cores, and 2 to a rank with --threads 3; for more: pass more"},
		{"more ranks than cores", []seat{on("a", 2, cpus(0, 2)), on("a", 2, cpus(0, 2)), on("a", 2, cpus(0, 2))}, 2,
			Place{Host: "a", Hosts: 1, Ranks: 3, Local: 2, Cores: 2, Share: 1, Together: 2, Machine: 2}, 0, "a has 2 cores for 3 ranks with --threads 1"},
		{"two machines", []seat{on("a", 4, cpus(0, 4)), on("b", 2, cpus(0, 2)), on("a", 4, cpus(0, 4)), on("b", 2, cpus(0, 2))}, 3,
			Place{Host: "b", Hosts: 2, Ranks: 2, Local: 1, Cores: 2, Share: 1, Together: 2, Machine: 2}, 0, ""},
		{"two threads a core", []seat{hyper, hyper}, 0,
			Place{Host: "h", Hosts: 1, Ranks: 2, Local: 0, Cores: 4, Share: 2, Together: 4, Machine: 4}, 0, ""},
		{"a container's quota", []seat{quota, quota}, 0,
			Place{Host: "q", Hosts: 1, Ranks: 2, Local: 0, Cores: 64, Share: 3, Together: 64, Machine: 64}, 0, ""},
		{"nothing is known", []seat{{Machine: "x", Host: "x"}}, 0,
			Place{Host: "x", Hosts: 1, Ranks: 1, Share: 1}, 0, ""},
	} {
		got := placeOf(c.seats, c.rank, from)
		threads := c.threads
		if threads == 0 {
			threads = got.Share
		}
		warnings := got.warnings(threads)
		got.moreCPUs = ""
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
		if c.warn == "" && len(warnings) > 0 || c.warn != "" && (len(warnings) != 1 || !strings.Contains(warnings[0], c.warn)) {
			t.Errorf("%s: %q, want %q", c.name, warnings, c.warn)
		}
	}
	// What several may use alike is dealt out, whole cores.
	half := on("a", 8, cpus(4, 8))
	for _, c := range []struct {
		seats []seat
		rank  int
		want  []int
	}{
		{[]seat{on("a", 8, cpus(0, 8)), on("a", 8, cpus(0, 8))}, 0, cpus(0, 4)},
		{[]seat{on("a", 8, cpus(0, 8)), on("a", 8, cpus(0, 8))}, 1, cpus(4, 8)},
		{[]seat{on("a", 8, cpus(0, 8)), on("b", 8, cpus(0, 8)), on("a", 8, cpus(0, 8)), on("a", 8, cpus(0, 8))}, 2, cpus(2, 5)},
		{[]seat{on("a", 8, cpus(0, 4)), half}, 1, nil},              // bound already
		{[]seat{half, on("a", 8, cpus(0, 4)), half}, 2, cpus(6, 8)}, // two to a half
		{[]seat{hyper, hyper}, 1, []int{2, 3, 6, 7}},
		{[]seat{on("a", 2, cpus(0, 2)), on("a", 2, cpus(0, 2)), on("a", 2, cpus(0, 2))}, 1, nil},
		{[]seat{on("a", 8, cpus(0, 8))}, 0, nil},
		{[]seat{{Machine: "x"}, {Machine: "x"}}, 0, nil},
	} {
		if got := ownCPUs(c.seats, c.rank); !slices.Equal(got, c.want) {
			t.Errorf("rank %d of %v keeps to %v, want %v", c.rank, c.seats, got, c.want)
		}
	}
	// All ranks warn of the same machines, up to a few.
	var many []seat
	for q := range 14 {
		many = append(many, on(fmt.Sprint("m", q/2), 1, cpus(0, 1)))
	}
	procs := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(procs)
	for _, rank := range []int{0, 13} {
		threads, w := places(many, rank, from).Threads(0)
		if threads != 1 || len(w) != 5 || !strings.HasPrefix(w[0], "m0 has 1 cores for 2 ranks") || w[4] != "and so on 3 more machines" {
			t.Errorf("rank %d: %d threads, %q", rank, threads, w)
		}
		if n := runtime.GOMAXPROCS(0); n != 2 {
			t.Errorf("Go runs %d threads at a time, want one more than compute", n)
		}
	}
	me := here()
	back, err := decodeSeat(me.encode())
	if err != nil || back.Machine != me.Machine || !slices.Equal(back.Cores, me.Cores) || len(me.Cores) == 0 || me.All < 1 {
		t.Errorf("%+v, %+v, %v", me, back, err)
	}
}
