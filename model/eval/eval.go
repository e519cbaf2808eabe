// Package eval measures models on held-out text, beside tables that count how
// often a token follows the ones before it, and on tasks of multiple choice.
package eval

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/data"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/model/token"
	"github.com/structuredffn/sffn/model/train"
	rt "github.com/structuredffn/sffn/runtime"
	"github.com/structuredffn/sffn/runtime/collective"
)

// Result is the loss of a model on a set of data; fields of models that were
// trained are empty of others.
type Result struct {
	Model           string  `json:"model"`
	Data            string  `json:"data"`
	Params          int64   `json:"params,omitempty"`
	MLPWeights      int64   `json:"mlp_weights,omitempty"`
	Steps           int     `json:"steps,omitempty"`
	TokensPerSecond float64 `json:"training_tokens_per_second,omitempty"`
	Loss            Number  `json:"loss"` // nats a token
	BitsPerByte     Number  `json:"bits_per_byte"`
	Perplexity      Number  `json:"perplexity"`
}

// Number is null in JSON, which has no others, where it is not finite.
type Number float64

// Finite reports whether the number is one.
func (x Number) Finite() bool { return !math.IsNaN(float64(x)) && !math.IsInf(float64(x), 0) }

// MarshalJSON writes the number, or null.
func (x Number) MarshalJSON() ([]byte, error) {
	if !x.Finite() {
		return []byte("null"), nil
	}
	return json.Marshal(float64(x))
}

// Set is a folder of data under the name that a user gave it.
type Set struct {
	Name string
	*data.Set
}

// windows are what is measured of a set: sequences of so many tokens.
type windows struct {
	ids, targets []int32
	seq          int
	bytes        float64 // of the text that the targets stand for
}

func (s Set) windows(tokens, seq int) (w windows, err error) {
	w.seq = seq
	if w.ids, w.targets, err = s.Validation.Windows(max(1, tokens/seq), seq); err != nil {
		return w, fmt.Errorf("%s: %w", s.Name, err)
	}
	w.bytes = s.Validation.Bytes(w.targets)
	return w, nil
}

func (r *Result) setLoss(loss float64, w windows) {
	r.Loss, r.Perplexity = Number(loss), Number(math.Exp(loss))
	r.BitsPerByte = Number(data.BitsPerByte(loss, model.Counted(w.targets), w.bytes))
}

// batchTokens is about how many tokens run at a time.
const batchTokens = 1 << 11

// Model is a trained model at hand. Name is what errors call it.
type Model struct {
	Name string
	// Group are the ranks that share what is measured, and all have the same result: Open
	// sets it to this process alone.
	Group collective.Group
	c     *decode.Checkpoint
	m     *decode.Model
}

// Open loads a checkpoint.
func Open(c *decode.Checkpoint, name string, opt rt.Options) (*Model, error) {
	m, err := c.Load(opt)
	if err != nil {
		return nil, err
	}
	return &Model{Name: name, Group: collective.Alone(), c: c, m: m}, nil
}

// Close frees the model.
func (m *Model) Close() { m.m.Close() }

// Fits says whether the ids of a set are those of a model, which errors call name.
func (s Set) Fits(c *decode.Checkpoint, name string) error {
	if ids := s.Validation.Vocab(); ids > c.Config.Model.Vocab {
		return fmt.Errorf("%s takes %d ids, %s has those of a tokenizer (%s) with %d", name, c.Config.Model.Vocab, s.Name, s.Tokenizer.Name(), ids)
	}
	// A model without a tokenizer takes any ids.
	if c.Tokenizer != nil && s.Tokenizer.Hash() != c.Tokenizer.Hash() {
		want := c.Tokenizer.Name()
		if !slices.Contains(token.Names, want) {
			want = c.Dir // its file lies there
		}
		return fmt.Errorf("%s was trained on tokens of the tokenizer %s, %s has those of %s; prepare the text with --tokenizer %s",
			name, c.Tokenizer.Name(), s.Name, s.Tokenizer.Name(), want)
	}
	return nil
}

