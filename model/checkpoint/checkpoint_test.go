package checkpoint

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/model/token"
)

const source = "model: {vocab: 11, hidden: 8, ffn: 16, layers: 1, q_heads: 2, mlp: {kind: lowrank, rank: 2}}\n"

func newParams() (*config.Config, *model.Params, error) {
	c, err := config.Parse("small", []byte(source))
	if err != nil {
		return nil, nil, err
	}
	return c, model.NewParams(c.Model), nil
}

func params(t testing.TB) (*config.Config, *model.Params) {
	t.Helper()
	c, p, err := newParams()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	for _, q := range p.List() {
		for i := range p.Get(q.Name) {
			p.Get(q.Name)[i] = float32(i + len(q.Name))
		}
	}
	return c, p
}

func save(t testing.TB, run string, step, keep int) string {
	t.Helper()
	_, p := params(t)
	dir, err := Save(run, []byte(source), State{Name: "small", Step: step, Steps: 10}, token.Bytes{}, p, Of(p), Of(p), keep)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestRoundTrip(t *testing.T) {
	run := t.TempDir()
	dir := save(t, run, 3, 2)
	if found, err := Find(run); err != nil || found != dir {
		t.Fatalf("found %s, %v; want %s", found, err, dir)
	}
	if found, err := Find(dir); err != nil || found != dir {
		t.Errorf("a checkpoint itself: %s, %v", found, err)
	}
	c, s, err := Describe(dir)
	if err != nil || s.Step != 3 || c.Model.Name != "small" || c.Train.Steps != 10 {
		t.Fatalf("%+v, %+v, %v", c.Model, s, err)
	}
	if err := Verify(dir, c); err != nil {
		t.Error(err)
	}
	_, want := params(t)
	p, m, v := model.NewParams(c.Model), model.NewParams(c.Model), model.NewParams(c.Model)
	if err := errors.Join(Load(dir, p), LoadMoments(dir, m, v)); err != nil {
		t.Fatal(err)
	}
	for _, got := range []*model.Params{p, m, v} {
		if !slices.Equal(got.Data, want.Data) {
			t.Error("what is read is not what was saved")
		}
		got.Close()
	}
}

func TestKeep(t *testing.T) {
	run := t.TempDir()
	for step := 1; step <= 5; step++ {
		save(t, run, step, 2)
	}
	save(t, run, 5, 2) // the same step again
	all, err := list(run)
	if err != nil || len(all) != 2 || !strings.HasSuffix(all[0], "4") || !strings.HasSuffix(all[1], "5") {
		t.Errorf("kept %v, %v", all, err)
	}
	// What a killed process left is neither found nor kept.
	if err := os.Mkdir(filepath.Join(run, unfinished+"step-00000009"), 0o777); err != nil {
		t.Fatal(err)
	}
	save(t, run, 6, 2)
	entries, err := os.ReadDir(run)
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
}

func TestErrors(t *testing.T) {
	empty := t.TempDir()
	if _, err := Find(empty); !errors.Is(err, ErrNone) {
		t.Errorf("an empty folder: %v", err)
	}
	if _, err := Find(filepath.Join(empty, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no folder: %v", err)
	}
	for name, edit := range map[string]func(dir string) error{
		"has shape [], the configuration says": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, configFile), []byte(strings.Replace(source, "layers: 1", "layers: 2", 1)), 0o666)
		},
		"tensors, the configuration has": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, configFile), []byte(strings.Replace(source, "vocab: 11,", "vocab: 11, bias: false,", 1)), 0o666)
		},
		"config.yaml:1:": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, configFile), []byte(strings.Replace(source, "hidden: 8", "hidden: -8", 1)), 0o666)
		},
		"state.json": func(dir string) error { return os.WriteFile(filepath.Join(dir, stateFile), []byte("[]"), 0o666) },
		"want at most": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, stateFile), make([]byte, maxText+1), 0o666)
		},
		"no such file": func(dir string) error { return os.Remove(filepath.Join(dir, modelFile)) },
	} {
		dir := save(t, t.TempDir(), 1, 1)
		unseal(t, dir)
		if err := edit(dir); err != nil {
			t.Fatal(err)
		}
		c, _, err := Describe(dir)
		if err == nil {
			err = Verify(dir, c)
		}
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want it to contain %q", err, name)
		}
	}
}

// Whatever the text files of a checkpoint hold, reading them gives a value or
// an error.
func FuzzDescribe(f *testing.F) {
	f.Add([]byte(source), []byte(`{"name":"x","step":1,"steps":2}`))
	f.Add([]byte("model: {}"), []byte(`{"step":-1}`))
	f.Add([]byte(""), []byte("null"))
	f.Add([]byte(source), []byte(`{"format":2,"name":"x","step":1,"steps":2,"isa":"avx2"}`))
	f.Add([]byte(source), []byte(`{"format":3,"edition":2,"step":1,"steps":2}`))
	f.Add([]byte(source), []byte(strings.Repeat(`{"guide":`, 20)))
	f.Add([]byte(source), []byte(`{"step":1,"step":2,"steps":2,"guide":{"steps":[1e99]}}`))
	f.Fuzz(func(t *testing.T, config, state []byte) {
		dir := t.TempDir()
		for name, b := range map[string][]byte{configFile: config, stateFile: state} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		c, s, err := Describe(dir)
		if err == nil && (s.Format != 1 || s.Step > s.Steps || c.Model.Validate() != nil) {
			t.Errorf("accepted %+v, %+v", s, c.Model)
		}
	})
}

