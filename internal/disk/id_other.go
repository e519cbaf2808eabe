//go:build !unix

package disk

import "io/fs"

// ID tells a file from any copy of it. It is empty where the system has none.
func ID(fs.FileInfo) string { return "" }
