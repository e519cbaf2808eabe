package spec

import "testing"

// A gated activation takes two outputs of the first linear for each hidden entry,
// any other one: the reference's shapes.
func TestActs(t *testing.T) {
	want := map[Act]int{GELU: 1, GELUErf: 1, SwiGLU: 2}
	if len(Acts()) != len(want) {
		t.Errorf("activations %v, the test knows %d", Acts(), len(want))
	}
	for _, a := range Acts() {
		f := FFN{Kind: Dense, Hidden: 768, FFN: 3072, Act: a}
		if out := f.FC1().Out; out != want[a]*3072 || a.Gated() != (want[a] == 2) {
			t.Errorf("%s: %d outputs, gated: %v", a, out, a.Gated())
		}
	}
	if a := Act("relu"); a.Columns() != 0 || a.Gated() {
		t.Error("an unknown activation has columns")
	}
}
