package checkpoint

import (
	"fmt"
	"slices"

	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/quantize"
)

// Format is the version of what Save writes. What a state.json says nothing of
// it is of format 1, the first edition's: without checksums and instruction set.
// Those are read as they are. Format 3 states the edition of its configuration's
// defaults, which is 1 before. Format 4 states that of its weights, which are float32
// before, and is written of others only.
const (
	Format        = 4
	formatFloat32 = 3
)

// checkFormat looks at a state's version before anything else of it.
func (s *State) checkFormat(name string, checked bool) error {
	if s.Format == 0 {
		s.Format = 1
	}
	if s.Format < 1 || s.Format > Format {
		return fmt.Errorf("%s: format %d is unknown, this program reads 1 to %d; a newer one may read it", name, s.Format, Format)
	}
	if s.Format < 3 {
		s.Edition = 1
	}
	if s.Edition < 1 || s.Edition > config.Edition {
		return fmt.Errorf("%s: edition %d of the configuration's defaults is unknown, this program knows 1 to %d; a newer one may read it", name, s.Edition, config.Edition)
	}
	if s.Weights != "" && (s.Format < 4 || !slices.Contains(quantize.Formats, s.Weights)) {
		return fmt.Errorf("%s: weights in format %q in a checkpoint of format %d; this program reads %v, of format 4", name, s.Weights, s.Format, quantize.Formats)
	}
	if s.Format > 1 && !checked {
		return fmt.Errorf("%s: a checkpoint of format %d has %s, which is missing", name, s.Format, sumsFile)
	}
	return nil
}

// Trainable says that the weights are float32: what training, and all that changes weights,
// starts from.
func (s *State) Trainable(dir string) error {
	if s.Weights == "" {
		return nil
	}
	return fmt.Errorf("%s holds its weights as %s, to run the model: want a checkpoint of float32, such as the one that it was quantised from", dir, s.Weights)
}
