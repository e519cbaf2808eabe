package train

import (
	"cmp"
	"context"
	"slices"
	"sort"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/collective"
)

// exchange is how the engine of one rank shares the steps with those of the others.
// Gradients leave in buckets while the backward pass still runs, so that each rank
// has the sums of the chunks that it owns; it updates these, and keeps their moments
// alone; and parameters come back in the same buckets, ahead of the forward pass that
// needs them.
type exchange struct {
	g    collective.Group
	m    *model.Model
	sums *accumulator
	// buckets, in the order in which a backward pass finishes them.
	buckets []bucket
	// forward numbers the buckets in the order in which a forward pass needs them, and
	// until[part] is how many of these a part needs.
	forward, until []int
	// sent counts the buckets of this step that have left.
	sent    int
	flights []flight
	// leaves are the sums that ranks send, in order: first[rank] is where those of a
	// rank begin, and additions make the step's sum of them.
	first     []int
	additions [][2]int
	rooms     [inFlight][]float32
	scratch   rt.Arena
	// The bucket that is added up, and what the pool runs on it.
	parts [][]float32
	own   []float32
	add   func(worker, i int)
	// gathers are the parameters on their way, of the first begun buckets that forward
	// numbers all but the first arrived.
	gathers        []collective.Pending
	begun, arrived int
	packed         []bool // of each part
	// momentsArena holds this rank's moments.
	moments      [2][]float32
	momentsArena *rt.Arena
	// err is what went wrong first: the ranks are apart from then on.
	err error
}

// bucket is a stretch of the parameters that ranks exchange at a time: whole chunks.
// bounds are those of the ranks' own, from its beginning; last is the part of the model
// that a backward pass finishes last of it.
type bucket struct {
	model.Range
	bounds []int
	last   int
}

// part is what of the bucket a rank owns.
func (b *bucket) part(rank int) model.Range {
	return model.Range{Lo: b.Lo + b.bounds[rank], Hi: b.Lo + b.bounds[rank+1]}
}

// flight is a bucket on its way, with the stretches that make this rank's part.
type flight struct {
	pending []collective.Pending
	parts   [][]float32
	own     []float32
}

// bucketChunks is the size of a bucket: a few milliseconds of a network, and of a
// backward pass. With more ranks it has a chunk for each. Tests have smaller ones.
var bucketChunks = 16

// ahead bounds the buckets of parameters that are on their way at a time. Tests have
// fewer.
var ahead = 4

const (
	// inFlight bounds those of gradients, which take memory.
	inFlight = 2
)

// never ends: how long to wait for others is the group's affair.
var never = context.Background()

func newExchange(g collective.Group, m *model.Model, sums *accumulator, lanes int) *exchange {
	x := &exchange{g: g, m: m, sums: sums}
	var leaves []span
	for q := range g.Size() {
		_, sums, _ := lanesOf(lanes, share(lanes, g.Size(), q))
		x.first = append(x.first, len(leaves))
		leaves = append(leaves, sums...)
	}
	x.first = append(x.first, len(leaves))
	x.additions = span{0, lanes}.additions(leaves)
	x.add = func(_, i int) {
		lo, hi := i*addBlock, min(len(x.own), (i+1)*addBlock)
		for _, a := range x.additions {
			m.Vec().Add(x.parts[a[0]][lo:hi], x.parts[a[1]][lo:hi])
		}
		copy(x.own[lo:hi], x.parts[0][lo:hi]) // the same memory at rank 0
	}
	return x
}

// buckets groups chunks as they lie, which is how a backward pass finishes those that
// are no guides; guides it finishes from the last to the first.
func buckets(p *model.Params, chunks []chunk, ranks int) []bucket {
	var all []bucket
	size := max(bucketChunks, ranks)
	lastOf := func(r model.Range) int {
		for part := range model.Parts(p.Spec()) {
			for _, s := range p.Part(part) {
				if s.Lo < r.Hi && r.Lo < s.Hi {
					return part
				}
			}
		}
		return 0
	}
	group := func(chunks []chunk) {
		next := 0 // the rank that has one more, where they do not come out even
		for len(chunks) > 0 {
			n := min(size, len(chunks))
			b := bucket{Range: model.Range{Lo: chunks[0].Lo, Hi: chunks[n-1].Hi}, bounds: []int{0}}
			b.last = lastOf(b.Range)
			at := 0
			for q := range ranks {
				at += n / ranks
				if (q-next+ranks)%ranks < n%ranks {
					at++
				}
				end := 0
				if at > 0 {
					end = chunks[at-1].Hi - b.Lo
				}
				b.bounds = append(b.bounds, end)
			}
			next = (next + n%ranks) % ranks
			all = append(all, b)
			chunks = chunks[n:]
		}
	}
	guides := sort.Search(len(chunks), func(i int) bool { return chunks[i].guide < 0 })
	group(chunks[:guides])
	group(chunks[guides:])
	slices.SortStableFunc(all, func(a, b bucket) int { return cmp.Compare(b.last, a.last) })
	return all
}

