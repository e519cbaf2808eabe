package train

import (
	"testing"

	"github.com/structuredffn/sffn/model"
)

// targetsMean is an evaluator whose loss is the mean of the targets that count.
type targetsMean struct{}

func (targetsMean) Loss(ids, targets []int32, batch int) (float64, error) {
	sum := 0.0
	for _, w := range targets {
		if w != model.Ignored {
			sum += float64(w)
		}
	}
	return sum / float64(max(1, model.Counted(targets))), nil
}

// The mean over batches is that over their targets, however many each counts.
func TestEvaluateIgnored(t *testing.T) {
	targets := []int32{1, 2, 3, 4, -1, -1, -1, 10, -1, -1}
	loss, err := Evaluate(targetsMean{}, make([]int32, len(targets)), targets, 2, 2)
	if err != nil || loss != 4 {
		t.Errorf("loss %v, %v, want 4", loss, err)
	}
	for i := range targets {
		targets[i] = -1
	}
	if loss, err := Evaluate(targetsMean{}, make([]int32, len(targets)), targets, 2, 2); err != nil || loss != 0 {
		t.Errorf("no target: loss %v, %v, want 0", loss, err)
	}
}
