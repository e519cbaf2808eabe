// Package gpuproof proves kernels for GPUs: it runs one on random operands and
// holds what it stores to float64, entry by entry, within a bound that follows
// from the roundings on the way. What runs it is behind a small interface: the
// strict interpreter of PTX where there is no GPU, and the driver where there is
// one. What proves a kernel here proves it there.
package gpuproof

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"

	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// Array is an array of a launch, as its runner knows it.
type Array any

// Arrays are those of a launch by the names of the plan's parameters; those left
// out are 0. Numbers are the parameters that are no counts, floats by their bits.
type (
	Arrays  map[string]Array
	Numbers map[string]uint32
)

// Runner runs kernels. It belongs to one prover.
type Runner interface {
	// Alloc makes an array of n bytes for one launch: data where there is any,
	// which the runner may keep and change, and bits all 1 otherwise, NaN as bf16
	// and as float32.
	Alloc(access table.Access, data []byte, n int) (Array, error)
	// Launch runs a kernel once.
	Launch(k table.Kernel, c table.Counts, a Arrays, n Numbers) error
	// Read waits for the launch and returns the bytes of an array.
	Read(a Array) ([]byte, error)
	// Free gives all arrays back, and says whether anything was written beside
	// them.
	Free() error
}

// Prover tries kernels on a runner.
type Prover struct {
	Runner
	// Seed draws operands: with the kernel and the size, so that a proof is the same
	// whatever was proven before it.
	Seed uint64
	// InTurn takes one variant of a launch a size, by turns, where otherwise all run:
	// with and without what is optional, added to what is there and in its place.
	InTurn bool
	// Samples is how many stretches the results of a launch are divided into, of
	// each of which one entry is compared, beside one of every tile of a product; 0
	// compares all entries. That all are written, and two runs alike, is looked at
	// everywhere.
	Samples int
	// Twice runs each launch a second time, which must leave the same bits.
	Twice bool
	// Only, where not nil, says which thread blocks of products and of attention the
	// runner runs: entries of others are left alone.
	Only func(block [3]int) bool
}

// Mismatch says that a kernel stored something else than it should.
type Mismatch struct {
	Kernel, Array string
	Counts        table.Counts
	Entry         int
	// Got is not Want within Within.
	Got, Want, Within float64
}

func (e *Mismatch) Error() string {
	return fmt.Sprintf("%s: %v: entry %d of %s is %v, want %v within %.2g", e.Kernel, e.Counts, e.Entry, e.Array, e.Got, e.Want, e.Within)
}

// family is how kernels of one role are tried: rows with so many rows of a
// batch, and axes with so many of what launches vary in.
type family struct {
	rows func(t *trial, n int)
	axes map[table.Count]func(t *trial, n int)
}

// Keys is the axis of attention in a cache: what the rows of a launch see.
const Keys table.Count = "keys"

// families has one for each role.
var families = map[table.Role]family{
	"gemm":        {product, map[table.Count]func(*trial, int){"tokens": product}},
	"sgemm":       {product, map[table.Count]func(*trial, int){"tokens": product}},
	"finish":      {finish, nil},
	"columns":     {columns, map[table.Count]func(*trial, int){"tokens": columns}},
	"sum":         {sumOfRows, map[table.Count]func(*trial, int){"entries": func(t *trial, n int) { sum(t, n, 3) }, "parts": func(t *trial, n int) { sum(t, 5, n) }}},
	"cast":        {func(t *trial, n int) { cast(t, 40*n) }, map[table.Count]func(*trial, int){"entries": cast}},
	"norm":        {norm, map[table.Count]func(*trial, int){"tokens": norm}},
	"embed":       {embed, nil},
	"rotate":      {rotate, nil},
	"loss":        {loss, nil},
	"attend":      {attention, map[table.Count]func(*trial, int){"seq": attention, Keys: keys}},
	"attend_rows": {attention, map[table.Count]func(*trial, int){"seq": attention, Keys: keys}},
	"delta":       {attention, nil},
	"adamw":       {func(t *trial, n int) { adamW(t, 8*flat(n, 20, 3)) }, map[table.Count]func(*trial, int){"entries": adamW}},
	"pack_bf16":   {func(t *trial, n int) { pack(t, 8*flat(n, 5, 0)) }, map[table.Count]func(*trial, int){"entries": pack}},
	"sum_squares": {func(t *trial, n int) { squares(t, 8*flat(n, 25, 0)) }, map[table.Count]func(*trial, int){"entries": squares}},
	"clip_norm":   {func(t *trial, n int) { clip(t, 5*n) }, map[table.Count]func(*trial, int){"entries": clip}},
}

