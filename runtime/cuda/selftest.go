package cuda

import (
	"errors"
	"fmt"

	"github.com/structuredffn/sffn/internal/gpuproof"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// MismatchError says that a device does not compute what a kernel should.
type MismatchError struct {
	Device, Kernel string
	// Err is a [gpuproof.Mismatch], or what else the kernel does that it must not.
	Err error
}

func (e *MismatchError) Error() string {
	return fmt.Sprintf("self-test: %s on %s: %v; the device is not used", e.Kernel, e.Device, e.Err)
}

func (e *MismatchError) Unwrap() error { return e.Err }

// What the self-test tries: rows of a batch that reach a second tile of 128, a
// third of 64 and a last one that is not full, and sequences that reach a third
// tile of 64 keys, so that pipelines use the room of a stage again. Of each launch
// one entry of each tile is compared, and one of each of so many stretches.
const (
	testTokens    = 161
	testPositions = 130
	testSamples   = 256
)

// testSize is the number of rows that a kernel is tried with.
func testSize(k table.Kernel) int {
	if k.Shape.Attention != nil {
		return testPositions
	}
	return testTokens
}

// selfTest proves kernels on the device before anybody else may use them, but for
// those that have passed there before.
func (d *Device) selfTest(ks []table.Kernel, loaded map[string]*Kernel) (err error) {
	passed := d.verdicts()
	var wanted []table.Kernel
	byName := map[string]*Kernel{} // of rows, of which several may be asked for as one
	for _, k := range ks {
		if l := loaded[k.Name]; !passed.has(l) && byName[l.Name] == nil {
			byName[l.Name] = l
			wanted = append(wanted, l.Kernel)
		}
	}
	d.Tested = len(wanted)
	if len(wanted) == 0 {
		return nil
	}
	r, err := d.NewRunner(byName)
	if err != nil {
		return err
	}
	// That they cannot be kept costs time at the next start, and no more.
	defer func() { d.VerdictError = passed.save() }()
	defer func() { err = errors.Join(err, r.Close(), d.Trim()) }()
	for _, k := range wanted {
		if !gpuproof.Knows(k.Role) {
			return fmt.Errorf("cuda: no self-test for kernels of %s", k.Role)
		}
		p := gpuproof.Prover{Runner: r, Seed: 1, Samples: testSamples}
		if err := p.Prove(k, testSize(k)); err != nil {
			return &MismatchError{d.Name, k.Name, err}
		}
		passed.add(byName[k.Name])
	}
	return nil
}
