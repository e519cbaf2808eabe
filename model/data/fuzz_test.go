package data

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/structuredffn/sffn/internal/frugal"
)

// An index of any content is an error, or opens what can be read.
func FuzzIndex(f *testing.F) {
	dir := f.TempDir()
	if _, err := of(documents(300)).Run(f.Context(), dir); err != nil {
		f.Fatal(err)
	}
	name := filepath.Join(dir, indexFile)
	good, err := os.ReadFile(name)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"kind":"sffn data","version":2,"splits":{"train":{"tokens":1e300},"val":{}}}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := os.WriteFile(name, b, 0o666); err != nil {
			t.Fatal(err)
		}
		frugal.Run(t, 64<<20, func() {
			s, err := Open(dir)
			if err != nil {
				return
			}
			defer s.Close()
			for _, split := range []*Split{s.Train, s.Validation} {
				ids, err := split.ReadAll(1 << 20)
				if err != nil {
					t.Errorf("what was opened cannot be read: %v", err)
				}
				split.Bytes(ids)
			}
		})
	})
}

// With a journal of any content a preparation goes on, or begins from the beginning.
func FuzzJournal(f *testing.F) {
	docs := documents(3000)
	dir := f.TempDir()
	ctx, stop := context.WithCancel(f.Context())
	p := of(docs)
	p.Progress = func(Progress) { stop() }
	if _, err := p.Run(ctx, dir); !errors.Is(err, context.Canceled) {
		f.Fatal(err)
	}
	left := contents(f, dir)
	f.Add([]byte(left[journalFile]))
	f.Add([]byte(`{"kind":"sffn unfinished data"}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		for name, text := range left {
			if name == journalFile {
				text = string(b)
			}
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		frugal.Run(t, 64<<20, func() {
			p := of(docs)
			r := &run{Preparation: *p, dir: dir}
			r.defaults()
			if err := r.scan(t.Context()); err != nil {
				t.Fatal(err)
			}
			defer r.close()
			if err := r.begin(); err != nil {
				return
			}
			// It goes on, or from the beginning.
			if r.hold != nil && (r.tokens() != 0 || r.mix.Places[0] != place{}) {
				t.Errorf("from the beginning, which is %+v", r.mix.mixState)
			}
			if i, piece, err := r.mix.next(); err == nil && (i != 0 || len(piece.Text) == 0) {
				t.Errorf("source %d has %d bytes", i, len(piece.Text))
			}
		})
	})
}
