package gpu

import (
	"fmt"
	"testing"

	"github.com/structuredffn/sffn/gen/plan/gpu"
)

// lower sets a bound of rows for a test.
func lower(t *testing.T, bound *int, n int) {
	t.Helper()
	old := *bound
	*bound = n
	t.Cleanup(func() { *bound = old })
}

// A model on the device around the numbers of rows at which it runs other kernels,
// or the same ones several times. Bounds of many rows are lowered to what the
// interpreter has time for.
func TestEngineThresholds(t *testing.T) {
	const name = "golden-dense" // the smallest
	walks := map[string]func(t *testing.T, step int){
		"FewTokens": func(t *testing.T, step int) { testGradients(t, name, 1, gpu.FewTokens+step) },
		"HeadRows": func(t *testing.T, step int) {
			lower(t, &headRows, 40)
			testGradients(t, name, 1, headRows+step)
		},
		"PromptRows": func(t *testing.T, step int) {
			lower(t, &promptRows, promptAll-step)
			testDecode(t, name)
		},
	}
	for _, s := range gpu.EngineThresholds() {
		walk := walks[s.Name]
		if walk == nil {
			t.Errorf("nothing walks %s", s.Name)
			continue
		}
		for _, step := range []int{-1, 0, 1} {
			t.Run(fmt.Sprintf("%s%+d", s.Name, step), func(t *testing.T) { walk(t, step) })
		}
	}
}
