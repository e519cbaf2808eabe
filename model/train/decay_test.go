package train

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/model/checkpoint"
)

// Weight decay is that of matrices alone: with no gradients, they shrink by what
// decay says, and norms and biases stay, or all shrink.
func TestDecay(t *testing.T) {
	for _, matrices := range []bool{true, false} {
		p, o := optimizer(t)
		for i := range p.Data {
			p.Data[i] = 1
		}
		o.DecayMatrices = matrices
		o.Step(zeros(t, p), 0.5) // decay is 0.1
		vectors := 0
		for _, q := range p.List() {
			want := float32(1 - 0.5*0.1)
			if named := strings.HasSuffix(q.Name, ".bias") || strings.Contains(q.Name, ".ln"); named != Vector(q) {
				t.Errorf("%s: a norm's or a bias: %v", q.Name, Vector(q))
			} else if named {
				vectors++
				if matrices {
					want = 1
				}
			}
			for i, x := range p.Get(q.Name) {
				if x != want {
					t.Fatalf("DecayMatrices %v: %s[%d] is %v, want %v", matrices, q.Name, i, x, want)
				}
			}
		}
		if vectors < 10 {
			t.Errorf("%d norms and biases", vectors)
		}
	}
}

// A run of before there were groups of parameters goes on with decay of all of them,
// with its own configuration or with the file that it was begun with, and so do
// the checkpoints that it writes; a new run does not decay all.
func TestOldDecay(t *testing.T) {
	dir := t.TempDir()
	prepare(t, filepath.Join(dir, "data"))
	file := filepath.Join(dir, "tiny.yaml")
	if err := os.WriteFile(file, []byte(tiny), 0o666); err != nil {
		t.Fatal(err)
	}
	begin := func(name string) *Run {
		r := newRun(t, filepath.Join(dir, "data"), filepath.Join(dir, name), 2, "")
		r.Config.Model.Name = "tiny"
		return r
	}
	now := train(t, begin("now"))
	r := begin("all")
	r.Config = parse(t, strings.Replace(tiny, "steps: 30", "decay_all: true, steps: 30", 1))
	all := train(t, r)
	if bytes.Equal(weights(t, now.Checkpoint), weights(t, all.Checkpoint)) {
		t.Fatal("decay_all changes nothing")
	}
	cut := func(r *Run, at int) string {
		t.Helper()
		ctx, cancel := context.WithCancel(context.Background())
		r.OnStep = func(p Progress) {
			if p.Step == at {
				cancel()
			}
		}
		res, err := r.Train(ctx)
		if err != nil || res.Step != at {
			t.Fatalf("%+v, %v", res, err)
		}
		return res.Checkpoint
	}
	r = begin("old")
	var err error
	if r.Config, err = r.Config.In(1); err != nil {
		t.Fatal(err)
	}
	makeOld(t, cut(r, 7))
	for i, name := range []string{"", file} {
		r = begin("old")
		r.Resume = true
		if err := r.Configure(name, 0); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			cut(r, 15)
		} else if res := train(t, r); !bytes.Equal(weights(t, res.Checkpoint), weights(t, all.Checkpoint)) {
			t.Error("a run of before ends with other bits than with decay of all")
		}
	}
}

// makeOld makes a checkpoint what format 2 had.
func makeOld(t *testing.T, dir string) {
	t.Helper()
	name := filepath.Join(dir, "state.json")
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var s map[string]any
	if err := json.Unmarshal(b, &s); err != nil {
		t.Fatal(err)
	}
	s["format"] = nil
	delete(s, "edition")
	if b, err = json.Marshal(s); err != nil {
		t.Fatal(err)
	}
	// One of format 1 has no checksums, which would be others now.
	if err := os.WriteFile(name, b, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "checksums.txt")); err != nil {
		t.Fatal(err)
	}
	if _, s, err := checkpoint.Describe(dir); err != nil || s.Format != 1 || s.Edition != 1 {
		t.Fatalf("%+v, %v", s, err)
	}
}
