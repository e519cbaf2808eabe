// Package checkpoint writes the state of a training run to disk and reads it
// back. A run's folder holds one folder a checkpoint, step-00000400, with
//
//	config.yaml              the configuration, as it was given
//	model.safetensors        parameters, by the reference's names, row-major
//	optimizer.safetensors    moments, m.NAME and v.NAME
//	guides.safetensors       in the guided phase, guides and their moments
//	tokenizer.json           the tokenizer's file, or tokenizer.model; none for bytes
//	tokenizer_config.json    and other files of Hugging Face's that came beside that one
//	state.json               step, data, and what else resume needs
//	checksums.txt            CRC-32C, size and name of each of these
//
// A checkpoint decodes without its guides, and without the optimizer's file, which a
// model that was not trained here has none of; nor may it have a tokenizer. It opens on any instruction set and
// any number of threads; the instruction set that it was trained on is stated,
// for the sums of training depend on it. A checkpoint appears whole, by one
// rename, or not at all, and what has changed since is noticed when it is read.
// Save, Recover and Prune are for the process that holds the run's folder.
package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/structuredffn/sffn/gen/spec"
	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/config"
	"github.com/structuredffn/sffn/model/safetensors"
	"github.com/structuredffn/sffn/model/token"
	"github.com/structuredffn/sffn/runtime/kernel"
)

// State is what resume needs beside tensors. The random numbers of a run are
// functions of its seed and step, and so is its place in the data.
type State struct {
	// Format is the version of the checkpoint: Save fills it in.
	Format int `json:"format"`
	// Edition is that of the configuration's defaults; 0 is today's, which Save and
	// SaveWeights fill in.
	Edition int `json:"edition"`

	Name  string `json:"name"`
	Step  int    `json:"step"`
	Steps int    `json:"steps"`
	// Warmup is the number of steps in which the learning rate rises, where Steps have
	// grown since the run began: it is that of the first plan.
	Warmup *int `json:"warmup,omitempty"`
	// Lanes is the number of sums of a step's gradients, where there are several.
	Lanes int `json:"lanes,omitempty"`
	// Guide is nil outside the guided phase.
	Guide *Guide `json:"guide,omitempty"`
	// WeightsOnly says that there are no moments: a model that came from elsewhere,
	// from which a run may begin, but none goes on. SaveWeights fills it in.
	WeightsOnly bool `json:"weights_only,omitempty"`
	// Weights is the format of the weights where it is not float32: a model to run, which
	// is of weights alone.
	Weights kernel.FormatName `json:"weights,omitempty"`
	// Tokenizer and Data tell which data the run reads. Save fills in the
	// tokenizer's, of which the file lies beside, where there is one; the hash is
	// empty in the first edition's, which knew bytes alone. The name is empty where
	// the model came without a tokenizer.
	Tokenizer     string `json:"tokenizer"`
	TokenizerHash string `json:"tokenizer_hash,omitempty"`
	TokenizerFile string `json:"tokenizer_file,omitempty"`
	// Beside are the names of the files beside the tokenizer's, [token.Beside]: Save
	// fills them in.
	Beside []string `json:"beside,omitempty"`
	Data   string   `json:"data"`
	// ISA is what the last steps ran on: an instruction set, or cuda; empty in the
	// first edition's.
	ISA string `json:"isa,omitempty"`
	// TokensPerSecond is the rate of training so far.
	TokensPerSecond float64 `json:"tokens_per_second"`
}

// Guide is the state of the guided phase: its finished steps, the guides' ratio
// in the next one, and how many updates each guide has seen.
type Guide struct {
	Count int     `json:"count"`
	Ratio float64 `json:"ratio"`
	Steps []int   `json:"steps"`
}

const (
	prefix        = "step-"
	configFile    = "config.yaml"
	modelFile     = "model.safetensors"
	optimizerFile = "optimizer.safetensors"
	guidesFile    = "guides.safetensors"
	stateFile     = "state.json"
)

// Values gives the value of a parameter, or one of its moments; what it names it does
// not matter.
type Values func(q spec.Param) safetensors.Value

// Of are the values that lie in p.
func Of(p *model.Params) Values {
	return func(q spec.Param) safetensors.Value { return safetensors.Value{Data: p.Get(q.Name)} }
}

