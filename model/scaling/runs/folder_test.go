package runs

import (
	"testing"

	"github.com/structuredffn/sffn/model/config"
)

func TestKind(t *testing.T) {
	for preset, want := range map[string]string{
		"gpt2s-dense": "dense", "gpt2s-lowrank-63": "lowrank 63 %", "gpt2s-lowrank-32": "lowrank 31 %",
		"gpt2m-blockdense-63": "blockdense 59 %", "gpt2s-blockshuffle-32": "blockshuffle 31 %",
	} {
		c, err := config.Load(preset)
		if err != nil {
			t.Fatal(err)
		}
		if got := Kind(c.Model); got != want {
			t.Errorf("%s: %s, want %s", preset, got, want)
		}
	}
}
