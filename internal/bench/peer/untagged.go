//go:build !peers

package peer

import "errors"

// tagged are the libraries that are linked with the build tag peers.
var tagged = []Library{unlinked{name: "openblas"}, unlinked{name: "libxsmm"}}

// unlinked is a library that this build is without.
type unlinked struct {
	Library
	name string
}

func (u unlinked) Name() string { return u.name }

func (unlinked) check() error {
	return errors.New("not in this build: install libopenblas-dev and libxsmm-dev and build sffn with -tags peers")
}
