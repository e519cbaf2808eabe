package cuda

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"unsafe"

	"github.com/structuredffn/sffn/internal/disk"
)

// verdicts are the kernels that have passed the self-test on a device with a
// driver, by name, with the hash of what was tested. They are a file of a folder:
// a cache, which may be deleted, and which nobody else's kernel passes by.
type verdicts struct {
	Device  string            `json:"device"`
	Driver  int               `json:"driver"`
	Test    int               `json:"test"`
	Kernels map[string]string `json:"kernels"`

	name string
}

// testVersion changes with what the self-test asks of kernels: what passed an
// older one is tried again.
const testVersion = 2

// maxVerdicts bounds the file, in bytes: 10,000 kernels of long names.
const maxVerdicts = 4 << 20

// verdicts reads those of the device, none where there are none that can be read.
func (d *Device) verdicts() *verdicts {
	v := &verdicts{Device: d.String() + " " + d.UUID, Driver: d.Driver, Test: testVersion, Kernels: map[string]string{}}
	if d.Verdicts == "" {
		return v
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %s %s", v.Device, v.Driver, d.Library, stamp(d.Library)))
	v.name = filepath.Join(d.Verdicts, "selftest-"+hex.EncodeToString(sum[:8])+".json")
	data, err := disk.ReadText(v.name, maxVerdicts, "")
	var old verdicts
	if err == nil && json.Unmarshal(data, &old) == nil &&
		old.Device == v.Device && old.Driver == v.Driver && old.Test == v.Test && old.Kernels != nil {
		v.Kernels = old.Kernels
	}
	return v
}

// stamp tells drivers of one CUDA version and name apart: the size of the library's
// file and when it was written, where there is one.
func stamp(library string) string {
	info, err := os.Stat(library)
	if err != nil {
		return ""
	}
	return fmt.Sprint(info.Size(), " ", info.ModTime().UnixNano())
}

func (v *verdicts) has(k *Kernel) bool { return k.hash != "" && v.Kernels[k.Name] == k.hash }

func (v *verdicts) add(k *Kernel) {
	if k.hash != "" {
		v.Kernels[k.Name] = k.hash
	}
}

// save writes the file.
func (v *verdicts) save() error {
	if v.name == "" {
		return nil
	}
	data, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(v.name), 0o777); err != nil {
		return err
	}
	return disk.Replace(v.name, func(w io.Writer) error { _, err := w.Write(append(data, '\n')); return err })
}

// imageHash is that of an image of machine code, whose head holds its size: 16
// bytes, of which the last eight are the size of the rest. It is empty for any
// other image, of which nobody knows the size.
func imageHash(image *byte) string {
	const head, magic, largest = 16, 0xba55ed50, 256 << 20
	b := unsafe.Slice(image, head)
	size := binary.LittleEndian.Uint64(b[8:])
	if binary.LittleEndian.Uint32(b) != magic || size > largest {
		return ""
	}
	sum := sha256.Sum256(unsafe.Slice(image, head+int(size)))
	return hex.EncodeToString(sum[:])
}
