// Package eval measures the loss of models on held-out text, beside that of tables
// that count how often a token follows the ones before it.
package eval

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"

	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/data"
	"github.com/structuredffn/sffn/model/decode"
	"github.com/structuredffn/sffn/model/train"
	rt "github.com/structuredffn/sffn/runtime"
)

// Result is the loss of a model; fields of models that were trained are empty of
// others.
type Result struct {
	Model           string  `json:"model"`
	Params          int64   `json:"params,omitempty"`
	MLPWeights      int64   `json:"mlp_weights,omitempty"`
	Steps           int     `json:"steps,omitempty"`
	TokensPerSecond float64 `json:"training_tokens_per_second,omitempty"`
	Loss            Number  `json:"loss"` // nats a token
	// A token of the byte tokenizer is a byte.
	BitsPerByte Number `json:"bits_per_byte"`
	Perplexity  Number `json:"perplexity"`
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

func (r *Result) setLoss(loss float64) {
	r.Loss, r.BitsPerByte, r.Perplexity = Number(loss), Number(loss/math.Ln2), Number(math.Exp(loss))
}

// batch is the number of windows that run at a time.
const batch = 8

// Checkpoint measures a trained model on so many tokens of the validation split,
// at most: windows of its training length, evenly spaced. name is what errors call
// the model.
func Checkpoint(c *decode.Checkpoint, name string, set *data.Set, tokens int, opt rt.Options) (r Result, err error) {
	m, err := c.Load(opt)
	if err != nil {
		return r, err
	}
	defer m.Close()
	if set.Tokenizer.Hash() != c.Tokenizer.Hash() {
		return r, fmt.Errorf("%s was trained on tokens of the %s tokenizer, the data has those of %s", name, c.Tokenizer.Name(), set.Tokenizer.Name())
	}
	seq := c.Config.Train.Seq
	ids, targets, err := set.Validation.Windows(max(1, tokens/seq), seq)
	if err != nil {
		return r, err
	}
	tr := m.NewTrace(batch * seq)
	defer tr.Close()
	n := m.Spec.Count()
	r = Result{Model: c.State.Name, Params: n.Total, MLPWeights: n.MLPWeights, Steps: c.State.Step, TokensPerSecond: c.State.TokensPerSecond}
	loss, err := train.Evaluate(tr, ids, targets, seq, batch)
	r.setLoss(loss)
	return r, err
}

// maxCounted bounds the training tokens that counts read.
const maxCounted = 1 << 28

// Counts measures tables of these orders, made from the training split, on the
// tokens on which a model of that training length is measured.
func Counts(set *data.Set, orders []int, tokens, seq int) (rs []Result, err error) {
	if len(orders) == 0 {
		return nil, nil
	}
	ids, targets, err := set.Validation.Windows(max(1, tokens/seq), seq)
	if err != nil {
		return nil, err
	}
	c, err := newCounts(slices.Max(orders), set.Tokenizer.Vocab(), ids, targets, seq)
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
		r := Result{Model: fmt.Sprintf("order-%d counts", order)}
		if order == 1 {
			r.Model = "bigram counts"
		}
		r.setLoss(c.loss(order))
		rs = append(rs, r)
	}
	return rs, nil
}

// Table has a line of heading and one for each result.
func Table(rs []Result) [][]string {
	rows := [][]string{{"model", "params", "ffn weights", "steps", "tokens/s", "loss", "bits/byte", "perplexity"}}
	for _, r := range rs {
		row := []string{r.Model, "", "", "", ""}
		if r.Params > 0 {
			row = []string{r.Model, term.Count(float64(r.Params)), term.Count(float64(r.MLPWeights)), fmt.Sprint(r.Steps), term.Count(r.TokensPerSecond)}
		}
		rows = append(rows, append(row, fmt.Sprintf("%.4f", r.Loss), fmt.Sprintf("%.4f", r.BitsPerByte), fmt.Sprintf("%.2f", r.Perplexity)))
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