// many is the number of rows from which on kernels that pass over arrays of any
// length get those of a model: 512 times as many pieces as rows, four million of
// eight entries for 8,192.
const many = 1000

// flat is a number of pieces for so many rows.
func flat(rows, each, plus int) int {
	if rows >= many {
		return 512 * rows
	}
	return each*rows + plus
}

// Knows reports whether kernels of a role can be proven.
func Knows(role table.Role) bool { return families[role].rows != nil }

// Prove tries a kernel with so many rows of a batch, or for kernels that know no
// rows with a size that follows from it. An error is a *Mismatch, or what the
// runner says.
func (p *Prover) Prove(k table.Kernel, rows int) error {
	return p.try(k, families[k.Role].rows, rows)
}

// ProveAt tries a kernel with so many of what its launches vary in.
func (p *Prover) ProveAt(k table.Kernel, axis table.Count, n int) error {
	return p.try(k, families[k.Role].axes[axis], n)
}

func (p *Prover) try(k table.Kernel, prepare func(*trial, int), n int) error {
	if prepare == nil {
		return unknown(k)
	}
	for variant := 0; ; variant++ {
		t := newTrial(k, p.Seed, n, variant)
		if p.InTurn {
			t.variant = (n + n/16) % mostVariants
		}
		err := consistent(func() error {
			prepare(t, n)
			return p.run(t)
		})
		if err != nil {
			if e := (*Mismatch)(nil); errors.As(err, &e) {
				return err
			}
			return fmt.Errorf("%s: %v: %w", k.Name, t.counts, err)
		}
		if p.InTurn || variant+1 == 1<<t.choices {
			return nil
		}
	}
}

// consistent runs f, for which a row whose shape, arrays and counts contradict each
// other is an error.
func consistent(f func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("its row contradicts itself: %v", r)
		}
	}()
	return f()
}

func unknown(k table.Kernel) error {
	return fmt.Errorf("%s: nobody knows how to prove kernels of %s there", k.Name, k.Role)
}

// trial is one launch, and what must come of it.
type trial struct {
	table.Kernel
	rng *rand.Rand
	// variant has a bit for each choice that was made so far.
	variant, choices int
	counts           table.Counts
	in               map[string]values // what arrays hold before
	numbers          Numbers
	left             map[string]bool // optional arrays that are written, left out
	out              []values        // what they hold after, by parameter; nothing where the kernel changes nothing
	// points are what is compared: entries, or what several follow from. wants
	// returns what lists them for a point, for one goroutine at a time, which asks for
	// ascending points.
	points int
	wants  func() func(point int, want wanted)
	// ran reports whether a point's block runs, where only some do; sample, where
	// not nil, adds points to those that are compared when not all are.
	ran    func(point int, only func([3]int) bool) bool
	sample func(add func(point int))
	// stays tells, by array that is updated, which entries the kernel leaves alone;
	// nil where it changes all.
	stays map[string]func(i int) bool
}

// mostVariants bounds the choices of a launch: two.
const mostVariants = 4

// choose is one of the choices of a launch: whether there is something optional.
func (t *trial) choose() bool {
	yes := t.variant>>t.choices&1 == 0
	t.choices++
	return yes
}

func newTrial(k table.Kernel, seed uint64, n, variant int) *trial {
	h := fnv.New64a()
	fmt.Fprintln(h, k.Name, n, variant)
	return &trial{Kernel: k, rng: rand.New(rand.NewPCG(seed, h.Sum64())), variant: variant, counts: table.Counts{}, stays: map[string]func(int) bool{}, in: map[string]values{}, out: make([]values, len(k.Params)), numbers: Numbers{}, left: map[string]bool{}}
}

