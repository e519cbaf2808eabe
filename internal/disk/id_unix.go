//go:build unix && !linux

package disk

import (
	"fmt"
	"io/fs"
	"syscall"
)

// ID tells a file from any copy of it. It is empty where the system has none.
func ID(info fs.FileInfo) string {
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		return fmt.Sprintf("%x-%x", s.Dev, s.Ino)
	}
	return ""
}
