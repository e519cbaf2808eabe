package golden

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	rt "github.com/structuredffn/sffn/runtime"
)

var packDir = flag.String("pack", "", "write cases.zip from this folder of golden vectors")

// pack puts the manifest of a folder and the files that it names into an archive.
// The same files give the same bytes.
func pack(dir fs.FS) ([]byte, error) {
	cases, err := List(dir)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	w.RegisterCompressor(zip.Deflate, func(w io.Writer) (io.WriteCloser, error) { return flate.NewWriter(w, flate.BestCompression) })
	add := func(name string, content []byte) error {
		f, err := w.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate})
		if err == nil {
			_, err = f.Write(content)
		}
		return err
	}
	src, err := fs.ReadFile(dir, "manifest.json")
	if err != nil {
		return nil, err
	}
	var manifest bytes.Buffer
	if err := json.Compact(&manifest, src); err != nil {
		return nil, err
	}
	if err := add("manifest.json", manifest.Bytes()); err != nil {
		return nil, err
	}
	for _, c := range cases {
		content, err := fs.ReadFile(dir, c.File)
		if err != nil {
			return nil, err
		}
		if err := add(c.File, content); err != nil {
			return nil, err
		}
	}
	err = w.Close()
	return b.Bytes(), err
}

func TestPack(t *testing.T) {
	if *packDir != "" {
		b, err := pack(os.DirFS(*packDir))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile("cases.zip", b, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	dir, m := layerVectors(t, spec.Linear{Kind: spec.LowRank, In: 12, Out: 20, Rank: 5, Bias: true})
	writeManifest(t, dir, m)
	one, err := pack(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	two, err := pack(os.DirFS(dir))
	if err != nil || !bytes.Equal(one, two) {
		t.Fatalf("packed again, the archive is another one: %v", err)
	}
	r, err := zip.NewReader(bytes.NewReader(one), int64(len(one)))
	if err != nil {
		t.Fatal(err)
	}
	var rs []Result
	if _, err := Verify(r, rt.Options{Pool: rt.NewPool(1)}, func(r Result) { rs = append(rs, r) }); err != nil || len(rs) != 1 || rs[0].Status != Passed {
		t.Errorf("from an archive: %v, %v", fmt.Sprint(rs), err)
	}
}
