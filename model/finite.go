package model

import (
	"fmt"
	"math"
)

// Finite returns an error that names the first parameter with an entry that is
// not finite, and the entry. It looks at no guides.
func (p *Params) Finite() error {
	const exponent = 0xff << 23
	for _, q := range p.List() {
		x := p.Get(q.Name)
		var all uint32
		for _, v := range x {
			// An exponent of ones, and only that, carries into the sign.
			all |= math.Float32bits(v)&exponent + 1<<23
		}
		if all>>31 == 0 {
			continue
		}
		for i, v := range x {
			if v-v != 0 {
				return fmt.Errorf("%s[%d] is %v, want finite weights", q.Name, i, v)
			}
		}
	}
	return nil
}