// place says who owns each chunk of the parameters, and where its moments lie, and
// returns this rank's: those that it had, or zeros. What is no guide's comes first, so
// that it stays where it is when the guides go.
func (x *exchange) place(chunks []chunk) [2][]float32 {
	p, size, rank := x.m.Params, x.g.Size(), x.g.Rank()
	x.buckets = buckets(p, chunks, size)
	owned := make([]int, size)
	for _, guides := range []bool{false, true} {
		for i := range chunks {
			c := &chunks[i]
			if (c.guide >= 0) != guides {
				continue
			}
			b := x.bucketOf(c.Range)
			c.owner = sort.Search(size-1, func(q int) bool { return c.Lo < b.Lo+b.bounds[q+1] })
			c.at = owned[c.owner]
			owned[c.owner] += c.Hi - c.Lo
		}
	}
	arena, was := &rt.Arena{}, x.moments
	for i := range x.moments {
		x.moments[i] = arena.Floats(owned[rank])
		copy(x.moments[i], was[i])
	}
	if x.momentsArena != nil {
		x.momentsArena.Close()
	}
	x.momentsArena = arena

	x.forward, x.until = nil, make([]int, model.Parts(p.Spec()))
	most := 0
	for i := range slices.Backward(x.buckets) {
		b := &x.buckets[i]
		x.forward = append(x.forward, i)
		for part := range x.until {
			for _, s := range p.Part(part) {
				if s.Lo < b.Hi && b.Lo < s.Hi {
					x.until[part] = len(x.forward)
				}
			}
		}
		own := b.part(rank)
		most = max(most, own.Hi-own.Lo)
	}
	x.begun, x.arrived = len(x.forward), len(x.forward)
	x.packed = slices.Repeat([]bool{true}, len(x.until))
	x.scratch.Close()
	x.scratch = rt.Arena{}
	others := x.first[size] - (x.first[rank+1] - x.first[rank])
	for i := range min(inFlight, len(x.buckets)) {
		x.rooms[i] = x.scratch.Floats(others * most)
	}
	return x.moments
}

func (x *exchange) bucketOf(r model.Range) *bucket {
	i := slices.IndexFunc(x.buckets, func(b bucket) bool { return b.Lo <= r.Lo && r.Hi <= b.Hi })
	return &x.buckets[i]
}

// fail keeps what went wrong first.
func (x *exchange) fail(err error) {
	if x.err == nil {
		x.err = err
	}
}

// finished is called when the gradients of a part are finished, those of this rank's
// last micro-batch, in a lane: what is whole by then leaves.
func (x *exchange) finished(l lane, part int) {
	for x.sent < len(x.buckets) && x.buckets[x.sent].last >= part {
		x.sums.addUp(l, x.buckets[x.sent].Range)
		x.send(x.sent)
		x.sent++
	}
}

// send begins to bring together the parts of a bucket with their owners.
func (x *exchange) send(n int) {
	if len(x.flights) == inFlight {
		x.land()
	}
	b, rank, size := &x.buckets[n], x.g.Rank(), x.g.Size()
	mine, room := b.part(rank), x.rooms[n%inFlight]
	own := x.sums.arenas[0].Data[mine.Lo:mine.Hi]
	f := flight{parts: make([][]float32, x.first[size]), own: own}
	for round := 0; ; round++ {
		send, recv := make([][]float32, size), make([][]float32, size)
		more := false
		for q := range size {
			to := b.part(q)
			if round < x.first[rank+1]-x.first[rank] {
				send[q] = x.sums.arenas[round].Data[to.Lo:to.Hi]
			}
			if k := x.first[q] + round; k < x.first[q+1] {
				more = true
				if q == rank {
					recv[q] = send[q]
				} else {
					recv[q], room = room[:len(own):len(own)], room[len(own):]
				}
				f.parts[k] = recv[q]
			}
		}
		if !more {
			break
		}
		f.pending = append(f.pending, collective.Exchange(x.g, send, recv))
	}
	x.flights = append(x.flights, f)
}

// land waits for the bucket that left first and adds it up.
func (x *exchange) land() {
	f := x.flights[0]
	x.flights = x.flights[1:]
	for _, p := range f.pending {
		if err := p.Wait(never); err != nil {
			x.fail(err)
			return
		}
	}
	x.parts, x.own = f.parts, f.own
	x.m.Pool().Run((len(x.own)+addBlock-1)/addBlock, x.add)
}

// collect ends a step's exchange of gradients.
func (x *exchange) collect() error {
	for len(x.flights) > 0 {
		x.land()
	}
	x.sent = 0
	return x.err
}

// gatherSums fills in the chunks' sums that others have.
func (x *exchange) gatherSums(chunks []chunk, sums []float64) error {
	size, rank := x.g.Size(), x.g.Rank()
	at := make([]int, size+1)
	for _, c := range chunks {
		at[c.owner+1]++
	}
	for q := range size {
		at[q+1] += at[q]
	}
	all, next := make([]float64, len(chunks)), slices.Clone(at)
	for i, c := range chunks {
		if c.owner == rank {
			all[next[rank]] = sums[i]
			next[rank]++
		}
	}
	if err := collective.AllGather(x.g, all, at).Wait(never); err != nil {
		x.fail(err)
		return err
	}
	next = slices.Clone(at)
	for i, c := range chunks {
		sums[i] = all[next[c.owner]]
		next[c.owner]++
	}
	return nil
}

