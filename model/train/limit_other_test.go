//go:build !unix

package train

import "testing"

func limitFileSize(t *testing.T, _ uint64) func() {
	t.Skip("this system cannot limit the size of files")
	return nil
}