// wanted takes what must be stored at a place of an array, and how far it may be
// off.
type wanted func(array, place int, value, tol float64)

// array is the number of a parameter.
func (t *trial) array(name string) int {
	for i, p := range t.Params {
		if p.Name == name {
			return i
		}
	}
	panic("gpuproof: " + t.Name + " has no parameter " + name)
}

// has reports whether the kernel has a parameter, and the launch gives it one.
func (t *trial) has(name string) bool {
	return !t.left[name] && slices.ContainsFunc(t.Params, func(p table.Param) bool { return p.Name == name && p.Len.In(t.counts) > 0 })
}

// mostEntries bounds an array of a proof: more than the largest model's table has, and
// less than a machine runs out of for a row that claims it.
const mostEntries = 1 << 31

// entries of a parameter. More than mostEntries are no array of a kernel.
func (t *trial) entries(p table.Param) int {
	n := p.Len.In(t.counts)
	if n > mostEntries {
		panic(fmt.Sprintf("%s has %d entries", p.Name, n))
	}
	return n
}

// draw makes normal numbers for a parameter.
func (t *trial) draw(name string, scale float64) values {
	p := t.Params[t.array(name)]
	v := normal(t.rng, p.Type, t.entries(p), scale)
	t.in[name] = v
	return v
}

// fill makes the numbers of a parameter one by one.
func (t *trial) fill(name string, f func(i int) float64) values {
	p := t.Params[t.array(name)]
	v := newValues(p.Type, t.entries(p))
	for i := range v.len() {
		v.set(i, f(i))
	}
	t.in[name] = v
	return v
}

// run launches a trial and compares.
func (p *Prover) run(t *trial) error {
	out, err := p.launch(t)
	if err != nil {
		return err
	}
	if p.Twice {
		again, err := p.launch(t)
		if err != nil {
			return fmt.Errorf("a second run: %w", err)
		}
		for i, v := range out {
			if at := v.differs(again[i]); at >= 0 {
				return fmt.Errorf("two runs differ: entry %d of %s is %v and %v", at, t.Params[i].Name, v.at(at), again[i].at(at))
			}
		}
	}
	t.out = out
	for i, q := range t.Params {
		switch {
		case p.Only != nil || len(out[i].data) == 0:
		case q.Access == table.Written:
			if n := out[i].unwritten(); n > 0 {
				return fmt.Errorf("%d entries of %s were not written", n, q.Name)
			}
		case q.Access == table.Updated:
			if err := changes(q.Name, t.in[q.Name], out[i], t.stays[q.Name]); err != nil {
				return err
			}
		}
	}
	return p.compare(t)
}

// mostRead bounds the arrays, in bytes, of which it is looked at whether a kernel
// that only reads them has left them alone.
const mostRead = 16 << 20

