package gpu

import (
	"strings"
	"testing"

	"github.com/structuredffn/sffn/model/config"
)

// The groups cover the arena, each parameter in one of its own decay.
func TestGroups(t *testing.T) {
	c, err := config.Load("demo")
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPlans(c.Model)
	if err != nil {
		t.Fatal(err)
	}
	l := newLayout(p)
	for _, all := range []bool{false, true} {
		c.Train.DecayAll = all
		gs, at := l.groups(c.Model, c.Train), 0
		for _, g := range gs {
			if g.offset != at || g.entries <= 0 {
				t.Errorf("a group of entries from %d, want %d", g.offset, at)
			}
			at += g.entries
		}
		if at != l.size || (len(gs) == 1) != all {
			t.Errorf("decay of all %v: %d groups end at %d of %d entries", all, len(gs), at, l.size)
		}
		for _, name := range l.names {
			want := c.Train.WeightDecay
			if !all && (strings.HasSuffix(name, ".bias") || strings.Contains(name, "ln")) {
				want = 0
			}
			for _, g := range gs {
				if s := l.slots[name]; s.offset >= g.offset && s.offset < g.offset+g.entries && (g.decay != want || s.offset+s.size > g.offset+g.entries) {
					t.Errorf("%s has decay %v, want %v", name, g.decay, want)
				}
			}
		}
	}
}
