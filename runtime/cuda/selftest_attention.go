package cuda

import (
	"math"
	"slices"

	"github.com/structuredffn/sffn/gen/plan"
	rt "github.com/structuredffn/sffn/runtime"
)

// testScale is that of a trial's scores, testSpans the rows that continue
// sequences: those of [plan.GPUAttention]'s spans.
const testScale = 0.3

var testSpans = [][4]int{{1, 3, 0, 6}, {0, 0, 6, testPositions}}

// prepareAttention makes a batch of two sequences, or rows that continue cached
// ones.
func prepareAttention(t *trial) {
	a := t.Plan.(plan.GPUAttention)
	t.counts[plan.Sequences], t.counts[plan.SeqLen], t.counts[plan.Tokens] = testSequences, testPositions, testSequences*testPositions
	if a.Cache {
		t.counts[plan.Slots] = testSequences * testPositions
		if t.counts[plan.Tokens] = testTokens; !a.Rows {
			t.counts[plan.Tokens] = testSpans[1][2] + testSpans[1][3]
		}
		t.numbers["capacity"] = Uint32(testPositions)
	}
	t.redraw()
	if a.Pass != plan.AttendDelta {
		t.numbers["scale"] = Float32(testScale)
	}
	switch {
	case a.Cache && a.Rows:
		t.ints("positions", func(i int) int { return i % testPositions })
		t.ints("seqs", func(i int) int { return i / testPositions })
	case a.Cache:
		t.ints("spans", func(i int) int { return testSpans[i/4][i%4] })
	case a.Pass == plan.AttendQueries || a.Pass == plan.AttendKeys:
		// What the forward pass left.
		o, sums, err := t.attend(a, t.arrays["qkv"])
		if err != nil {
			return // want has it, too
		}
		delta := make([]float32, len(sums)/2)
		for i := range delta {
			at := i * a.HeadDim // [token, head]: the same order
			delta[i] = t.vec.Dot(o[at:at+a.HeadDim], t.arrays["do"][at:at+a.HeadDim])
		}
		t.arrays["lse"], t.arrays["delta"] = base2(a, sums), delta
	}
}

// base2 makes the device's logarithms, in its order and base, of the CPU's sums,
// [sequence, head, position, 2].
func base2(a plan.GPUAttention, sums []float32) []float32 {
	v := make([]float32, len(sums)/2)
	for i := range v {
		b, h, p := i/(a.Heads*testPositions), i/testPositions%a.Heads, i%testPositions
		v[(b*testPositions+p)*a.Heads+h] = (sums[2*i]*testScale + sums[2*i+1]) / math.Ln2
	}
	return v
}

// attention is the CPU's.
func (t *trial) attention(a plan.GPUAttention) (*rt.Attention, error) {
	return rt.NewAttention(rt.AttentionSpec{QHeads: a.Heads, KVHeads: a.KVHeads, HeadDim: a.HeadDim, Scale: testScale}, t.cpu)
}

// attend runs the CPU's forward pass on two whole sequences.
func (t *trial) attend(a plan.GPUAttention, qkv []float32) (o, sums []float32, err error) {
	k, err := t.attention(a)
	if err != nil {
		return nil, nil, err
	}
	ws := k.NewWorkspace()
	defer ws.Close()
	o, sums = make([]float32, testSequences*testPositions*a.Out()), make([]float32, 2*testSequences*testPositions*a.Heads)
	k.Forward(o, sums, qkv, testSequences, testPositions, ws)
	return o, sums, nil
}

func wantAttention(t *trial) (map[string][]float32, error) {
	a := t.Plan.(plan.GPUAttention)
	if a.Cache {
		return t.wantCached(a)
	}
	if a.Pass == plan.AttendDelta {
		var delta []float32
		for o := range slices.Chunk(t.arrays["o"], a.HeadDim) {
			at := len(delta) * a.HeadDim
			delta = append(delta, t.vec.Dot(o, t.arrays["do"][at:at+a.HeadDim]))
		}
		return map[string][]float32{"delta": delta}, nil
	}
	o, sums, err := t.attend(a, t.arrays["qkv"])
	if err != nil {
		return nil, err
	}
	if a.Pass == plan.AttendForward {
		return map[string][]float32{"o": o, "lse": base2(a, sums)}, nil
	}
	k, err := t.attention(a)
	if err != nil {
		return nil, err
	}
	ws := k.NewWorkspace()
	defer ws.Close()
	d, want := make([]float32, len(t.arrays["qkv"])), slices.Clone(t.arrays["dqkv"])
	k.Backward(d, t.arrays["do"], o, sums, t.arrays["qkv"], testSequences, testPositions, ws)
	for r := range testSequences * testPositions {
		lo, hi := r*a.Width(), (r+1)*a.Width()
		if mid := lo + a.Out(); a.Pass == plan.AttendQueries {
			hi = mid
		} else {
			lo = mid
		}
		copy(want[lo:hi], d[lo:hi])
	}
	return map[string][]float32{"dqkv": want}, nil
}

// wantCached runs whole sequences whose keys and values are the cache's, and
// whose queries are those of the rows.
func (t *trial) wantCached(a plan.GPUAttention) (map[string][]float32, error) {
	place := make([]int, t.counts[plan.Tokens]) // sequence times positions, plus position
	if a.Rows {
		for i := range place {
			place[i] = i
		}
	} else {
		for _, s := range testSpans {
			for i := range s[3] {
				place[s[2]+i] = s[0]*testPositions + s[1] + i
			}
		}
	}
	width, out, size := a.Width(), a.Out(), a.HeadDim
	qkv := make([]float32, testSequences*testPositions*width)
	for b := range testSequences {
		for h := range a.KVHeads {
			for p := range testPositions {
				slot := ((b*a.KVHeads+h)*testPositions + p) * size
				row := qkv[(b*testPositions+p)*width:][:width]
				copy(row[out+h*size:], t.arrays["keys"][slot:slot+size])
				copy(row[out+(a.KVHeads+h)*size:], t.arrays["values"][slot:slot+size])
			}
		}
	}
	for i, p := range place {
		copy(qkv[p*width:], t.arrays["qkv"][i*width:i*width+out])
	}
	all, _, err := t.attend(a, qkv)
	var o []float32
	for _, p := range place {
		if err == nil {
			o = append(o, all[p*out:(p+1)*out]...)
		}
	}
	return map[string][]float32{"o": o}, err
}
