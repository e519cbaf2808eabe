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
	"strings"
	"testing"

	"github.com/structuredffn/sffn/gen/spec"
	rt "github.com/structuredffn/sffn/runtime"
)

var packDirs = flag.String("pack", "", "write cases.zip from these folders of golden vectors, with commas between them")

// pack puts the cases of some folders and the files that they name into an
// archive, under the manifest of the first one with all cases. The same files give
// the same bytes.
func pack(dirs ...fs.FS) ([]byte, error) {
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
	var all map[string]json.RawMessage
	var cases []json.RawMessage
	for _, dir := range dirs {
		src, err := fs.ReadFile(dir, "manifest.json")
		if err != nil {
			return nil, err
		}
		var m map[string]json.RawMessage
		var these []json.RawMessage
		if err := json.Unmarshal(src, &m); err != nil {
			return nil, err
		}
		if err := json.Unmarshal(m["cases"], &these); err != nil {
			return nil, err
		}
		if all == nil {
			all = m
		}
		cases = append(cases, these...)
	}
	var err error
	if all["cases"], err = json.Marshal(cases); err != nil {
		return nil, err
	}
	var manifest bytes.Buffer
	e := json.NewEncoder(&manifest)
	e.SetEscapeHTML(false)
	if err := e.Encode(all); err != nil {
		return nil, err
	}
	if err := add("manifest.json", manifest.Bytes()); err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		cases, err := List(dir)
		if err != nil {
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
	}
	err = w.Close()
	return b.Bytes(), err
}

func TestPack(t *testing.T) {
	if *packDirs != "" {
		var dirs []fs.FS
		for dir := range strings.SplitSeq(*packDirs, ",") {
			dirs = append(dirs, os.DirFS(dir))
		}
		b, err := pack(dirs...)
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