// Save writes a checkpoint into the folder of a run, then removes all but the
// newest keep ones. It asks for the moments m and v of all parameters, then for those of
// all guides, in order, and reads each before it asks for the next. When it fails, for
// want of space or anything else, the earlier checkpoints stay as they are. It returns
// the checkpoint's folder.
func Save(run string, source []byte, s State, tok token.Tokenizer, p *model.Params, m, v Values, keep int) (dir string, err error) {
	moments := slices.Concat(values("m.", m, p.List()), values("v.", v, p.List()))
	files := []file{
		{modelFile, func(f io.Writer) error { return writeModel(f, values("", Of(p), p.List())) }},
		{optimizerFile, func(f io.Writer) error { return safetensors.Write(f, moments, nil) }},
	}
	if g := p.Guides(); len(g) > 0 {
		all := slices.Concat(values("", Of(p), g), values("m.", m, g), values("v.", v, g))
		files = append(files, file{guidesFile, func(f io.Writer) error { return safetensors.Write(f, all, nil) }})
	}
	if dir, err = create(run, source, s, tok, files); err != nil {
		return "", err
	}
	return dir, Prune(run, dir, keep)
}

// SaveWeights writes a checkpoint of weights alone: a model that comes from
// elsewhere, whose parameters, in the order of the spec, may be streams; where the state
// says that they have a format, matrices are the tensors of [quantize.Param]. tok is nil
// where it came without a tokenizer. The folder of the run may not have a checkpoint.
func SaveWeights(run string, source []byte, s State, tok token.Tokenizer, params []safetensors.Value) (dir string, err error) {
	if err := Vacant(run); err != nil {
		return "", err
	}
	s.WeightsOnly = true
	return create(run, source, s, tok, []file{{modelFile, func(f io.Writer) error { return writeModel(f, params) }}})
}

// Vacant says that the folder of a run has no checkpoint, or is not there.
func Vacant(run string) error {
	has, err := Find(run)
	switch {
	case err == nil:
		return fmt.Errorf("%s holds a run already (%s); choose another folder", run, has)
	case errors.Is(err, ErrNone) || errors.Is(err, fs.ErrNotExist):
		return nil
	}
	return err
}

func writeModel(w io.Writer, params []safetensors.Value) error {
	return safetensors.Write(w, params, map[string]string{"format": "pt"})
}

// file is a file of a checkpoint, and what writes it.
type file struct {
	name  string
	write func(f io.Writer) error
}

// create writes a checkpoint of these files, and of those that every one has.
func create(run string, source []byte, s State, tok token.Tokenizer, files []file) (dir string, err error) {
	name := stepName(s.Step)
	dir = filepath.Join(run, name)
	if err := os.MkdirAll(run, 0o777); err != nil {
		return "", err
	}
	if err := Recover(run); err != nil {
		return "", err
	}
	tmp := filepath.Join(run, unfinished+name)
	if err := disk.Mkdir(tmp); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("checkpoint %s: %w; the earlier checkpoints are whole", filepath.Join(run, name), err), os.RemoveAll(tmp))
		}
	}()
	if s.Format = formatFloat32; s.Weights != "" {
		s.Format = Format
	}
	if s.Edition == 0 {
		s.Edition = config.Edition
	}
	if tok != nil {
		var content []byte
		s.Tokenizer, s.TokenizerHash = tok.Name(), token.HashText(tok)
		if s.TokenizerFile, content = tok.File(); s.TokenizerFile != "" {
			files = append(files, file{s.TokenizerFile, func(f io.Writer) error { _, err := f.Write(content); return err }})
		}
		s.Beside = nil
		for _, b := range token.Files(tok) {
			s.Beside = append(s.Beside, b.Name)
			files = append(files, file{b.Name, func(f io.Writer) error { _, err := f.Write(b.Content); return err }})
		}
	}
	state, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return "", err
	}
	files = append([]file{{configFile, func(f io.Writer) error { _, err := f.Write(source); return err }}}, files...)
	files = append(files, file{stateFile, func(f io.Writer) error { _, err := f.Write(append(state, '\n')); return err }})
	all := sums{}
	for _, f := range files {
		if all[f.name], err = writeSummed(filepath.Join(tmp, f.name), f.write); err != nil {
			return "", err
		}
	}
	if _, err := writeSummed(filepath.Join(tmp, sumsFile), func(f io.Writer) error { _, err := f.Write(all.text()); return err }); err != nil {
		return "", err
	}
	return dir, replace(run, name)
}

// writeSummed writes a synced file and returns its checksum.
func writeSummed(name string, write func(io.Writer) error) (sum, error) {
	var s summer
	err := disk.Create(name, func(f io.Writer) error {
		s.w = f
		return write(&s)
	})
	return s.sum, err
}

// ErrNone says that a folder has no checkpoint.
var ErrNone = errors.New("no checkpoint")

// Is reports whether a folder is a checkpoint.
func Is(dir string) bool { return has(dir, stateFile) }

// Older returns the checkpoint of a run that is next older than another one.
func Older(run, dir string) (string, error) {
	all, err := list(run)
	if err != nil {
		return "", err
	}
	if i := slices.Index(all, dir); i > 0 {
		return all[i-1], nil
	}
	return "", fmt.Errorf("%s: %w older than %s", run, ErrNone, dir)
}

