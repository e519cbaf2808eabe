package train

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/data"
	rt "github.com/structuredffn/sffn/runtime"
)

// kills is the number of kills at random moments: make soak has 1,000.
var kills = flag.Int("kills", 40, "kill a trainer at so many random moments")

// killSeed draws them: a test that fails says which it was.
var killSeed = flag.Uint64("killseed", 0, "draw the moments from this seed again (default: another one each time)")

// Tests run the trainer in a child process, the test binary itself, by these
// variables: the folder of the data and the run, and what else it does.
const (
	childEnv      = "SFFN_TEST_TRAIN"
	beforeEnv     = "SFFN_TEST_BEFORE"
	limitFileSize = "limit the size of files"
	sayOperations = "say each operation"
	dieAt         = "die before operation " // a number
	childRun      = "child"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childEnv); dir != "" {
		if err := trainChild(dir, os.Getenv(beforeEnv)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func child(t *testing.T, dir, before string, prefix ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	args := append(prefix, exe)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), childEnv+"="+dir, beforeEnv+"="+before)
	return cmd
}

// trainChild trains, or resumes, saving after each step.
func trainChild(dir, before string) error {
	c, err := config.Parse("tiny", []byte(tiny))
	if err != nil {
		return err
	}
	set, err := data.Open(filepath.Join(dir, "data"))
	if err != nil {
		return err
	}
	if before == limitFileSize {
		if err := limitFiles(16 << 10); err != nil {
			return err
		}
	}
	run := filepath.Join(dir, childRun)
	_, none := checkpoint.Find(run)
	r := &Run{Config: c, Data: set, Dir: run, Keep: 2, SaveEvery: 1, Resume: none == nil, Options: rt.Options{Pool: rt.NewPool(2)}}
	if before == sayOperations {
		disk.Before = func(op, _ string) { fmt.Println(op) }
		r.OnBatch = func(Batch) { fmt.Println("batch") }
	} else if n, ok := strings.CutPrefix(before, dieAt); ok {
		at, err := strconv.Atoi(n)
		if err != nil {
			return err
		}
		dieBefore(at)
	}
	_, err = r.Train(context.Background())
	return err
}

// dieBefore kills this process before an operation, of which it says the name. Of
// the writes that follow each other every eighth counts.
func dieBefore(at int) {
	count, writes, saves := 0, 0, 0
	disk.Before = func(op, name string) {
		if op != "write" {
			writes = 0
		} else if writes++; writes%8 != 1 {
			return
		}
		if op == "mkdir" {
			saves++
		}
		if count++; count < at {
			return
		}
		fmt.Println(saves, op, filepath.Base(name))
		if self, err := os.FindProcess(os.Getpid()); err == nil {
			self.Kill()
		}
		select {} // until the signal is here
	}
}

// victim is a run that is killed again and again: whatever happens, it holds
// checkpoints of an unbroken run, and the newest is never older than it was.
type victim struct {
	dir      string
	whole    map[int][]byte // checkpoints of the unbroken run
	last     int            // its last step
	step     int            // of the newest checkpoint, 0 where there was none
	deaths   int
	finished int
}

func newVictim(t *testing.T) *victim {
	t.Helper()
	v := &victim{dir: t.TempDir(), whole: map[int][]byte{}}
	prepare(t, filepath.Join(v.dir, "data"))
	r := newRun(t, filepath.Join(v.dir, "data"), filepath.Join(v.dir, "whole"), 1, "")
	r.SaveEvery, r.Keep = 1, 1000
	v.last = train(t, r).Step
	for step := 1; step <= v.last; step++ {
		v.whole[step] = weights(t, filepath.Join(r.Dir, fmt.Sprintf("step-%08d", step)))
	}
	return v
}

// end looks at what a life left: err is how it ended.
func (v *victim) end(t *testing.T, err error, log string) {
	t.Helper()
	run := filepath.Join(v.dir, childRun)
	dirs, gerr := filepath.Glob(filepath.Join(run, "step-*"))
	if gerr != nil {
		t.Fatal(gerr)
	}
	for _, dir := range dirs {
		var step int
		if _, err := fmt.Sscanf(filepath.Base(dir), "step-%d", &step); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(weights(t, dir), v.whole[step]) {
			t.Fatalf("%s is not that of an unbroken run\n%s", dir, log)
		}
	}
	at, ferr := checkpoint.Find(run)
	if ferr == nil {
		_, s, err := checkpoint.Describe(at)
		if err != nil || s.Step < v.step {
			t.Fatalf("the newest checkpoint is of step %d, it was of step %d before; %v\n%s", s.Step, v.step, err, log)
		}
		v.step = s.Step
	} else if v.step > 0 {
		t.Fatalf("the checkpoint of step %d is gone: %v\n%s", v.step, ferr, log)
	}
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.ExitCode() == -1 { // by a signal
		v.deaths++
		return
	}
	if err != nil {
		t.Fatalf("the trainer failed after it was killed: %v\n%s", err, log)
	}
	// It has come to its end, with nothing left behind.
	v.finished++
	if v.step != v.last {
		t.Errorf("the run ends at step %d, want %d", v.step, v.last)
	}
	sameMetrics(t, run, filepath.Join(v.dir, "whole"))
	entries, err := os.ReadDir(run)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{CurveFile, MetricsFile, fmt.Sprintf("step-%08d", v.last-1), fmt.Sprintf("step-%08d", v.last)}
	if !slices.EqualFunc(entries, want, func(e fs.DirEntry, name string) bool { return e.Name() == name }) {
		t.Errorf("the run's folder has %v, want %v", entries, want)
	}
	if err := os.RemoveAll(run); err != nil {
		t.Fatal(err)
	}
	v.step = 0
}

