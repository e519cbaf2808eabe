package train

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/model/checkpoint"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/runtime/collective"
)

// Elsewhere is what keeps a rank from going on that is wrong with another one, which
// says so.
type Elsewhere struct {
	Rank   int
	Reason string
}

func (e *Elsewhere) Error() string { return fmt.Sprintf("rank %d: %s", e.Rank, e.Reason) }

// Together is called by all ranks of a group: where one has an error, all do. It is
// that of the first one, and [Elsewhere] at the others.
func Together(g collective.Group, err error) error {
	if g.Size() == 1 {
		return err
	}
	text := ""
	if err != nil && !errors.As(err, new(*Elsewhere)) {
		text = "!" + err.Error()
	}
	all, down := collective.AllBytes(never, g, []byte(text))
	if down != nil {
		if err != nil {
			return err
		}
		return down
	}
	for q, text := range all {
		if len(text) == 0 {
			continue
		}
		if q == g.Rank() {
			return err
		}
		return &Elsewhere{q, string(text[1:])}
	}
	return err
}

// abort ends all ranks of a group, in which this one cannot go on, while others do not
// know of it.
func abort(g collective.Group, err error) error {
	if g.Size() > 1 && !errors.As(err, new(*collective.Aborted)) {
		g.Abort(1, err.Error())
	}
	return err
}

// meetEvery is how often ranks that do not wait for each other say that they live:
// often enough for any limit of waits.
const meetEvery = 10 * time.Second

// Apart is called by all ranks, and has each do its own work, however long that takes.
// It ends when all have done it, [Together]. The work does not use the group.
func Apart(g collective.Group, work func() error) error {
	if g.Size() == 1 {
		return work()
	}
	result := make(chan error, 1)
	go func() { result <- work() }()
	var err error
	for done := false; ; {
		if !done {
			select {
			case err = <-result:
				done = true
			case <-time.After(meetEvery):
			}
		}
		all, down := collective.All(never, g, asFloat(done))
		if down != nil {
			return cmp.Or(err, down)
		}
		if slices.Min(all) > 0 {
			return Together(g, err)
		}
	}
}

// programHash is the hash of this program.
var programHash = sync.OnceValues(func() (string, error) {
	name, err := os.Executable()
	if err != nil {
		return "", err
	}
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	_, err = io.Copy(h, f)
	return fmt.Sprintf("%x", h.Sum(nil)[:8]), err
})

// alike says what is not the same in all ranks of the run, of what has to be: it would
// show in the weights, or leave ranks waiting for each other.
func (r *Run) alike() error {
	if r.Group.Size() == 1 {
		return nil
	}
	program, err := programHash()
	what := [][2]string{
		{"program", program}, {"data", r.Data.Fingerprint()}, {"instruction set", r.isa()}, {"number of threads", fmt.Sprint(r.Options.Pool.Threads())},
		{"folder of the run", r.Dir}, {"--resume", fmt.Sprint(r.Resume)}, {"--init", r.Init}, {"edition of the configuration", fmt.Sprint(r.Config.Edition)},
	}
	m := r.Config.Model
	m.Name = "" // the file's
	for _, section := range []any{m, r.Config.Train} {
		v := reflect.ValueOf(section)
		for i := range v.NumField() {
			what = append(what, [2]string{key(v.Type().Field(i).Name) + " of the configuration", fmt.Sprint(v.Field(i))})
		}
	}
	mine, wrong := json.Marshal(what)
	if err := Together(r.Group, errors.Join(err, wrong)); err != nil {
		return err
	}
	all, err := collective.AllBytes(never, r.Group, mine)
	if err != nil {
		return err
	}
	var first [][2]string
	for q, text := range all {
		var theirs [][2]string
		if err := json.Unmarshal(text, &theirs); err != nil {
			return err
		}
		if q == 0 {
			first = theirs
		}
		for i, f := range theirs {
			if i >= len(first) || f != first[i] {
				return fmt.Errorf("%s has to be the same for all ranks: it is %s at rank 0, and %s at rank %d", f[0], first[min(i, len(first)-1)][1], f[1], q)
			}
		}
	}
	return nil
}

// room is where moments pass through that lie elsewhere.
func room() []float32 { return make([]float32, updateChunk) }

// loadMoments fills all ranks' moments with those of a checkpoint, which rank 0 reads.
func (l *Loop) loadMoments(from string) error {
	x, chunks := l.cpu.ranks, l.cpu.adam.chunks
	var file *checkpoint.Moments
	var err error
	if l.run.Group.Rank() == 0 {
		if file, err = checkpoint.OpenMoments(from, l.params.Spec()); err == nil {
			defer file.Close()
		} else {
			err = l.run.unreadable(from, err)
		}
	}
	if err := Together(l.run.Group, err); err != nil {
		return err
	}
	passing := room()
	for _, m := range momentsOf(l.params) {
		read := func(dst []float32, at int) error { return file.Read(dst, m.which == 1, m.guide, m.Param, at) }
		if bad := x.fromRoot(chunks, m, passing, read); bad != nil && err == nil {
			err = fmt.Errorf("%s: %w", from, bad)
		}
	}
	return Together(l.run.Group, err)
}

// saveShared writes a checkpoint at rank 0, to which the others send their moments.
func (t *trainer) saveShared(s checkpoint.State, keep int) (dir string, err error) {
	x, chunks, passing := t.cpu.ranks, t.cpu.adam.chunks, room()
	all := momentsOf(t.params)
	next := 0 // of all
	pass := func(write func([]float32) error) error {
		next++
		return x.toRoot(chunks, all[next-1], passing, write)
	}
	if t.run.Group.Rank() == 0 {
		stream := func(spec.Param) safetensors.Value { return safetensors.Value{Stream: pass} }
		dir, err = checkpoint.Save(t.run.Dir, t.run.Config.Source, s, t.run.kept(), t.params, stream, stream, keep)
	}
	for next < len(all) { // at rank 0, what it could not write
		pass(func([]float32) error { return nil })
	}
	if err = Together(t.run.Group, err); err != nil {
		return "", err
	}
	return t.run.tell(dir)
}

// tell is what rank 0 says.
func (r *Run) tell(text string) (string, error) {
	all, err := collective.AllBytes(never, r.Group, []byte(text))
	if err != nil {
		return "", err
	}
	return string(all[0]), nil
}