// Find returns the newest checkpoint of a run, or the folder itself where it
// is a checkpoint.
func Find(run string) (string, error) {
	if Is(run) {
		return run, nil
	}
	all, err := list(run)
	if err != nil {
		return "", err
	}
	if len(all) == 0 {
		return "", fmt.Errorf("%s: %w, want a folder %s%s inside", run, ErrNone, prefix, "N")
	}
	return all[len(all)-1], nil
}

// Before returns the newest checkpoint of a run that was written at or before
// a step.
func Before(run string, step int) (string, error) {
	all, err := list(run)
	if err != nil {
		return "", err
	}
	for _, dir := range slices.Backward(all) {
		if n, ok := stepOf(strings.TrimPrefix(filepath.Base(dir), replaced)); ok && n <= step {
			return dir, nil
		}
	}
	return "", fmt.Errorf("%s: %w of step %d or before", run, ErrNone, step)
}

func values(prefix string, of Values, list []spec.Param) []safetensors.Value {
	var vs []safetensors.Value
	for _, q := range list {
		v := of(q)
		v.Name, v.Shape = prefix+q.Name, q.Shape
		vs = append(vs, v)
	}
	return vs
}

// Beside reads the files beside the tokenizer of a checkpoint in a state.
func Beside(dir string, s State) (files []token.File, err error) {
	sums, err := readSums(dir)
	if err != nil {
		return nil, err
	}
	for _, name := range s.Beside {
		if !slices.Contains(token.Beside, name) {
			return nil, fmt.Errorf("%s: beside has %.100q, want some of %q", filepath.Join(dir, stateFile), name, token.Beside)
		}
		content, err := sums.readChecked(dir, name, token.MaxBeside)
		if err != nil {
			return nil, err
		}
		files = append(files, token.File{Name: name, Content: content})
	}
	return files, nil
}

// Tokenizer reads the tokenizer of a checkpoint in a state, with the files beside it; it
// is nil where the checkpoint has none.
func Tokenizer(dir string, s State) (token.Tokenizer, error) {
	sums, err := readSums(dir)
	if err != nil {
		return nil, err
	}
	var t token.Tokenizer
	switch {
	case s.TokenizerFile == "" && s.Tokenizer == "" && s.WeightsOnly:
		return nil, nil
	case s.TokenizerFile == "":
		if t, err = token.New(s.Tokenizer); err != nil {
			return nil, fmt.Errorf("%s: %w", dir, err)
		}
	case !slices.Contains(token.FileNames, s.TokenizerFile):
		return nil, fmt.Errorf("%s: tokenizer_file is %q, want one of %q", filepath.Join(dir, stateFile), s.TokenizerFile, token.FileNames)
	default:
		content, err := sums.readChecked(dir, s.TokenizerFile, token.MaxFile)
		if err != nil {
			return nil, err
		}
		if t, err = token.Parse(filepath.Join(dir, s.TokenizerFile), content); err != nil {
			return nil, err
		}
	}
	if got := token.HashText(t); s.TokenizerHash != "" && got != s.TokenizerHash {
		return nil, fmt.Errorf("%s: the tokenizer is %s, the model was trained with %s", dir, got, s.TokenizerHash)
	}
	files, err := Beside(dir, s)
	if err != nil {
		return nil, err
	}
	return token.With(t, files), nil
}

// maxText bounds the small files of a checkpoint.
const maxText = 1 << 20

// readState reads the state of a checkpoint.
func readState(dir string, sums sums) (s State, err error) {
	name := filepath.Join(dir, stateFile)
	text, err := sums.readChecked(dir, stateFile, maxText)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(text, &s); err != nil {
		return s, fmt.Errorf("%s: %w", name, err)
	}
	return s, s.checkFormat(name, sums != nil)
}

// Describe reads the configuration and state of a checkpoint.
func Describe(dir string) (*config.Config, State, error) {
	var s State
	sums, err := readSums(dir)
	if err != nil {
		return nil, s, err
	}
	name := filepath.Join(dir, stateFile)
	if s, err = readState(dir, sums); err != nil {
		return nil, s, err
	}
	src, err := sums.readChecked(dir, configFile, maxText)
	if err != nil {
		return nil, s, err
	}
	c, err := config.ParseSaved(filepath.Join(dir, configFile), src, s.Edition)
	if err != nil {
		return nil, s, err
	}
	c.Model.Name, c.Train.Steps = s.Name, s.Steps
	if n := max(1, s.Lanes); s.Lanes < 0 || c.Train.Accumulate%n != 0 || c.Train.Lanes > 0 && c.Train.Lanes != n {
		return nil, s, fmt.Errorf("%s: lanes is %d, which cannot be of a run of the configuration", name, s.Lanes)
	}
	if total := c.Course().Steps; s.Steps < 1 || s.Step < 0 || s.Step > total {
		return nil, s, fmt.Errorf("%s: step %d of %d is impossible", name, s.Step, total)
	}
	if n, ok := stepOf(strings.TrimPrefix(filepath.Base(dir), replaced)); ok && n != s.Step {
		return nil, s, fmt.Errorf("%s: step %d in a folder of step %d; call it %s", name, s.Step, n, stepName(s.Step))
	}
	return c, s, nil
}

