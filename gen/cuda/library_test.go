package cuda

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/plan"
)

// A Go program links the library and finds the images in it, each with the
// magic number and the length of a fatbin, and its kernels' names.
func TestLibrary(t *testing.T) {
	toolkit(t)
	ks := plan.GPUUnique([]plan.GPUKernel{plan.GPUSum{}.Kernel(), plan.SumRows.Kernel()})
	files, err := Build(t.TempDir(), "", ks)
	if err != nil {
		t.Fatal(err)
	}
	if err := Library("", "tiny", files); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, data := range map[string][]byte{"libsffn_tiny.a": files["libsffn_tiny.a"], "go.mod": []byte("module m\n"), "main.go": []byte(libraryProgram)} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("go", "run", ".")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=1", "GOWORK=off", "GOFLAGS=-mod=mod")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	images := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	for i, name := range []string{"sum_parts", "sum_rows", "nothing"} {
		want := fmt.Sprintf("%s true", name)
		if name == "nothing" {
			want = "nothing false"
		}
		if i >= len(images) || string(images[i]) != want {
			t.Errorf("the program printed\n%s\nwant line %d: %s", out, i+1, want)
		}
	}
	missing := Files{}
	for name, data := range files {
		if !strings.HasSuffix(name, ".cubin") {
			missing[name] = data
		}
	}
	if err := Library("", "tiny", missing); err == nil || !strings.Contains(err.Error(), "fatbinary") {
		t.Errorf("%v, want fatbinary's error about a missing cubin", err)
	}
}

const libraryProgram = `package main

/*
#cgo LDFLAGS: ${SRCDIR}/libsffn_tiny.a
const void *sffn_tiny_image(const char *file);
*/
import "C"

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"unsafe"
)

func main() {
	for _, c := range [][2]string{{"sums", "sum_parts"}, {"passes", "sum_rows"}, {"forward", "nothing"}} {
		p := C.sffn_tiny_image(C.CString(c[0]))
		if p == nil {
			fmt.Println(c[1], false)
			continue
		}
		head := unsafe.Slice((*byte)(p), 16)
		n := binary.LittleEndian.Uint64(head[8:])
		ok := binary.LittleEndian.Uint32(head) == 0xba55ed50 && n < 1<<20
		fmt.Println(c[1], ok && bytes.Contains(unsafe.Slice((*byte)(p), 16+n), []byte(c[1])))
	}
}
`
