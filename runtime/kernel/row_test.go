package kernel

import (
	"slices"
	"strings"
	"testing"
)

// A feature that a kernel gains from is in its name and its needs, and decides which of two
// runs; others are refused.
func TestWith(t *testing.T) {
	plain := Row{ISA: AVX2, Format: Int8, MR: 4, NR: Panel, Sweeps: 2, Unroll: 4, Ahead: 64}
	gains := plain
	gains.With = HasAVXVNNI
	for want, k := range map[string]Row{"mul_int8_any_4x32_avx2": plain, "mul_int8_any_4x32_avxvnni_avx2": gains} {
		if err := k.Validate(); k.Name() != want || err != nil {
			t.Errorf("%s, want %s; %v", k.Name(), want, err)
		}
		if slices.Contains(k.Needs(), HasAVXVNNI) != (k.With != "") {
			t.Errorf("%s needs %v", k.Name(), k.Needs())
		}
	}
	if gains.Chosen() != Has(HasAVXVNNI) || plain.Chosen() == gains.Chosen() {
		t.Errorf("with %v %v, without %v", HasAVXVNNI, gains.Chosen(), plain.Chosen())
	}
	other := Row{ISA: AVX512, Format: Int8, MR: 4, NR: Panel, Sweeps: 1, Unroll: 4, Ahead: 64}
	if !other.Chosen() {
		t.Errorf("%s, of which there is one, is not chosen", other.Name())
	}
	other.With = HasAVXVNNI
	if err := other.Validate(); err == nil || !strings.Contains(err.Error(), "with: kernels of int8 on avx512 have no use for AVXVNNI") {
		t.Errorf("%v", err)
	}
}