// Load reads the parameters of a checkpoint into p, and the guides where p has
// any.
func Load(dir string, p *model.Params) error {
	return load(dir, modelFile, map[string]*model.Params{"": p})
}

// LoadMoments reads the moments of the optimizer, which share no memory.
func LoadMoments(dir string, m, v *model.Params) error {
	return load(dir, optimizerFile, map[string]*model.Params{"m.": m, "v.": v})
}

// Moments reads the moments of a checkpoint, as much at a time as is asked for.
type Moments struct{ optimizer, guides *safetensors.File }

// OpenMoments checks the whole files of a checkpoint's moments, those of its guides
// too where the model has any, and opens them.
func OpenMoments(dir string, m spec.Model) (*Moments, error) {
	sums, err := readSums(dir)
	if err != nil {
		return nil, err
	}
	o := &Moments{}
	open := func(f **safetensors.File, name string) {
		if err == nil {
			err = sums.readTensors(dir, name, nil)
		}
		if err == nil {
			*f, err = safetensors.Open(filepath.Join(dir, name))
		}
	}
	open(&o.optimizer, optimizerFile)
	if m.Guided {
		open(&o.guides, guidesFile)
	}
	if err != nil {
		o.Close()
	}
	return o, err
}

// Read fills dst with the first moment of a parameter or a guide, or with the second
// one, from an entry on.
func (o *Moments) Read(dst []float32, second, guide bool, q spec.Param, from int) error {
	f, name := o.optimizer, "m."+q.Name
	if guide {
		f = o.guides
	}
	if second {
		name = "v." + q.Name
	}
	t, ok := f.Lookup(name)
	if !ok || t.DType != "F32" || !slices.Equal(t.Shape, q.Shape) {
		return fmt.Errorf("the optimizer's file: %s is %s %v, want F32 %v", name, t.DType, t.Shape, q.Shape)
	}
	return f.ReadPart(dst, name, from)
}

// Close closes the files.
func (o *Moments) Close() error {
	var err error
	for _, f := range []*safetensors.File{o.optimizer, o.guides} {
		if f != nil {
			err = errors.Join(err, f.Close())
		}
	}
	return err
}

// Verify reads the header of a checkpoint's model and checks that it has the
// parameters in float32, and no others, before anything of their size is allocated.
func Verify(dir string, c *config.Config) error { return VerifyAs(dir, c, "") }

// VerifyAs is Verify of a checkpoint whose weights have a format.
func VerifyAs(dir string, c *config.Config, weights kernel.FormatName) error {
	f, err := safetensors.Open(filepath.Join(dir, modelFile))
	if err != nil {
		return err
	}
	defer f.Close()
	params, tensors := c.Model.Params(), 0
	integers := integersOf(c.Model, weights)
	for _, q := range params {
		if p, ok := integers[q.Name]; ok {
			n, err := p.Check(f)
			if err != nil {
				return err
			}
			tensors += n
			continue
		}
		tensors++
		t, ok := f.Lookup(q.Name)
		if !ok || !slices.Equal(t.Shape, q.Shape) {
			return fmt.Errorf("%s: %s has shape %v, the configuration says %v", filepath.Join(dir, modelFile), q.Name, t.Shape, q.Shape)
		}
	}
	if n := len(f.Tensors()); n != tensors {
		return fmt.Errorf("%s: %d tensors, the configuration has %d parameters, which are %d", filepath.Join(dir, modelFile), n, len(params), tensors)
	}
	return nil
}

func load(dir, name string, sets map[string]*model.Params) error {
	sums, err := readSums(dir)
	if err != nil {
		return err
	}
	s, err := readState(dir, sums)
	if err != nil {
		return err
	}
	if err := s.Trainable(dir); err != nil {
		return err
	}
	var tensors, guides []safetensors.Value
	for prefix, p := range sets {
		tensors = append(tensors, values(prefix, Of(p), p.List())...)
		guides = append(guides, values(prefix, Of(p), p.Guides())...)
	}
	if err := sums.readTensors(dir, name, tensors); err != nil || len(guides) == 0 {
		return err
	}
	return sums.readTensors(dir, guidesFile, guides)
}
