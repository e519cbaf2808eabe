package data

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/data/source"
	"github.com/structuredffn/sffn/model/token"
)

// With childEnv the test binary is another process, which prepares the texts of that
// folder into its folder data, and kills itself before the operation with a number, if
// atEnv has one.
const (
	childEnv = "SFFN_TEST_PREPARE"
	atEnv    = "SFFN_TEST_PREPARE_AT"
)

func TestMain(m *testing.M) {
	dir := os.Getenv(childEnv)
	if dir == "" {
		os.Exit(m.Run())
	}
	at, _ := strconv.Atoi(os.Getenv(atEnv))
	count := 0
	disk.Before = func(string, string) {
		if count++; count != at {
			return
		}
		if self, err := os.FindProcess(os.Getpid()); err == nil {
			self.Kill()
		}
		select {} // until the signal is here
	}
	p := childPreparation(dir)
	p.Note = func(s string) { fmt.Println(s) }
	p.Progress = func(Progress) { fmt.Println("a batch") }
	if _, err := p.Run(context.Background(), filepath.Join(dir, "data")); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// childPreparation saves after every batch, and has many shards.
func childPreparation(dir string) *Preparation {
	return &Preparation{Tokenizer: token.Bytes{}, Threads: 2, Mix: map[string]float64{"a": 2, "folder": 1}, MaxTokens: 2 << 20, shardTokens: 300 << 10, saveEvery: 1,
		Sources: []source.Source{
			&source.Files{Named: "a", Paths: []string{filepath.Join(dir, "a.jsonl"), filepath.Join(dir, "b.jsonl.zst")}, Field: "body"},
			&source.Files{Named: "folder", Paths: []string{filepath.Join(dir, "folder")}, Field: "body"},
		}}
}

// A process that is killed, before any operation on the disk and at any other time, leaves
// nothing that is taken for whole, and the same command goes on: the
// folder that comes of it has the bytes of one that was made without a break.
func TestKilled(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, whole := t.TempDir(), t.TempDir()
	corpus(t, dir, 200)
	if _, err := childPreparation(dir).Run(t.Context(), whole); err != nil {
		t.Fatal(err)
	}
	want := contents(t, whole)
	if len(want) < 8 {
		t.Fatalf("%d files, want several shards", len(want))
	}
	data := filepath.Join(dir, "data")
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 1))
	killed, resumed := 0, 0
	for round := range 4 {
		if err := os.RemoveAll(data); err != nil {
			t.Fatal(err)
		}
		for tries := 0; ; tries++ {
			if tries == 100 {
				t.Fatal("no process has come to the end")
			}
			cmd := exec.Command(exe)
			at := 1 + random.IntN(60)
			if tries > 5 {
				at = 0
			}
			cmd.Env = append(os.Environ(), childEnv+"="+dir, fmt.Sprintf("%s=%d", atEnv, at))
			var timer *time.Timer
			var out strings.Builder
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			if round%2 == 1 && tries <= 5 { // whatever it is doing
				timer = time.AfterFunc(time.Duration(random.IntN(200))*time.Millisecond, func() { cmd.Process.Kill() })
			}
			err := cmd.Wait()
			if timer != nil {
				timer.Stop()
			}
			if strings.Contains(out.String(), "going on with ") {
				resumed++
			}
			if strings.Contains(out.String(), "from the beginning") {
				t.Errorf("round %d: what was done is lost:\n%s", round, out.String())
			}
			if err == nil {
				break
			}
			if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.ExitCode() == 1 {
				t.Fatalf("%v\n%s", err, out.String())
			}
			killed++
			// It may have been killed behind the last file, or when it prepared what was
			// whole by then again, from the journal: that stays.
			if s, err := Open(data); err == nil {
				s.Close()
				got := contents(t, data)
				delete(got, journalFile)
				delete(got, disk.LockFile)
				maps.DeleteFunc(got, func(name, _ string) bool { return strings.HasPrefix(name, disk.UnfinishedPrefix) })
				sameFiles(t, "killed at its end", got, want)
			}
		}
		sameFiles(t, fmt.Sprintf("round %d", round), contents(t, data), want)
	}
	t.Logf("%d were killed, %d went on", killed, resumed)
	if killed < 8 || resumed < 2 {
		t.Errorf("%d were killed, %d went on: too few to say anything", killed, resumed)
	}
}
