package checkpoint

import (
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/model/token"
)

// A save that fails says which checkpoint it is.
func TestFailureNamesCheckpoint(t *testing.T) {
	run := t.TempDir()
	_, p := params(t)
	_, err := Save(run, []byte(source), State{Step: 3, TokensPerSecond: math.NaN()}, token.Bytes{}, p, Of(p), Of(p), 1)
	if want := "checkpoint " + filepath.Join(run, "step-00000003") + ": "; err == nil || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("%v, want it to begin with %q", err, want)
	}
}
