package gpucheck

import (
	"bytes"
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"
)

// A quick run ends in six minutes, even where each part is cut short and has to be
// killed.
func TestQuick(t *testing.T) {
	c := Config{Quick: true}
	sum := time.Duration(0)
	for _, name := range Parts() {
		if c.limit(name) <= 0 {
			t.Errorf("%s has no limit", name)
		}
		sum += c.limit(name) + Grace
	}
	if sum > 6*time.Minute-5*time.Second { // opening the device comes first
		t.Errorf("together %v", sum)
	}
	if got := (&Config{}).limit(kernelsPart); got != 0 {
		t.Errorf("%v without Quick", got)
	}
	if got := (&Config{Quick: true, PartLimit: time.Hour}).limit(kernelsPart); got != time.Hour {
		t.Errorf("%v, want what is asked for", got)
	}
}

// Numbers that are not finite are problems, with the kernel's name, and keep no
// report from being written: neither that of a child, nor the parent's.
func TestFinite(t *testing.T) {
	var out bytes.Buffer
	c := &check{Context: t.Context(), out: &messages{w: &out}, report: newReport(), part: &Part{Name: "speed"}}
	c.report.Products = []ProductTime{{Kernel: "right", Torch: 1}, {Kernel: "wrong", Torch: math.NaN()}}
	c.report.Passes = []PassTime{{Kernel: "fast", GBs: math.Inf(1)}}
	for range 2 { // the second time nothing is new
		if err := c.tick(); err != nil {
			t.Fatal(err)
		}
	}
	var m message
	if err := json.NewDecoder(&out).Decode(&m); err != nil || len(m.Products) != 2 || m.Products[1].Torch != 0 || m.Products[0].Torch != 1 || m.Passes[0].GBs != 0 {
		t.Fatalf("%v: %+v", err, m)
	}
	want := []string{"ProductTime of wrong.torch_us is NaN: want a finite number", "PassTime of fast.gb_per_second is +Inf: want a finite number"}
	if !slices.Equal(c.part.Problems, want) {
		t.Errorf("problems %q", c.part.Problems)
	}

	r := newReport()
	r.Passed = true
	r.Parts = []*Part{{Name: "a", Seconds: math.Inf(-1)}}
	r.Models = []ModelTime{{Tokens: math.NaN()}}
	data, err := r.JSON()
	if err != nil || !strings.Contains(string(data), `"passed": false`) || len(r.Problems) != 2 {
		t.Errorf("%v: %s", err, data)
	}
}

// Entries of a child come behind those of the children before it, and what changes
// takes its place.
func TestMerge(t *testing.T) {
	p := &Part{Checks: 3, Problems: []string{"old"}}
	r := newReport()
	r.Kernels = []KernelProof{{Kernel: "a"}}
	m := merger{report: r, part: p, before: *p, kernels: 1}
	for _, msg := range []message{
		{Part: &Part{Checks: 1}, Kernels: map[int]KernelProof{0: {Kernel: "b"}, 1: {Kernel: "c"}}, Products: map[int]ProductTime{0: {Kernel: "x"}}},
		{},
		{Part: &Part{Checks: 2, Problems: []string{"new"}}, Kernels: map[int]KernelProof{2: {Kernel: "d"}}, Products: map[int]ProductTime{0: {Kernel: "x", Torch: 7}}},
	} {
		m.merge(msg)
	}
	names := ""
	for _, k := range r.Kernels {
		names += k.Kernel
	}
	if names != "abcd" || len(r.Products) != 1 || r.Products[0].Torch != 7 || p.Checks != 5 || !slices.Equal(p.Problems, []string{"old", "new"}) {
		t.Errorf("%s, %+v, %+v", names, r.Products, p)
	}
}
