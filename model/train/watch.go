package train

import (
	"fmt"
	"math"
	"slices"
)

// watch looks for spikes of the loss. The median of the last few losses is held
// against the median of those before them and their noise, the median absolute
// difference between neighbours scaled to a standard deviation: neither an odd
// batch nor a falling loss is a spike. It is a function of the losses alone, so
// that a run that resumes replays them.
type watch struct {
	threshold float64
	// before holds the losses that came before any spike, last the newest.
	before, last []float64
	// spiking counts the steps since a spike began, 0 where there is none.
	spiking int
}

const (
	watchWindow = 100
	watchRecent = 20
	watchLast   = 5
	// watchLeast is the number of losses from which their spread is known.
	watchLeast = 20
	// madToDeviation turns the median absolute deviation of a normal
	// distribution into its standard deviation.
	madToDeviation = 1.4826
	// watchFloor is the least deviation, as a share of the loss: the losses of a
	// run that has converged hardly move.
	watchFloor = 0.005
)

// add takes the loss of a step.
func (w *watch) add(loss float64) {
	w.last = append(w.last, loss)
	if len(w.last) <= watchLast {
		return
	}
	oldest := w.last[0]
	w.last = slices.Delete(w.last, 0, 1)
	if w.spiking == 0 { // what belongs to a spike is no measure for it
		w.before = append(w.before, oldest)
		w.before = slices.Delete(w.before, 0, max(0, len(w.before)-watchWindow))
	}
	if w.threshold == 0 || len(w.before) < watchLeast || median(w.last) <= w.limit() {
		w.spiking = 0
	} else {
		w.spiking++
	}
}

// level is what the loss was before: of the recent ones, or of all in the
// window where these are lower, so that it does not follow a slow rise.
func (w *watch) level() float64 {
	return min(median(w.before), median(w.before[max(0, len(w.before)-watchRecent):]))
}

// limit is the loss from which on a spike begins.
func (w *watch) limit() float64 {
	var room [watchWindow]float64 // of the stack: a step allocates nothing
	d := room[:len(w.before)-1]
	for i := range d {
		d[i] = math.Abs(w.before[i+1] - w.before[i])
	}
	m := w.level()
	return m + w.threshold*max(madToDeviation/math.Sqrt2*median(d), watchFloor*math.Abs(m))
}

func (w *watch) String() string {
	return fmt.Sprintf("the loss is %.4f, the median of %d steps; before it was %.4f, and %.4f is the limit", median(w.last), len(w.last), w.level(), w.limit())
}

// median is the middle of at most watchWindow values, the upper one of two.
func median(v []float64) float64 {
	var room [watchWindow]float64
	s := append(room[:0], v...)
	slices.Sort(s)
	return s[len(s)/2]
}

// Diverged says that a run was halted.
type Diverged struct {
	Step int
	// Reason is what was seen.
	Reason string
	// Checkpoint is the last good one, empty where there is none.
	Checkpoint string
	LR         float64
	// sound is the last step that left good weights; finite says that the present
	// ones are worth keeping, too.
	sound  int
	finite bool
}

func (d *Diverged) Error() string {
	good := "no checkpoint was written before that"
	if d.Checkpoint != "" {
		good = "the last good checkpoint is " + d.Checkpoint
	}
	return fmt.Sprintf("halted at step %d: training diverged: %s; %s. Try a lower lr than %v, a longer warmup or a lower clip in another run", d.Step, d.Reason, good, d.LR)
}