// launch runs a trial once and reads what the kernel may have changed.
func (p *Prover) launch(t *trial) (out []values, err error) {
	defer func() { err = errors.Join(err, p.Free()) }()
	a := Arrays{}
	for _, q := range t.Params {
		if !q.Type.Array() {
			continue
		}
		size := q.Type.Bytes() * t.entries(q)
		v, given := t.in[q.Name]
		switch {
		case given && len(v.data) != size:
			return nil, fmt.Errorf("%s has %d bytes, its row says %d", q.Name, len(v.data), size)
		case t.left[q.Name] || !given && q.Access != table.Written || size == 0:
			if !q.Optional {
				return nil, fmt.Errorf("no %s", q.Name)
			}
			continue
		case q.Access == table.Updated:
			v.data = bytes.Clone(v.data)
		}
		if a[q.Name], err = p.Alloc(q.Access, v.data, size); err != nil {
			return nil, err
		}
	}
	if err := p.Launch(t.Kernel, t.counts, a, t.numbers); err != nil {
		return nil, err
	}
	out = make([]values, len(t.Params))
	for i, q := range t.Params {
		if a[q.Name] == nil || q.Access == table.Read && len(t.in[q.Name].data) > mostRead {
			continue
		}
		if q.Access == table.Read {
			if got, err := p.Read(a[q.Name]); err != nil || !bytes.Equal(got, t.in[q.Name].data) {
				return nil, errors.Join(err, fmt.Errorf("%s has changed, which is only read", q.Name))
			}
			continue
		}
		out[i] = newValues(q.Type, 0)
		if out[i].data, err = p.Read(a[q.Name]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// compare holds results to what is wanted, points shared out to the cores.
func (p *Prover) compare(t *trial) error {
	points := p.choose(t)
	const each = 64
	workers := min(runtime.GOMAXPROCS(0), len(points)/each+1)
	errs := make([]error, workers)
	var wg sync.WaitGroup
	for w := range workers {
		part := points[w*len(points)/workers : (w+1)*len(points)/workers]
		wg.Go(func() {
			errs[w] = consistent(func() (err error) {
				wants := t.wants()
				for _, i := range part {
					wants(i, func(array, place int, value, tol float64) {
						// Only the first of a worker's mismatches is kept: they come in order.
						if got := t.out[array].at(place); err == nil && !near(got, value, tol) {
							err = &Mismatch{t.Name, t.Params[array].Name, t.counts, place, got, value, tol}
						}
					})
					if err != nil {
						return err
					}
				}
				return nil
			})
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// near compares two numbers; infinite ones must be the same.
func near(got, want, tol float64) bool {
	d := got - want
	return got == want || d <= tol && -d <= tol
}

// choose lists the points that are compared, in order.
func (p *Prover) choose(t *trial) []int {
	ran := func(i int) bool { return p.Only == nil || t.ran == nil || t.ran(i, p.Only) }
	var list []int
	add := func(i int) {
		if ran(i) {
			list = append(list, i)
		}
	}
	if p.Samples == 0 || t.points <= p.Samples {
		for i := range t.points {
			add(i)
		}
		return list
	}
	add(0)
	add(t.points - 1)
	for s := range p.Samples {
		lo, hi := s*t.points/p.Samples, (s+1)*t.points/p.Samples
		add(lo + t.rng.IntN(hi-lo))
	}
	if t.sample != nil {
		t.sample(add)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// What float32 and bf16 lose: half the distance of neighbouring numbers,
// relative.
const (
	ulp32    = 1.0 / (1 << 24)
	roundoff = 1.0 / 256
)

// Inputs are what a launch is given, for measurements: the bytes of arrays that
// are read or updated, and the sizes of those that are written.
type Inputs struct {
	Counts  table.Counts
	Arrays  map[string][]byte
	Written map[string]int
	Numbers Numbers
}

// Bytes of all arrays together: what a kernel moves that touches each once.
func (in *Inputs) Bytes() (n int) {
	for _, b := range in.Arrays {
		n += len(b)
	}
	for _, size := range in.Written {
		n += size
	}
	return n
}

// Prepare draws what a proof with so many rows of a batch gives a kernel.
func Prepare(k table.Kernel, rows int) (*Inputs, error) {
	f := families[k.Role]
	if f.rows == nil {
		return nil, unknown(k)
	}
	t := newTrial(k, 0, rows, 0)
	if err := consistent(func() error { f.rows(t, rows); return nil }); err != nil {
		return nil, fmt.Errorf("%s: %w", k.Name, err)
	}
	in := &Inputs{Counts: t.counts, Arrays: map[string][]byte{}, Written: map[string]int{}, Numbers: t.numbers}
	for _, p := range k.Params {
		size := 0
		if p.Type.Array() {
			size = p.Bytes(t.counts)
		}
		switch v, given := t.in[p.Name]; {
		case size == 0 || t.left[p.Name]:
		case given:
			in.Arrays[p.Name] = v.data
		case p.Access == table.Written:
			in.Written[p.Name] = size
		}
	}
	return in, nil
}
