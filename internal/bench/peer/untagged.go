//go:build !peers

package peer

// tagged are the libraries that are linked with the build tag peers.
var tagged []Library
