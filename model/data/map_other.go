//go:build !unix || solaris || aix

package data

import (
	"errors"
	"os"
)

// noFollow makes opening a link an error.
const noFollow = 0

// mapFile is not there on this system: files are read.
func mapFile(*os.File, int64) ([]byte, error) { return nil, errors.ErrUnsupported }

func unmap([]byte) error { return nil }
