package cuda

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// Library adds a static library to files that hold cubins: libsffn_<pkg>.a,
// whose one function
//
//	const void *sffn_<pkg>_image(const char *file);
//
// gives the image of a PTX file, named without z_ and .ptx, for the driver to
// load, or NULL. An image holds the cubins of all architectures, the very ones
// that were checked, and the PTX for others; the library needs no other.
func Library(nvcc, pkg string, files Files) error {
	t, err := Find(nvcc)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "sffn-cuda-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o666); err != nil {
			return err
		}
	}
	var images, table strings.Builder
	for _, file := range files.names() {
		args := []string{"--create=" + file + ".fatbin", "-64"}
		for _, arch := range Architectures {
			args = append(args, fmt.Sprintf("--image3=kind=elf,sm=%s,file=z_%s.%s.cubin", strings.TrimPrefix(arch, "sm_"), file, arch))
		}
		if _, err := t.run(dir, "fatbinary", append(args, "--image3=kind=ptx,sm=80,file="+ptxName(file))...); err != nil {
			return err
		}
		fmt.Fprintf(&images, "__asm__(\".pushsection .rodata\\n.balign 64\\nsffn_%[1]s_%[2]s:\\n.incbin \\\"%[2]s.fatbin\\\"\\n.popsection\\n\");\nextern const char sffn_%[1]s_%[2]s[] __attribute__((visibility(\"hidden\")));\n", pkg, file)
		fmt.Fprintf(&table, "  if (!strcmp(file, \"%[2]s\")) return sffn_%[1]s_%[2]s;\n", pkg, file)
	}
	src := fmt.Sprintf("#include <string.h>\n%sconst void *sffn_%s_image(const char *file) {\n%s  return 0;\n}\n", images.String(), pkg, table.String())
	if err := os.WriteFile(filepath.Join(dir, "images.c"), []byte(src), 0o666); err != nil {
		return err
	}
	name := "libsffn_" + pkg + ".a"
	if _, err := t.run(dir, "nvcc", "-lib", "-O2", "-Xcompiler", "-fPIC", "-o", name, "images.c"); err != nil {
		return err
	}
	files[name], err = os.ReadFile(filepath.Join(dir, name))
	return err
}
