package cuda

import (
	"errors"
	"strings"
	"unsafe"

	"github.com/structuredffn/sffn/runtime/cuda/driver"
)

// jitLog is where the driver's compiler leaves its words. It lies in host memory
// because values of the options are addresses, which C must not find in Go's:
// four options, their values, and the two logs.
type jitLog struct{ *Host }

const (
	jitValues = 16
	jitInfo   = 64
	jitBytes  = 8 << 10 // of each log; the driver cuts what is longer
	jitErrors = jitInfo + jitBytes
)

func (d *Device) newJITLog() (jitLog, error) {
	h, err := d.AllocHost(jitErrors + jitBytes)
	if err != nil {
		return jitLog{}, err
	}
	clear(Of[byte](h))
	*(*[4]driver.JITOption)(h.at) = [4]driver.JITOption{driver.InfoLogBuffer, driver.InfoLogBytes, driver.ErrorLogBuffer, driver.ErrorLogBytes}
	*(*[4]uintptr)(unsafe.Add(h.at, jitValues)) = [4]uintptr{uintptr(h.at) + jitInfo, jitBytes, uintptr(h.at) + jitErrors, jitBytes}
	return jitLog{h}, nil
}

// load gives an image to the driver. The error has what its compiler says.
func (l jitLog) load(m *driver.Module, image *byte) error {
	err := l.d.do("cuModuleLoadDataEx", func() driver.Result {
		return l.d.api.ModuleLoadDataEx(m, image, 4, l.at, unsafe.Add(l.at, jitValues))
	})
	if e := (*driver.Error)(nil); errors.As(err, &e) {
		var lines []string
		for _, at := range []int{jitErrors, jitInfo} {
			for line := range strings.Lines(driver.String((*byte)(unsafe.Add(l.at, at)), jitBytes)) {
				if line = strings.Join(strings.Fields(line), " "); line != "" {
					lines = append(lines, line)
				}
			}
		}
		e.Log = strings.Join(lines, "; ")
	}
	return err
}
