package cuda

import (
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/plan/gpu"
	"github.com/structuredffn/sffn/internal/gz"
	"github.com/structuredffn/sffn/runtime/cuda/table"
)

// otherwise packs a text as another version of Go may.
func otherwise(t *testing.T, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.NoCompression)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// PTX is known by its text: what another version of Go packed is fresh, and stays
// as it is where the text is made again. Another text does not.
func TestPackedOtherwise(t *testing.T) {
	ks := tableOf(t, smallDir)
	files, err := Sources(ks)
	if err != nil {
		t.Fatal(err)
	}
	if err := Fresh(smallDir, files, PTX); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write(Manifest, files[Manifest])
	packed := map[string][]byte{}
	for _, file := range gpu.Files(ks) {
		text, err := files.PTX(file)
		if err != nil {
			t.Fatal(err)
		}
		packed[file] = otherwise(t, text)
		write(ptxName(file), packed[file])
	}
	again, err := Sources(ks)
	if err != nil {
		t.Fatal(err)
	}
	if err := Fresh(dir, again, PTX); err != nil {
		t.Fatal(err)
	}
	const other = string(table.Forward)
	text, err := files.PTX(other)
	if err != nil {
		t.Fatal(err)
	}
	changed := gz.Pack(append(text, '\n'))
	files[ptxName(other)] = changed
	if err := files.keep(dir); err != nil {
		t.Fatal(err)
	}
	for file, data := range packed {
		if !bytes.Equal(again[ptxName(file)], data) {
			t.Errorf("%s: Fresh packed it again", file)
		}
		if file == other {
			data = changed
		}
		if !bytes.Equal(files[ptxName(file)], data) {
			t.Errorf("%s: not what has to be written", file)
		}
	}
	write(ptxName(other), changed)
	if err := Fresh(dir, again, PTX); err == nil || !strings.HasSuffix(err.Error(), "z_forward.ptx.gz is not what z_cuda.txt says: it was changed by hand") {
		t.Error(err)
	}
	if err := files.keep(t.TempDir()); err != nil {
		t.Error(err)
	}
}
