//go:build unix

package tool

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// longStep is a run whose steps take hours, in micro-batches of milliseconds;
// longBatch one whose micro-batches take seconds.
const (
	longModel = "model: {vocab: 257, hidden: 32, ffn: 96, layers: 2, q_heads: 2, max_positions: 512, mlp: {kind: lowrank, rank: 8}}\n"
	longStep  = longModel + "train: {steps: 4, batch: 1, accumulate: 10000000, seq: 32}\n"
	longBatch = longModel + "train: {steps: 4, batch: 128, seq: 512, recompute: true}\n"
)

// interrupted starts a command and sends signals once it prints a line with
// text. It returns the exit code and what came on stderr.
func interrupted(t *testing.T, cmd *exec.Cmd, text string, signals ...syscall.Signal) (code int, log string) {
	t.Helper()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	sent := false
	for sc := bufio.NewScanner(stderr); sc.Scan(); {
		log += sc.Text() + "\n"
		if !sent && strings.Contains(sc.Text(), text) {
			for _, s := range signals {
				if err := cmd.Process.Signal(s); err != nil {
					t.Fatal(err)
				}
			}
			sent = true
		}
	}
	cmd.Wait()
	return cmd.ProcessState.ExitCode(), log
}

// A signal ends a run after the micro-batch at work, with a checkpoint and the
// exit code of the signal; a second one ends it at once.
func TestSignals(t *testing.T) {
	dir := t.TempDir()
	var text strings.Builder
	for i := range 40000 {
		fmt.Fprintf(&text, "line %d of book.txt, and %d more\n", i, i*i%97)
	}
	for name, s := range map[string]string{"book.txt": text.String(), "step.yaml": longStep, "batch.yaml": longBatch} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(s), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	sffn := func(args ...string) *exec.Cmd {
		cmd := exec.Command("sffn", args...)
		cmd.Dir = dir
		return cmd
	}
	if out, err := sffn("prepare", "--text", "book.txt", "--out", "data").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	args := []string{"train", "--config", "step.yaml", "--data", "data", "--out", "run", "--threads", "1"}
	for _, c := range []struct {
		signal syscall.Signal
		code   int
	}{{syscall.SIGINT, 130}, {syscall.SIGTERM, 143}, {syscall.SIGHUP, 129}} {
		if signal.Ignored(c.signal) {
			t.Logf("%v is ignored here, by nohup for example, and so by sffn: not sent", c.signal)
			continue
		}
		code, log := interrupted(t, sffn(args...), "of 10000000 micro-batches", c.signal)
		if code != c.code || !strings.Contains(log, "sffn: interrupted in the first of 4 steps, before there was anything to save; the same command begins again") {
			t.Errorf("%v: exit code %d, want %d:\n%s", c.signal, code, c.code, log)
		}
		if resumes := args[len(args)-1] == "--resume"; resumes != strings.Contains(log, "nothing is saved in run yet: it begins with the first step") {
			t.Errorf("%v: resuming %v, it says\n%s", c.signal, resumes, log)
		}
		args = []string{"train", "--config", "step.yaml", "--data", "data", "--out", "run", "--threads", "1", "--resume"}
	}
	if entries, err := os.ReadDir(filepath.Join(dir, "run")); err != nil || len(entries) != 1 || entries[0].Name() != "metrics.jsonl" {
		t.Errorf("nothing was stepped, the folder has %v, %v", entries, err)
	}
	code, log := interrupted(t, sffn("train", "--config", "batch.yaml", "--data", "data", "--out", "twice", "--threads", "1"), "ready after", syscall.SIGTERM, syscall.SIGINT)
	if saved, err := filepath.Glob(filepath.Join(dir, "twice", "step-*")); code != 130 && code != 143 || err != nil || len(saved) > 0 {
		t.Errorf("two signals: exit code %d, saved %v, %v:\n%s", code, saved, err, log)
	}
	// What nohup asks for is heard.
	hup := exec.Command("sh", append([]string{"-c", `trap "" HUP; exec sffn "$@"`, "sffn"}, args...)...)
	hup.Dir = dir
	if code, log := interrupted(t, hup, "of 10000000 micro-batches", syscall.SIGHUP, syscall.SIGTERM); code != 143 {
		t.Errorf("a signal that is ignored: exit code %d, want 143:\n%s", code, log)
	}
}

// A signal ends sffn build with its exit code, and leaves nothing of the module
// that was made for it.
func TestBuildSignal(t *testing.T) {
	tmp := t.TempDir()
	out := filepath.Join(t.TempDir(), "mine")
	// A go command that says when it is at work, and goes on until it is killed.
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "go"), []byte("#!/bin/sh\necho at work >&2\nexec sleep 100\n"), 0o777); err != nil {
		t.Fatal(err)
	}
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGHUP} {
		cmd := exec.Command("sffn", "build", "--config", "demo", "-o", out)
		cmd.Env = append(os.Environ(), "TMPDIR="+tmp, "PATH="+bin+string(os.PathListSeparator)+os.Getenv("PATH"))
		code, log := interrupted(t, cmd, "at work", s)
		if code != 128+int(s) || !strings.Contains(log, "sffn: interrupted: "+out+" was not written") {
			t.Errorf("%v: exit code %d\n%s", s, code, log)
		}
		if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
			t.Errorf("%v left %v, %v", s, left, err)
		}
	}
}
