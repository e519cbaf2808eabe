package train

import (
	"bytes"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// A run with dropout ends with the same bits however often it is interrupted, with
// any number of threads, and whether activations are computed again; no device has
// it.
func TestDropoutResume(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	const settings = "dropout: 0.2, "
	whole := train(t, growing(t, dir, "whole", settings, 12))
	if plain := train(t, growing(t, dir, "plain", "", 12)); bytes.Equal(weights(t, whole.Checkpoint), weights(t, plain.Checkpoint)) {
		t.Error("dropout changes nothing")
	}
	for threads := 1; threads <= 3; threads++ {
		for i, step := range []int{5, 0} {
			r := growing(t, dir, fmt.Sprint("broken", threads), settings+[]string{"recompute: true, ", ""}[(i+threads)%2], 12)
			one := newRun(t, filepath.Join(dir, "data"), r.Dir, threads, "")
			one.Config, one.Resume = r.Config, i > 0
			if res := trainTo(t, one, step); step == 0 && !bytes.Equal(weights(t, res.Checkpoint), weights(t, whole.Checkpoint)) {
				t.Errorf("%d threads: the run that was interrupted ends with other weights", threads)
			}
		}
	}
	if err := growing(t, dir, "device", settings, 1).CheckDevice(); err == nil || !strings.HasPrefix(err.Error(), "dropout: ") {
		t.Errorf("on a device: %v", err)
	}
}