// finish lets the run come to its end.
func (v *victim) finish(t *testing.T) {
	t.Helper()
	out, err := child(t, v.dir, "").CombinedOutput()
	before := v.finished
	if v.end(t, err, string(out)); v.finished == before {
		t.Errorf("the run does not come to its end: %v\n%s", err, out)
	}
}

// A process that is killed before any operation of its life on a folder, from the
// lock to the end of a save and to the next one, loses nothing.
func TestKilledAtOperations(t *testing.T) {
	v := newVictim(t)
	ops := map[string]int{}
	for n := 1; ; n++ {
		out, err := child(t, v.dir, dieAt+fmt.Sprint(n)).CombinedOutput()
		deaths := v.deaths
		v.end(t, err, string(out))
		var saves int
		var op, name string
		if _, err := fmt.Sscan(string(out), &saves, &op, &name); v.deaths > deaths && err != nil {
			t.Fatalf("killed, it says %q", out)
		}
		if saves > 1 {
			break
		}
		ops[op]++
	}
	v.finish(t)
	for _, op := range []string{"append", "create", "mkdir", "remove", "rename", "sync", "write"} {
		if ops[op] == 0 {
			t.Errorf("no kill before any %s: %v", op, ops)
		}
	}
	t.Logf("%d kills: %v", v.deaths, ops)
}

// So does one that is killed at any moment.
func TestKilledAtRandom(t *testing.T) {
	seed := *killSeed
	for seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("the same moments again: go test ./model/train -run TestKilledAtRandom -kills %d -killseed %d", *kills, seed)
	draw := rand.New(rand.NewPCG(seed, 0))
	v := newVictim(t)
	by := map[string]int{}
	tracer := strace(t)
	for v.deaths < *kills {
		var out []byte
		var err error
		deaths, how, at := v.deaths, "while it went on", 1+draw.IntN(400)
		// Drawn whether there is a tracer or not.
		inside, call, when := draw.IntN(2) == 0, systemCalls[draw.IntN(len(systemCalls))], draw.Uint64()
		if inside && len(tracer) > 0 {
			how, at = "in "+call.name, 1+int(when%uint64(call.most))
			out, err = child(t, v.dir, "", append(tracer, "-e", fmt.Sprintf("inject=%s:signal=SIGKILL:when=%d", call.name, at))...).CombinedOutput()
		} else {
			out, err = killAfter(t, child(t, v.dir, sayOperations), at)
		}
		if v.end(t, err, fmt.Sprintf("killed %s, the %dth\n%s", how, at, out)); v.deaths > deaths {
			by[how]++
		}
	}
	v.finish(t)
	for _, how := range slices.Sorted(maps.Keys(by)) {
		t.Logf("%d kills %s", by[how], how)
	}
}

// killAfter runs a child and kills it once it has said so many lines: where it is
// by then, nobody knows.
func killAfter(t *testing.T, cmd *exec.Cmd, lines int) ([]byte, error) {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for sc := bufio.NewScanner(stdout); sc.Scan(); {
		if lines--; lines == 0 {
			cmd.Process.Kill() // where it has ended, Wait says so
		}
	}
	err = cmd.Wait()
	return stderr.Bytes(), err
}

// systemCalls are those that change a folder, with about how many of them a
// thread makes in a step.
var systemCalls = []struct {
	name string
	most int
}{{"mkdirat", 1}, {"openat", 20}, {"write", 100}, {"fsync", 6}, {"renameat", 3}, {"unlinkat", 6}, {"close", 20}, {"flock", 1}}

// strace is the command that injects signals into system calls, where there is
// one that works.
func strace(t *testing.T) []string {
	args := []string{"strace", "-f", "-qq", "--seccomp-bpf", "-o", filepath.Join(t.TempDir(), "log")}
	if err := exec.Command(args[0], append(args[1:], "true")...).Run(); err != nil {
		t.Logf("no kills inside system calls: strace: %v", err)
		return nil
	}
	return args
}
