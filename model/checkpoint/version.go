package checkpoint

import "fmt"

// Format is the version of what Save writes. What a state.json says nothing of
// it is of format 1, the first edition's: without checksums and instruction set.
// Those are read as they are.
const Format = 2

// checkFormat looks at a state's version before anything else of it.
func (s *State) checkFormat(name string, checked bool) error {
	if s.Format == 0 {
		s.Format = 1
	}
	if s.Format < 1 || s.Format > Format {
		return fmt.Errorf("%s: format %d is unknown, this program reads 1 to %d; a newer one may read it", name, s.Format, Format)
	}
	if s.Format > 1 && !checked {
		return fmt.Errorf("%s: a checkpoint of format %d has %s, which is missing", name, s.Format, sumsFile)
	}
	return nil
}
