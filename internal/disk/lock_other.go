//go:build !unix || solaris || aix

package disk

import (
	"errors"
	"os"
)

// NoFollow cannot be asked for.
const NoFollow = 0

func lock(*os.File) (bool, error) { return false, errors.ErrUnsupported }
