package disk

import (
	"fmt"
	"io/fs"
	"syscall"
)

// ID tells a file from any copy of it, and changes when its content does, whatever time of
// modification it is given. It is empty where the system has none.
func ID(info fs.FileInfo) string {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprintf("%x-%x-%x.%x", s.Dev, s.Ino, s.Ctim.Sec, s.Ctim.Nsec)
	}
	return ""
}
