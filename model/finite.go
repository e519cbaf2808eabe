package model

import (
	"fmt"
	"math"
)

// NotFiniteError says that a parameter has an entry that is not finite.
type NotFiniteError struct {
	Param string
	Index int
	Value float32
}

func (e *NotFiniteError) Error() string {
	return fmt.Sprintf("%s[%d] is %v, want finite weights", e.Param, e.Index, e.Value)
}

// Finite returns a [*NotFiniteError] for the first entry that is not finite. It
// looks at no guides.
func (p *Params) Finite() error {
	for _, q := range p.List() {
		if err := finite(q.Name, p.Get(q.Name)); err != nil {
			return err
		}
	}
	return nil
}

// Finite returns a [*NotFiniteError] for the first entry of a parameter that is not
// finite.
func Finite(name string, x []float32) error { return finite(name, x) }

func finite(name string, x []float32) error {
	const exponent = 0xff << 23
	var all uint32
	for _, v := range x {
		// An exponent of ones, and only that, carries into the sign.
		all |= math.Float32bits(v)&exponent + 1<<23
	}
	if all>>31 == 0 {
		return nil
	}
	for i, v := range x {
		if v-v != 0 {
			return &NotFiniteError{name, i, v}
		}
	}
	return nil
}