// A model that comes from elsewhere is a checkpoint without moments, and may have no
// tokenizer. A folder that has a checkpoint is left as it is.
func TestSaveWeights(t *testing.T) {
	run := filepath.Join(t.TempDir(), "new")
	_, want := params(t)
	var streams []safetensors.Value
	for _, v := range values("", Of(want), want.List()) {
		v.Stream = func(write func([]float32) error) error {
			for i := range v.Data {
				if err := write(v.Data[i : i+1]); err != nil {
					return err
				}
			}
			return nil
		}
		streams = append(streams, v)
	}
	dir, err := SaveWeights(run, []byte(source), State{Name: "small", Steps: 10}, nil, streams)
	if err != nil || dir != filepath.Join(run, "step-00000000") {
		t.Fatal(dir, err)
	}
	c, s, err := Describe(dir)
	if err != nil || s.Step != 0 || !s.WeightsOnly || s.Tokenizer != "" {
		t.Fatalf("%+v, %v", s, err)
	}
	if tok, err := Tokenizer(dir, s); tok != nil || err != nil {
		t.Errorf("tokenizer %v, %v", tok, err)
	}
	p := model.NewParams(c.Model)
	defer p.Close()
	if err := errors.Join(Verify(dir, c), Load(dir, p)); err != nil || !slices.Equal(p.Data, want.Data) {
		t.Errorf("what is read is not what was saved: %v", err)
	}
	if err := LoadMoments(dir, p, p); err == nil {
		t.Error("there are moments")
	}
	before := files(t, run)
	if _, err := SaveWeights(run, []byte(source), State{Name: "small", Steps: 10}, nil, streams); err == nil || !strings.Contains(err.Error(), "holds a run already") {
		t.Error(err)
	}
	if _, err := SaveWeights(filepath.Join(run, "x"), []byte(source), State{Name: "small", Steps: 10}, nil, streams[1:]); err != nil {
		t.Error(err) // which Verify notices
	}
	streams[0].Stream = func(func([]float32) error) error { return errors.New("cut off") }
	if _, err := SaveWeights(filepath.Join(run, "y"), []byte(source), State{Name: "small", Steps: 10}, nil, streams); err == nil || !strings.Contains(err.Error(), "cut off") {
		t.Error(err)
	}
	if left := files(t, filepath.Join(run, "y")); len(left) != 1 {
		t.Errorf("a save that failed left %q", left)
	}
	if err := os.RemoveAll(filepath.Join(run, "x")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(run, "y")); err != nil {
		t.Fatal(err)
	}
	if after := files(t, run); !slices.Equal(after, before) {
		t.Error("the checkpoint has changed")
	}
	// Of a run that trained, the tokenizer's name is never missing.
	s.WeightsOnly = false
	if tok, err := Tokenizer(dir, s); err == nil {
		t.Errorf("tokenizer %v of a run without one", tok)
	}
	dir, err = SaveWeights(t.TempDir(), []byte(source), State{Name: "small", Steps: 10}, token.Bytes{}, streams[:0])
	if err != nil {
		t.Fatal(err)
	}
	if _, s, err = Describe(dir); err != nil {
		t.Fatal(err)
	}
	if tok, err := Tokenizer(dir, s); err != nil || tok.Name() != "byte" {
		t.Errorf("%v, %v", tok, err)
	}
}

// The files beside a tokenizer are those of the checkpoint, checked as the others are.
func TestBeside(t *testing.T) {
	_, p := params(t)
	files := []token.File{{Name: "tokenizer_config.json", Content: []byte("{}")}, {Name: "chat_template.jinja", Content: []byte("{{ messages }}")}}
	dir, err := SaveWeights(filepath.Join(t.TempDir(), "run"), []byte(source), State{Name: "small", Steps: 10}, token.With(token.Bytes{}, files), values("", Of(p), p.List()))
	if err != nil {
		t.Fatal(err)
	}
	_, s, err := Describe(dir)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := Tokenizer(dir, s)
	if err != nil || token.Plain(tok) != token.Tokenizer(token.Bytes{}) || !slices.EqualFunc(token.Files(tok), files, func(a, b token.File) bool { return a.Name == b.Name && string(a.Content) == string(b.Content) }) {
		t.Errorf("%v with %q, %v", tok, token.Files(tok), err)
	}
	s.Beside = []string{"../../secret.json"}
	if _, err := Tokenizer(dir, s); err == nil || !strings.Contains(err.Error(), `beside has "../../secret.json", want some of`) {
		t.Error(err)
	}
	s.Beside = []string{"chat_template.jinja"}
	if err := os.WriteFile(filepath.Join(dir, "chat_template.jinja"), []byte("{{ messagez }}"), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Tokenizer(dir, s); err == nil || !strings.Contains(err.Error(), "chat_template.jinja") {
		t.Errorf("a file that changed is taken: %v", err)
	}
}
