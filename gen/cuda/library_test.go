package cuda

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/plan/gpu"
)

// A Go program links the library and finds the images in it, each with the
// magic number and the length of a fatbin: the very ones that programs without it
// embed.
func TestLibrary(t *testing.T) {
	tk := toolkit(t)
	ks := gpu.Unique([]gpu.Kernel{gpu.SumRows.Kernel(), gpu.PackBF16.Kernel()})
	files, err := Build(t.TempDir(), "", ks)
	if err != nil {
		t.Fatal(err)
	}
	if err := tk.Library("tiny", files); err != nil {
		t.Fatal(err)
	}
	again := maps.Clone(files)
	if err := tk.Library("tiny", again); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(again["libsffn_tiny.a"], files["libsffn_tiny.a"]) {
		t.Error("the library is not the same a second time")
	}
	again["z_sums.fatbin"] = again["z_passes.fatbin"]
	if again.ImageFunc("tiny") == files.ImageFunc("tiny") {
		t.Error("a program of other fatbins would link this library")
	}
	dir := t.TempDir()
	for name, data := range map[string][]byte{"libsffn_tiny.a": files["libsffn_tiny.a"], "go.mod": []byte("module m\n"), "main.go": []byte(strings.ReplaceAll(libraryProgram, "IMAGE", files.ImageFunc("tiny")))} {
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
	want := fmt.Sprintf("sums %s\npasses %s\nforward none\n", hash(files["z_sums.fatbin"]), hash(files["z_passes.fatbin"]))
	if string(out) != want {
		t.Errorf("the program printed\n%s\nwant\n%s", out, want)
	}
}

const libraryProgram = `package main

/*
#cgo LDFLAGS: ${SRCDIR}/libsffn_tiny.a
const void *IMAGE(const char *file);
*/
import "C"

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"unsafe"
)

func main() {
	for _, file := range []string{"sums", "passes", "forward"} {
		p := C.IMAGE(C.CString(file))
		if p == nil {
			fmt.Println(file, "none")
			continue
		}
		head := unsafe.Slice((*byte)(p), 16)
		n := binary.LittleEndian.Uint64(head[8:])
		if binary.LittleEndian.Uint32(head) != 0xba55ed50 || n > 1<<20 {
			panic(file)
		}
		fmt.Printf("%s %x\n", file, sha256.Sum256(unsafe.Slice((*byte)(p), 16+n)))
	}
}
`
