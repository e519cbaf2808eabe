package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/structuredffn/sffn/internal/disk"
)

// What precedes the name of a checkpoint that is being written or removed, and of
// one that is moved out of its successor's way: that is whole.
const (
	unfinished = disk.UnfinishedPrefix
	replaced   = ".replaced-"
)

// written are the files of a checkpoint, those of generate included. No others
// are ever removed.
var written = []string{configFile, modelFile, optimizerFile, guidesFile, stateFile, sumsFile, "tokenizer.json", "tokenizer.model", "crossover.json"}

func stepName(step int) string { return fmt.Sprintf("%s%08d", prefix, step) }

// stepOf is the step of a checkpoint's name: what Save gives, and no other.
func stepOf(name string) (step int, ok bool) {
	digits, ok := strings.CutPrefix(name, prefix)
	step, err := strconv.Atoi(digits)
	return step, ok && err == nil && step >= 0 && stepName(step) == name
}

func has(dir, file string) bool {
	_, err := os.Stat(filepath.Join(dir, file))
	return err == nil
}

// isLink says that a checkpoint lies elsewhere: a user may have put it there. It
// is read as any other, and neither changed nor removed.
func isLink(dir string) bool {
	info, err := os.Lstat(dir)
	return err == nil && info.Mode()&fs.ModeSymlink != 0
}

// list returns the checkpoints of a run, oldest first: one that a process which
// was killed left moved out of the way counts.
func list(run string) ([]string, error) {
	entries, err := os.ReadDir(run)
	if err != nil {
		return nil, err
	}
	at := map[int]string{}
	for _, e := range entries {
		name, isReplaced := strings.CutPrefix(e.Name(), replaced)
		step, ok := stepOf(name)
		dir := filepath.Join(run, e.Name())
		if !ok || !e.IsDir() && !isLink(dir) || !has(dir, stateFile) {
			continue
		}
		if _, ok := at[step]; !ok || !isReplaced {
			at[step] = dir
		}
	}
	var dirs []string
	for _, step := range slices.Sorted(maps.Keys(at)) {
		dirs = append(dirs, at[step])
	}
	return dirs, nil
}

// Recover finishes what a process was about that was killed: a checkpoint that it
// moved out of the way is moved back, unless its successor is there, and what
// it was writing or removing goes. What lies where that is done and is no folder, is
// an error.
func Recover(run string) error {
	entries, err := os.ReadDir(run)
	if err != nil {
		return err
	}
	// What is unfinished goes first: it has the name under which more is removed.
	for _, e := range slices.Backward(entries) {
		name, isReplaced := strings.CutPrefix(e.Name(), replaced)
		name, isUnfinished := strings.CutPrefix(name, unfinished)
		if _, ok := stepOf(name); !ok || isReplaced == isUnfinished {
			continue
		}
		if !e.IsDir() {
			return fmt.Errorf("%s is %s, where sffn keeps a checkpoint for a while; move it away", filepath.Join(run, e.Name()), disk.Kind(e.Type()))
		}
		if isUnfinished {
			if err := remove(run, name); err != nil {
				return err
			}
			continue
		}
		if dir := filepath.Join(run, name); isLink(dir) || !has(dir, stateFile) {
			err = disk.Rename(filepath.Join(run, e.Name()), filepath.Join(run, name))
		} else {
			err = discard(run, e.Name(), name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// replace makes what was written of a checkpoint the checkpoint, and makes sure
// that this lasts.
func replace(run, name string) error {
	tmp, dir, old := filepath.Join(run, unfinished+name), filepath.Join(run, name), filepath.Join(run, replaced+name)
	if err := disk.Sync(tmp); err != nil {
		return err
	}
	// The same step again: until the new one is there, the old one is found
	// under its other name.
	info, err := os.Lstat(dir)
	again := err == nil && info.IsDir()
	if again {
		err = disk.Rename(dir, old)
	} else if err == nil {
		err = putAside(dir, dir) // a link, or a file of somebody's
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return err
	}
	if err := disk.Rename(tmp, dir); err != nil {
		if again {
			err = errors.Join(err, disk.Rename(old, dir))
		}
		return err
	}
	if err := disk.Sync(run); err != nil {
		return err
	}
	if again {
		return discard(run, filepath.Base(old), name)
	}
	return nil
}

// Prune removes all but the newest keep checkpoints; newest stays, and links do.
func Prune(run, newest string, keep int) error {
	all, err := list(run)
	if err != nil {
		return err
	}
	all = slices.DeleteFunc(all, func(dir string) bool { return dir == newest || isLink(dir) })
	for _, dir := range all[:max(0, len(all)-max(0, keep-1))] {
		if err := discard(run, filepath.Base(dir), filepath.Base(dir)); err != nil {
			return err
		}
	}
	return nil
}

// discard removes the folder entry of a run, which is the checkpoint name, or was.
// It is no checkpoint any more before its first file goes.
func discard(run, entry, name string) error {
	if err := disk.Rename(filepath.Join(run, entry), filepath.Join(run, unfinished+name)); err != nil {
		return err
	}
	return remove(run, name)
}

// remove removes the unfinished folder of a checkpoint. What else has been put
// into it is left, under the checkpoint's name where that is free.
func remove(run, name string) error {
	tmp := filepath.Join(run, unfinished+name)
	for _, file := range written {
		if err := disk.Remove(filepath.Join(tmp, file)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	entries, err := os.ReadDir(tmp)
	if err != nil {
		return err
	}
	// Of files that a process was replacing which was killed, there is this.
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool {
		name, ok := strings.CutPrefix(e.Name(), unfinished)
		if !ok { // the first edition's
			name, ok = strings.CutPrefix(strings.TrimRight(e.Name(), "0123456789"), ".")
		}
		return ok && slices.Contains(written, name) && disk.Remove(filepath.Join(tmp, e.Name())) == nil
	})
	if len(entries) == 0 {
		return disk.Remove(tmp)
	}
	return putAside(tmp, filepath.Join(run, name))
}

// putAside gives what is not this program's a name that is free: that of the
// checkpoint that it was in, or one that begins with it.
func putAside(from, dir string) error {
	to := dir
	for n := 1; ; n++ {
		if _, err := os.Lstat(to); errors.Is(err, fs.ErrNotExist) {
			return disk.Rename(from, to)
		} else if err != nil {
			return err
		}
		to = fmt.Sprintf("%s-left-%d", dir, n)
	}
}
