package golden

import (
	"archive/zip"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/structuredffn/sffn/internal/frugal"
	rt "github.com/structuredffn/sffn/runtime"
)

// verify runs the cases of a manifest whose tensors are the given file; the
// error is the directory's, or the first case's.
func verify(manifest string, tensors []byte) string {
	said := ""
	pool := rt.NewPool(1)
	defer pool.Close()
	dir := fstest.MapFS{"manifest.json": {Data: []byte(manifest)}, "x.safetensors": {Data: tensors}}
	if _, err := Verify(dir, rt.Options{Pool: pool}, func(r Result) { said += r.Reason }); err != nil {
		return err.Error()
	}
	return said
}

// Directories and archives that ask for much are refused at little cost.
func TestHostile(t *testing.T) {
	const tensors = "\x02\x00\x00\x00\x00\x00\x00\x00{}"
	for name, tt := range map[string]struct{ manifest, want string }{
		"nested":         {`{"format":1,"cases":` + strings.Repeat("[", 100_000), "manifest.json: invalid character '[' exceeded max depth"},
		"a million keys": {`{"format":1,` + strings.Repeat(`"a":1,`, 300_000) + `"cases":[]}`, "no cases"},
		"the same key":   {`{` + strings.Repeat(`"format":1,`, 300_000) + `"cases":[]}`, "no cases"},
		"a huge model":   {`{"format":1,"cases":[{"name":"a","kind":"model","file":"x.safetensors","method":{"name":"linear"},"model":{"hidden_dim":65536,"vocab_size":1048576,"num_layers":2,"ffn_dim":65536,"attn_dim":65536,"num_q_heads":1,"num_kv_heads":1,"max_position_embeddings":1048576,"act":"gelu","ln":"layernorm","pos_emb":{"name":"rope","rotary_base":10000},"init":{"initializer_range":0.02}},"batch":1,"seq":1}]}`, "x.safetensors"},
		"too long":       {strings.Repeat(" ", maxManifest+1), "too many for a manifest"},
	} {
		frugal.Run(t, 256<<20, func() {
			if got := verify(tt.manifest, []byte(tensors)); !strings.Contains(got, tt.want) || len(got) > 2000 {
				t.Errorf("%s: got %.300s, want it to contain %q", name, got, tt.want)
			}
		})
	}
	dir := t.TempDir()
	name := filepath.Join(dir, "manifest.json")
	if err := os.WriteFile(name, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(name, 10<<30); err != nil {
		t.Fatal(err)
	}
	frugal.Run(t, 1<<20, func() {
		if _, err := Verify(os.DirFS(dir), rt.Options{}, nil); err == nil || !strings.Contains(err.Error(), "10737418240 bytes are too many for a manifest") {
			t.Error(err)
		}
	})
}

// An archive says of a file how long it is: neither 10 GB nor less than comes are
// believed.
func TestHostileArchive(t *testing.T) {
	for want, size := range map[string]uint64{"10737418240 bytes in an archive, want at most 268435456": 10 << 30, "tensors.safetensors: ": 100} {
		var b bytes.Buffer
		w := zip.NewWriter(&b)
		const manifest = `{"format":1,"cases":[{"name":"a","kind":"layer","file":"tensors.safetensors"}]}`
		f, err := w.Create("manifest.json")
		if err == nil {
			_, err = io.WriteString(f, manifest)
		}
		if err != nil {
			t.Fatal(err)
		}
		// Stored, and said to be of another size.
		text := strings.Repeat("\x00", 1<<20)
		f, err = w.CreateRaw(&zip.FileHeader{Name: "tensors.safetensors", Method: zip.Store, CompressedSize64: uint64(len(text)), UncompressedSize64: size})
		if err == nil {
			_, err = io.WriteString(f, text)
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		r, err := zip.NewReader(bytes.NewReader(b.Bytes()), int64(b.Len()))
		if err != nil {
			t.Fatal(err)
		}
		frugal.Run(t, 16<<20, func() {
			said := ""
			if _, err := Verify(r, rt.Options{}, func(r Result) { said += r.Reason }); err != nil {
				said = err.Error()
			}
			if !strings.Contains(said, want) {
				t.Errorf("got %q, want it to contain %q", said, want)
			}
		})
	}
}
