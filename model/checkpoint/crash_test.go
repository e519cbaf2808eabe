package checkpoint

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/token"
)

// The test binary, run again with these variables, saves a step a second time in
// a run's folder and dies before an operation.
const (
	childEnv = "SFFN_TEST_SAVE"
	dieEnv   = "SFFN_TEST_DIE"
)

func TestMain(m *testing.M) {
	run := os.Getenv(childEnv)
	if run == "" {
		os.Exit(m.Run())
	}
	at, err := strconv.Atoi(os.Getenv(dieEnv))
	if err != nil {
		panic(err)
	}
	count, writes := 0, 0
	disk.Before = func(op, name string) {
		if op != "write" {
			writes = 0
		} else if writes++; writes > 2 {
			return
		}
		if count++; count == at {
			fmt.Println(op, filepath.Base(name))
			if self, err := os.FindProcess(os.Getpid()); err == nil {
				self.Kill()
			}
			select {} // until the signal is here
		}
	}
	if err := saveFilled(run, 2); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	os.Exit(0)
}

// saveFilled saves step 7 with nothing but x in its tensors.
func saveFilled(run string, x float32) error {
	c, p, err := newParams()
	if err != nil {
		return err
	}
	defer p.Close()
	for i := range p.Data {
		p.Data[i] = x
	}
	_, err = Save(run, []byte(source), State{Name: c.Model.Name, Step: 7, Steps: 10}, token.Bytes{}, p, Of(p), Of(p), 1)
	return err
}

// filled is what the newest checkpoint has in all its tensors.
func filled(run string) (float32, error) {
	dir, err := Find(run)
	if err != nil {
		return 0, err
	}
	c, p, err := newParams()
	if err != nil {
		return 0, err
	}
	defer p.Close()
	_, m, err := newParams()
	if err != nil {
		return 0, err
	}
	defer m.Close()
	if err := errors.Join(Verify(dir, c), Load(dir, p), LoadMoments(dir, m, m)); err != nil {
		return 0, err
	}
	first := p.Get(p.List()[0].Name)[0]
	for _, q := range p.List() {
		for i, x := range p.Get(q.Name) {
			if x != first || m.Get(q.Name)[i] != first {
				return 0, fmt.Errorf("%s is of two saves", dir)
			}
		}
	}
	return first, nil
}

// A process that saves a step again and is killed before any operation of that
// leaves the one checkpoint or the other.
func TestKilledSavingAgain(t *testing.T) {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	found := map[float32]int{}
	for n, died := 1, true; died; n++ {
		run := t.TempDir()
		if err := saveFilled(run, 1); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(exe)
		cmd.Env = append(os.Environ(), childEnv+"="+run, dieEnv+"="+fmt.Sprint(n))
		out, err := cmd.CombinedOutput()
		if died = err != nil; died && cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("operation %d: %v\n%s", n, err, out)
		}
		x, err := filled(run)
		if err != nil {
			t.Errorf("killed before %s: %v", out, err)
			continue
		}
		found[x]++
		// The next process finds the same, and leaves nothing else.
		if err := Recover(run); err != nil {
			t.Fatalf("killed before %s: %v", out, err)
		}
		if y, err := filled(run); err != nil || y != x {
			t.Errorf("killed before %s: %v, then %v, %v", out, x, y, err)
		}
		if entries, err := os.ReadDir(run); err != nil || len(entries) != 1 || entries[0].Name() != stepName(7) {
			t.Errorf("killed before %s: left %v, %v", out, entries, err)
		}
	}
	if found[1] < 10 || found[2] < 5 || len(found) > 2 {
		t.Errorf("found the old and the new checkpoint %v times", found)
	}
	t.Log(found)
}
