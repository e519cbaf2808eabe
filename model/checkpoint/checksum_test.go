package checkpoint

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/internal/frugal"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/config"
)

// unseal makes a checkpoint one of the first edition, without a version and
// without checksums.
func unseal(t testing.TB, dir string) {
	t.Helper()
	state := filepath.Join(dir, stateFile)
	b, err := os.ReadFile(state)
	if err == nil {
		err = os.WriteFile(state, bytes.Replace(b, []byte(`"format": 3,`), nil, 1), 0o666)
	}
	if err == nil {
		err = os.Remove(filepath.Join(dir, sumsFile))
	}
	if err != nil {
		t.Fatal(err)
	}
}

// open reads all of a checkpoint.
func open(dir string, p *model.Params) error {
	// Memory of their own: tensors are read side by side, and summed where they lie.
	_, m, err := newParams()
	if err != nil {
		return err
	}
	defer m.Close()
	_, v, err := newParams()
	if err != nil {
		return err
	}
	defer v.Close()
	c, _, err := Describe(dir)
	if err == nil {
		err = Verify(dir, c)
	}
	if err == nil {
		err = Load(dir, p)
	}
	if err == nil {
		err = LoadMoments(dir, m, v)
	}
	return err
}

// A bit that has flipped is an error that names the file, wherever it is.
func TestBitRot(t *testing.T) {
	dir := save(t, t.TempDir(), 3, 1)
	_, p := params(t)
	if err := open(dir, p); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for _, name := range []string{configFile, modelFile, optimizerFile, stateFile, sumsFile} {
		path := filepath.Join(dir, name)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for range 60 {
			bit := r.IntN(8 * len(whole))
			b := bytes.Clone(whole)
			b[bit/8] ^= 1 << (bit % 8)
			if err := os.WriteFile(path, b, 0o666); err != nil {
				t.Fatal(err)
			}
			if err := open(dir, p); err == nil || !strings.Contains(err.Error(), dir) {
				t.Errorf("%s: bit %d of byte %d has flipped: %v", name, bit%8, bit/8, err)
			}
		}
		if err := os.WriteFile(path, whole, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := open(dir, p); err != nil {
		t.Error(err)
	}
}

func TestFormats(t *testing.T) {
	_, p := params(t)
	dir := save(t, t.TempDir(), 3, 1)
	if c, s, err := Describe(dir); err != nil || s.Format != formatFloat32 || s.Edition != config.Edition || c.Edition != config.Edition || c.Train.DecayAll {
		t.Errorf("%+v, %v", s, err)
	}
	unseal(t, dir)
	if c, s, err := Describe(dir); err != nil || s.Format != 1 || c.Edition != 1 || !c.Train.DecayAll {
		t.Errorf("%+v, %v", s, err)
	}
	if err := open(dir, p); err != nil {
		t.Errorf("one of the first edition: %v", err)
	}
	for want, state := range map[string]string{
		"state.json: format 5 is unknown, this program reads 1 to 4":                                             `{"format": 5, "step": 1, "steps": 2}`,
		`state.json: weights in format "int8" in a checkpoint of format 3`:                                       `{"format": 3, "edition": 2, "weights": "int8", "step": 1, "steps": 2}`,
		`state.json: weights in format "bf16w" in a checkpoint of format 4; this program reads [bf16 int8 int4]`: `{"format": 4, "edition": 2, "weights": "bf16w", "step": 1, "steps": 2}`,
		`state.json: weights in format "int5" in a checkpoint of format 4`:                                       `{"format": 4, "edition": 2, "weights": "int5", "step": 1, "steps": 2}`,
		"state.json: step 5 of 2 is impossible":                                                                  `{"step": 5, "steps": 2}`,
		"state.json: edition 3 of the configuration's defaults is unknown":                                       `{"format": 3, "edition": 3, "step": 1, "steps": 2}`,
		"state.json: edition 0 of the configuration's defaults is unknown":                                       `{"format": 3, "step": 1, "steps": 2}`,
		"state.json: format -1 is unknown":                                                                       `{"format": -1, "step": 1, "steps": 2}`,
		"state.json: a checkpoint of format 2 has checksums.txt, which is missing":                               `{"format": 2, "step": 1, "steps": 2}`,
		"state.json: json: cannot unmarshal string into Go struct field State.format of type":                    `{"format": "2"}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(state), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, _, err := Describe(dir); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	dir = save(t, t.TempDir(), 3, 1)
	if err := os.WriteFile(filepath.Join(dir, sumsFile), sums{configFile: sum{1, 2}}.text(), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, _, err := Describe(dir); err == nil || !strings.Contains(err.Error(), "state.json: checksums.txt has no line for it") {
		t.Error(err)
	}
}

// Text files that ask for much are refused at little cost.
func TestHostile(t *testing.T) {
	for name, state := range map[string]string{
		"nested":           `{"guide":` + strings.Repeat(`{"steps":`, 100_000),
		"nested lists":     strings.Repeat("[", 100_000),
		"a million keys":   `{` + strings.Repeat(`"a":1,`, 170_000) + `"step":1}`,
		"the same key":     `{` + strings.Repeat(`"step":1,`, 110_000) + `"step":1}`,
		"steps of a guide": `{"guide":{"steps":[` + strings.Repeat("1,", 500_000) + `1]},"step":1}`,
	} {
		dir := t.TempDir()
		for file, text := range map[string]string{configFile: source, stateFile: state} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		frugal.Run(t, 64<<20, func() {
			if _, _, err := Describe(dir); err == nil || len(err.Error()) > 1000 {
				t.Errorf("%s: %.300v", name, err)
			}
		})
	}
	for _, file := range []string{stateFile, configFile, sumsFile, modelFile} {
		dir := save(t, t.TempDir(), 3, 1)
		if err := os.Truncate(filepath.Join(dir, file), 10<<30); err != nil {
			t.Fatal(err)
		}
		_, p := params(t)
		frugal.Run(t, 32<<20, func() {
			if err := open(dir, p); err == nil || !strings.Contains(err.Error(), file) {
				t.Errorf("%s of 10 GB: %v", file, err)
			}
		})
	}
}

// Whatever a file of checksums holds, reading it gives sums or an error.
func FuzzChecksums(f *testing.F) {
	f.Add(sums{"a": {1, 2}, "b": {3, 4}}.text())
	f.Add([]byte("00000000 0 checksums.txt\n"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, sumsFile), text, 0o666); err != nil {
			t.Fatal(err)
		}
		if s, err := readSums(dir); err == nil && !bytes.Equal(s.text(), text) {
			t.Errorf("%q is read as %q", text, s.text())
		}
	})
}