// spread begins to bring the updated parameters to all ranks.
func (x *exchange) spread() {
	x.begun, x.arrived = 0, 0
	clear(x.packed)
	for range ahead {
		x.gatherNext()
	}
}

func (x *exchange) gatherNext() {
	if x.begun < len(x.forward) {
		b := &x.buckets[x.forward[x.begun]]
		x.gathers = append(x.gathers, collective.AllGather(x.g, x.m.Params.Data[b.Lo:b.Hi], b.bounds))
		x.begun++
	}
}

// need waits for the parameters of a part, and packs them.
func (x *exchange) need(part int) {
	for x.arrived < x.until[part] {
		x.gatherNext()
		p := x.gathers[0]
		x.gathers = x.gathers[1:]
		x.arrived++
		if err := p.Wait(never); err != nil {
			x.fail(err)
		}
	}
	if !x.packed[part] {
		x.m.RepackPart(part)
		x.packed[part] = true
	}
}

// fetch waits for all parameters.
func (x *exchange) fetch() error {
	for part := range x.packed {
		x.need(part)
	}
	return x.err
}

// gatherGradients brings the sums of the gradients to all ranks.
func (x *exchange) gatherGradients() error {
	var all []collective.Pending
	for i := range x.buckets {
		b := &x.buckets[i]
		all = append(all, collective.AllGather(x.g, x.sums.arenas[0].Data[b.Lo:b.Hi], b.bounds))
	}
	for _, p := range all {
		if err := p.Wait(never); err != nil {
			x.fail(err)
		}
	}
	return x.err
}

// close frees what the ranks do not exchange any more.
func (x *exchange) close() {
	for _, f := range x.flights {
		for _, p := range f.pending {
			p.Wait(never) // it holds memory
		}
	}
	for _, p := range x.gathers {
		p.Wait(never)
	}
	x.scratch.Close()
	x.momentsArena.Close()
}

// moment is one of a parameter's moments, of which all ranks speak in the same order.
type moment struct {
	which int // 0 is the first
	guide bool
	spec.Param
}

// momentsOf lists the moments in the order of a checkpoint's files.
func momentsOf(p *model.Params) (all []moment) {
	for i, list := range [][]spec.Param{p.List(), p.Guides()} {
		for which := range 2 {
			for _, q := range list {
				all = append(all, moment{which, i == 1, q})
			}
		}
	}
	return all
}

// pieces calls f with the stretches of a parameter that lie in one chunk each: entries
// [from, from+n) of the parameter are the owner's moments from at on.
func (x *exchange) pieces(chunks []chunk, q spec.Param, f func(owner, at, from, n int)) {
	r := x.m.Params.Range(q.Name)
	first := sort.Search(len(chunks), func(i int) bool { return chunks[i].Hi > r.Lo })
	for _, c := range chunks[first:] {
		lo, hi := max(c.Lo, r.Lo), min(c.Hi, r.Hi)
		if lo >= hi {
			return
		}
		f(c.owner, c.at+lo-c.Lo, lo-r.Lo, hi-lo)
	}
}

// move brings a stretch of one rank's memory to another's; the others take part.
func (x *exchange) move(from, to int, src, dst []float32) {
	send, recv := make([][]float32, x.g.Size()), make([][]float32, x.g.Size())
	if x.g.Rank() == from {
		send[to] = src
	}
	if x.g.Rank() == to {
		recv[from] = dst
	}
	if err := collective.Exchange(x.g, send, recv).Wait(never); err != nil {
		x.fail(err)
	}
}

// toRoot passes a moment to write, at rank 0, in pieces; other ranks send what they
// have of it. Where write fails, it is not called again.
func (x *exchange) toRoot(chunks []chunk, m moment, room []float32, write func([]float32) error) (err error) {
	x.pieces(chunks, m.Param, func(owner, at, _, n int) {
		piece := room[:n]
		if owner == x.g.Rank() {
			piece = x.moments[m.which][at : at+n]
		}
		if owner != 0 {
			x.move(owner, 0, piece, piece)
		}
		if x.err != nil {
			err = x.err
		} else if x.g.Rank() == 0 && err == nil {
			err = write(piece)
		}
	})
	return err
}

// fromRoot fills a moment with what rank 0 reads: from entry from on.
func (x *exchange) fromRoot(chunks []chunk, m moment, room []float32, read func(dst []float32, from int) error) (err error) {
	x.pieces(chunks, m.Param, func(owner, at, from, n int) {
		piece := room[:n]
		if owner == x.g.Rank() {
			piece = x.moments[m.which][at : at+n]
		}
		if x.g.Rank() == 0 && err == nil {
			err = read(piece, from)
		}
		if owner != 0 {
			x.move(0, owner, piece, piece)
		}
	})
	return cmp.Or(err, x.err)
}
