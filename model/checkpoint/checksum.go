package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model/safetensors"
)

// sumsFile has a line for each file of a checkpoint: its CRC-32C, its size and
// its name. The last line is about the lines before it.
const sumsFile = "checksums.txt"

// sum is what a file has to be.
type sum struct {
	crc  uint32
	size int64
}

// sums are those of a checkpoint's files, nil in one of the first edition, which
// had none.
type sums map[string]sum

// summer sums what passes through it.
type summer struct {
	w io.Writer
	sum
}

func (s *summer) Write(b []byte) (int, error) {
	n, err := s.w.Write(b)
	s.crc, s.size = crc32.Update(s.crc, safetensors.Castagnoli, b[:n]), s.size+int64(n)
	return n, err
}

func sumOf(b []byte) sum { return sum{crc32.Checksum(b, safetensors.Castagnoli), int64(len(b))} }

const sumsLine = "%08x %d %s\n"

// text is the file of the sums.
func (s sums) text() []byte {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(s)) {
		fmt.Fprintf(&b, sumsLine, s[name].crc, s[name].size, name)
	}
	own := sumOf(b.Bytes())
	fmt.Fprintf(&b, sumsLine, own.crc, own.size, sumsFile)
	return b.Bytes()
}

// readSums reads the sums of a checkpoint, nil where it has none.
func readSums(dir string) (sums, error) {
	name := filepath.Join(dir, sumsFile)
	text, err := disk.ReadText(name, maxText, "")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	s := sums{}
	for line := range bytes.Lines(text) {
		var file string
		var one sum
		if _, err := fmt.Sscanf(string(line), sumsLine, &one.crc, &one.size, &file); err != nil {
			break
		}
		s[file] = one
	}
	// What is written again is every bit of what was read.
	delete(s, sumsFile)
	if !bytes.Equal(text, s.text()) {
		return nil, fmt.Errorf("%s is damaged: its lines are not those that its last one sums", name)
	}
	return s, nil
}

// check compares a file with what was saved.
func (s sums) check(dir, name string, got sum) error {
	if s == nil {
		return nil
	}
	path := filepath.Join(dir, name)
	want, ok := s[name]
	if !ok {
		return fmt.Errorf("%s: %s has no line for it", path, sumsFile)
	}
	if got != want {
		return fmt.Errorf("%s is damaged, or was changed: %d bytes of CRC-32C %08x, %d of %08x were saved", path, got.size, got.crc, want.size, want.crc)
	}
	return nil
}

// readChecked reads a file of a checkpoint, of at most so many bytes.
func (s sums) readChecked(dir, name string, most int) ([]byte, error) {
	text, err := disk.ReadText(filepath.Join(dir, name), most, "")
	if err != nil {
		return nil, err
	}
	return text, s.check(dir, name, sumOf(text))
}

// readTensors reads tensors of a checkpoint, and checks the whole file that they
// lie in.
func (s sums) readTensors(dir, name string, values []safetensors.Value) error {
	path := filepath.Join(dir, name)
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := safetensors.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	crc, err := f.ReadAll(values)
	if err != nil {
		return err
	}
	return s.check(dir, name, sum{crc, info.Size()})
}
