package cuda

import (
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ImageFunc is the name of the one function of a package's static library. It
// ends with a hash of the fatbins in it: with a library of other ones a program
// does not link.
func (f Files) ImageFunc(pkg string) string {
	h := sha256.New()
	for _, file := range f.names() {
		h.Write(f[fatbinName(file)])
	}
	return fmt.Sprintf("sffn_%s_image_%x", pkg, h.Sum(nil)[:4])
}

// Library adds a static library of the fatbins among the files, in which it puts
// them as they are: libsffn_<pkg>.a, whose function
//
//	const void *<ImageFunc>(const char *file);
//
// gives the image of z_<file>.fatbin for the driver to load, or NULL. It needs no
// other library.
func (t *Toolkit) Library(pkg string, files Files) error {
	dir, err := os.MkdirTemp("", "sffn-cuda-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	var images, table strings.Builder
	for _, file := range files.names() {
		name := fatbinName(file)
		if err := os.WriteFile(filepath.Join(dir, name), files[name], 0o666); err != nil {
			return err
		}
		fmt.Fprintf(&images, "__asm__(\".pushsection .rodata\\n.balign 64\\nsffn_%[1]s_%[2]s:\\n.incbin \\\"%[3]s\\\"\\n.popsection\\n\");\nextern const char sffn_%[1]s_%[2]s[] __attribute__((visibility(\"hidden\")));\n", pkg, file, name)
		fmt.Fprintf(&table, "  if (!strcmp(file, \"%[2]s\")) return sffn_%[1]s_%[2]s;\n", pkg, file)
	}
	src := fmt.Sprintf("#include <string.h>\n%sconst void *%s(const char *file) {\n%s  return 0;\n}\n", images.String(), files.ImageFunc(pkg), table.String())
	if err := os.WriteFile(filepath.Join(dir, "images.c"), []byte(src), 0o666); err != nil {
		return err
	}
	name := "libsffn_" + pkg + ".a"
	// In two steps, because nvcc's own names for objects differ from run to run.
	if _, err := t.run(dir, "nvcc", "-c", "-O2", "-Xcompiler", "-fPIC", "-o", "images.o", "images.c"); err != nil {
		return err
	}
	if _, err := t.run(dir, "nvcc", "-lib", "-o", name, "images.o"); err != nil {
		return err
	}
	files[name], err = os.ReadFile(filepath.Join(dir, name))
	return err
}
