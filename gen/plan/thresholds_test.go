package plan

import (
	"testing"

	"github.com/structuredffn/sffn/internal/constants"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// notSizes are the constants that decide nothing by the size of an operand.
var notSizes = map[string]string{
	"RowTiles":        "the unit of MinRowChunk and MaxRowChunk",
	"ChunksPerThread": "a factor of the thresholds of row chunks",
	"shallowBytes":    "listed as the depth at which a panel has so many bytes",
	"walkDepth":       "of the thresholds' own list",
	"hugePage":        "alignment", "smallPage": "alignment", "cacheLine": "alignment", "align": "alignment",
	"lineFloats": "a unit of prefetching", "readUnit": "of a measurement", "maxSpins": "time", "yieldCalls": "time",
	"Eps": "not a size", "gain": "not a size", "Ignored": "a mark",
	"crossoverRounds": "of a measurement", "crossoverMost": "of a measurement", "crossoverTime": "of a measurement",
	"scratchTile": "room for the largest tile",
}

// Every constant of the packages below that is a number is a threshold that
// tests walk, or says above why it is none.
func TestConstantsAreListed(t *testing.T) {
	listed := map[string]bool{}
	for _, isa := range kernel.ISAs {
		for _, threads := range []int{1, 2} {
			for _, s := range For(isa).Thresholds(threads) {
				listed[s.Name] = true
			}
		}
	}
	all, err := constants.Numbers(".", "../../runtime", "../../runtime/vec", "../../model")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range all {
		if !listed[c.Name] && notSizes[c.Name] == "" {
			t.Errorf("%s: %s is no threshold: list it in Thresholds, or say in notSizes why not", c.File, c.Name)
		}
	}
	if len(all) < 25 {
		t.Errorf("only %d constants were found", len(all))
	}
}
