//go:build unix

package tool

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/structuredffn/sffn/model/data"
)

// A signal ends a preparation, which the same command goes on with; of a stream it is
// the end, and what came until then is whole.
func TestPrepareSignals(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o666); err != nil {
		t.Fatal(err)
	}
	sffn := func(args ...string) *exec.Cmd {
		cmd := exec.Command("sffn", args...)
		cmd.Dir = dir
		return cmd
	}
	// Writes for longer than the command reads.
	flow := func(w io.WriteCloser) {
		defer w.Close()
		for i := 0; ; i++ {
			if _, err := fmt.Fprintf(w, "{\"text\": \"document %d\"}\n", i); err != nil {
				return
			}
			if i%1000 == 0 {
				time.Sleep(time.Millisecond)
			}
		}
	}
	for from, s := range map[string]syscall.Signal{pipe: syscall.SIGINT, "-": syscall.SIGTERM} {
		cmd := sffn("prepare", "--text", from, "--field", "text", "--out", "data")
		if from == "-" {
			w, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			go flow(w)
		} else {
			go func() {
				if w, err := os.OpenFile(pipe, os.O_WRONLY, 0); err == nil {
					flow(w)
				}
			}()
		}
		code, log := interrupted(t, cmd, "documents, ", s)
		if code != 128+int(s) || !strings.Contains(log, "sffn: interrupted: data has what came until then, and is whole") {
			t.Errorf("%s, %v: exit code %d\n%s", from, s, code, log)
		}
		set, err := data.Open(filepath.Join(dir, "data"))
		if err != nil {
			t.Fatal(err)
		}
		if n := set.Train.Totals().Documents; n < 1000 {
			t.Errorf("%s, %v: %d documents", from, s, n)
		}
		set.Close()
	}
	// Nobody has opened the other end.
	cmd := sffn("prepare", "--text", pipe, "--out", "none")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for { // the folder is there once signals are heard
		if _, err := os.Stat(filepath.Join(dir, "none")); err == nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 143 {
		t.Errorf("a pipe that nobody writes to: %v", err)
	}
}