// Loss measures the model on so many tokens of the validation split, at most:
// windows of its training length, evenly spaced. It ends with the context, within a
// batch.
func (m *Model) Loss(ctx context.Context, set Set, tokens int) (r Result, err error) {
	c := m.c
	if err := set.Fits(c, m.Name); err != nil {
		return r, err
	}
	w, err := set.windows(tokens, c.Config.Train.Seq)
	if err != nil {
		return r, err
	}
	batch := max(1, batchTokens/w.seq)
	tr := m.m.NewTrace(batch * w.seq)
	defer tr.Close()
	n := m.m.Spec.Count()
	r = Result{Model: c.State.Name, Data: set.Name, Params: n.Total, MLPWeights: n.MLPWeights, Steps: c.State.Step, TokensPerSecond: c.State.TokensPerSecond}
	loss, err := train.EvaluateShared(m.Group, until{ctx, tr}, w.ids, w.targets, w.seq, batch)
	r.setLoss(loss, w)
	return r, err
}

// until is an evaluator whose losses end with a context.
type until struct {
	ctx context.Context
	train.Evaluator
}

func (u until) Loss(ids, targets []int32, batch int) (float64, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.Evaluator.Loss(ids, targets, batch)
}

// maxCounted bounds the training tokens that counts read.
const maxCounted = 1 << 28

// Counts measures tables of these orders, made from the training split, on the
// tokens on which a model of that training length is measured.
func Counts(set Set, orders []int, tokens, seq int) (rs []Result, err error) {
	if len(orders) == 0 {
		return nil, nil
	}
	w, err := set.windows(tokens, seq)
	if err != nil {
		return nil, err
	}
	c, err := newCounts(slices.Max(orders), set.Tokenizer.Vocab(), w.ids, w.targets, seq)
	if err != nil {
		return nil, err
	}
	text := make([]int32, 1<<20)
	size := min(set.Train.Len(), maxCounted)
	for at := int64(0); at < size; at += int64(len(text)) {
		text = text[:min(int64(len(text)), size-at)]
		if err := set.Train.Read(text, at); err != nil {
			return nil, err
		}
		c.add(text)
	}
	for _, order := range orders {
		r := Result{Model: fmt.Sprintf("order-%d counts", order), Data: set.Name}
		if order == 1 {
			r.Model = "bigram counts"
		}
		r.setLoss(c.loss(order), w)
		rs = append(rs, r)
	}
	return rs, nil
}

// Table has a line of heading and one for each result; the data are named where
// there are several.
func Table(rs []Result) [][]string {
	several := false
	for _, r := range rs {
		several = several || r.Data != rs[0].Data
	}
	head := []string{"model", "data", "params", "ffn weights", "steps", "tokens/s", "loss", "bits/byte", "perplexity"}
	rows := [][]string{head}
	for _, r := range rs {
		row := []string{r.Model, r.Data, "", "", "", ""}
		if r.Params > 0 {
			row = []string{r.Model, r.Data, term.Count(float64(r.Params)), term.Count(float64(r.MLPWeights)), fmt.Sprint(r.Steps), term.Count(r.TokensPerSecond)}
		}
		rows = append(rows, append(row, fmt.Sprintf("%.4f", r.Loss), fmt.Sprintf("%.4f", r.BitsPerByte), fmt.Sprintf("%.2f", r.Perplexity)))
	}
	if !several {
		for i, row := range rows {
			rows[i] = append(row[:1], row[2:]...)
		}
	}
	return rows
}

// CheckFinite is an error where a model has no loss to speak of.
func CheckFinite(rs []Result) error {
	for _, r := range rs {
		if !r.Loss.Finite() {
			return fmt.Errorf("%s: the loss is %v: the weights are finite, what they compute is not; take an earlier checkpoint", r.Model, float64(r.Loss))
		}
	}
	return nil
}
