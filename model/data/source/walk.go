package source

import (
	"container/heap"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
)

// walker lists the regular files below a folder, in the order of their names, folder by
// folder. It holds so many names of each folder at a time, and reads a folder with
// more again and again.
type walker struct {
	ctx   context.Context
	names int // of a folder to hold, namesAtOnce outside tests
	stack []*folder
	links int // that were passed over
	// except is a folder that is left out, nil for none.
	except fs.FileInfo
}

// namesAtOnce take about 20 MB.
const namesAtOnce = 1 << 17

// found is a file; path is its name with slashes, from the base name of the root on.
type found struct {
	name, path string
	info       fs.FileInfo
}

type folder struct {
	name, path string
	entries    []entry // not visited yet
	last       string  // name of the last entry that was read
	more       bool    // there are entries behind it
}

type entry struct {
	name string
	mode fs.FileMode
}

func newWalker(ctx context.Context, root string) (*walker, error) {
	top, err := filepath.EvalSymlinks(root)
	if err != nil {
		return nil, err
	}
	w := &walker{ctx: ctx, names: namesAtOnce}
	w.push(top, filepath.ToSlash(filepath.Base(root)))
	return w, nil
}

func (w *walker) push(name, path string) {
	w.stack = append(w.stack, &folder{name: name, path: path, more: true})
}

// next is the next file; io.EOF behind the last one.
func (w *walker) next() (found, error) {
	for len(w.stack) > 0 {
		if err := w.ctx.Err(); err != nil {
			return found{}, err
		}
		f := w.stack[len(w.stack)-1]
		if len(f.entries) == 0 {
			if !f.more {
				w.stack = w.stack[:len(w.stack)-1]
			} else if err := f.read(w.names); err != nil {
				return found{}, err
			}
			continue
		}
		e := f.entries[0]
		f.entries = f.entries[1:]
		name, path := filepath.Join(f.name, e.name), path.Join(f.path, e.name)
		switch {
		case e.mode.IsDir():
			if info, err := os.Stat(name); err != nil || w.except == nil || !os.SameFile(info, w.except) {
				w.push(name, path)
			}
		case e.mode.IsRegular():
			info, err := os.Lstat(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue // gone since
			}
			if err != nil {
				return found{}, err
			}
			if info.Mode().IsRegular() {
				return found{name, path, info}, nil
			}
		case e.mode&fs.ModeSymlink != 0:
			w.links++
		}
	}
	return found{}, io.EOF
}

// read takes the next names of the folder, in order.
func (f *folder) read(most int) error {
	d, err := os.Open(f.name)
	if err != nil {
		return err
	}
	defer d.Close()
	var least largestFirst
	f.more = false
	for {
		some, err := d.ReadDir(1024)
		for _, e := range some {
			name := e.Name()
			if f.last != "" && name <= f.last {
				continue
			}
			if len(least) == most {
				f.more = true
				if name > least[0].name {
					continue
				}
				heap.Pop(&least)
			}
			heap.Push(&least, entry{name, e.Type()})
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	f.entries = least
	slices.SortFunc(f.entries, func(a, b entry) int {
		if a.name < b.name {
			return -1
		}
		return 1
	})
	if len(f.entries) > 0 {
		f.last = f.entries[len(f.entries)-1].name
	}
	return nil
}

// largestFirst is a heap.
type largestFirst []entry

func (h largestFirst) Len() int           { return len(h) }
func (h largestFirst) Less(i, j int) bool { return h[i].name > h[j].name }
func (h largestFirst) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *largestFirst) Push(x any)        { *h = append(*h, x.(entry)) }
func (h *largestFirst) Pop() any {
	old := *h
	x := old[len(old)-1]
	*h = old[:len(old)-1]
	return x
}
