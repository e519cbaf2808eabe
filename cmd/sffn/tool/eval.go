package tool

import (
	"encoding/json"
	"fmt"
	"math"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/model/data"
	"github.com/structuredffn/sffn/model/ngram"
	"github.com/structuredffn/sffn/model/train"
)

// evaluation is one line of what eval prints.
type evaluation struct {
	Model           string  `json:"model"`
	Params          int64   `json:"params,omitempty"`
	MLPWeights      int64   `json:"mlp_weights,omitempty"`
	Steps           int     `json:"steps,omitempty"`
	TokensPerSecond float64 `json:"training_tokens_per_second,omitempty"`
	Loss            number  `json:"loss"` // nats a token
	BitsPerByte     number  `json:"bits_per_byte"`
	Perplexity      number  `json:"perplexity"`
}

// number is null in JSON, which has no others, where it is not finite.
type number float64

func (x number) MarshalJSON() ([]byte, error) {
	if f := float64(x); math.IsNaN(f) || math.IsInf(f, 0) {
		return []byte("null"), nil
	}
	return json.Marshal(float64(x))
}

func newEval() *cobra.Command {
	var m machine
	var models []string
	var orders []int
	var dataDir string
	var tokens int
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "eval",
		Short: "Measure the loss of models on held-out text",
		Long: `Measure the loss of one or more models on the validation split of a folder that
sffn prepare made: windows of the model's training length, evenly spaced.
--count-models adds tables that count how often a token follows the 1, 2, ...
before it, made from the training split and measured on the same tokens.`,
		Example: `  sffn eval --model run --data data
  sffn eval --model structured --model dense --data data --count-models 1,5`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := require(cmd, "model", "data"); err != nil {
				return err
			}
			if tokens < 1 {
				return cli.Usagef("--tokens: %d is out of range, want 1 or more", tokens)
			}
			set, err := data.Open(dataDir)
			if err != nil {
				return err
			}
			defer set.Close()
			if err := m.open(); err != nil {
				return err
			}
			defer m.close()
			var es []evaluation
			seq := 0
			for _, name := range models {
				e, s, err := evaluate(name, set, tokens, m)
				if err != nil {
					return err
				}
				es, seq = append(es, e), s
			}
			if len(orders) > 0 {
				counted, err := countModels(set, orders, tokens, seq)
				if err != nil {
					return err
				}
				es = append(es, counted...)
			}
			for i := range es {
				es[i].Perplexity = number(math.Exp(float64(es[i].Loss)))
				// A token of the byte tokenizer is a byte.
				es[i].BitsPerByte = es[i].Loss / math.Ln2
			}
			if asJSON {
				if err := printJSON(cmd.OutOrStdout(), struct {
					Tokens int          `json:"tokens"`
					Models []evaluation `json:"models"`
				}{tokens, es}); err != nil {
					return err
				}
				return allFinite(es)
			}
			rows := [][]string{{"model", "params", "ffn weights", "steps", "tokens/s", "loss", "bits/byte", "perplexity"}}
			for _, e := range es {
				row := []string{e.Model, "", "", "", ""}
				if e.Params > 0 {
					row = []string{e.Model, count(float64(e.Params)), count(float64(e.MLPWeights)), fmt.Sprint(e.Steps), count(e.TokensPerSecond)}
				}
				rows = append(rows, append(row, fmt.Sprintf("%.4f", e.Loss), fmt.Sprintf("%.4f", e.BitsPerByte), fmt.Sprintf("%.2f", e.Perplexity)))
			}
			if err := table(cmd.OutOrStdout(), rows); err != nil {
				return err
			}
			return allFinite(es)
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&models, "model", nil, "folder of a run or checkpoint; may come several times")
	fl.StringVar(&dataDir, "data", "", "folder that sffn prepare made")
	fl.IntVar(&tokens, "tokens", 1<<17, "validation tokens to measure on, at most")
	fl.IntSliceVar(&orders, "count-models", nil, "also measure count models of these orders, such as 1,5")
	fl.BoolVar(&asJSON, "json", false, "print one JSON object")
	m.flag(cmd)
	return cmd
}

// allFinite is an error where a model has no loss to speak of.
func allFinite(es []evaluation) error {
	for _, e := range es {
		if f := float64(e.Loss); math.IsNaN(f) || math.IsInf(f, 0) {
			return fmt.Errorf("%s: the loss is %v: the weights are finite, what they compute is not; take an earlier checkpoint", e.Model, f)
		}
	}
	return nil
}

// evalBatch is the number of windows that run at a time.
const evalBatch = 8

func evaluate(name string, set *data.Set, tokens int, m machine) (evaluation, int, error) {
	var e evaluation
	l, err := loadRun(name, m.Options)
	if err != nil {
		return e, 0, err
	}
	defer l.close()
	if set.Tokenizer.Hash() != l.tok.Hash() {
		return e, 0, fmt.Errorf("%s was trained on tokens of the %s tokenizer, the data has those of %s", name, l.tok.Name(), set.Tokenizer.Name())
	}
	seq := l.config.Train.Seq
	ids, targets, err := set.Validation.Windows(max(1, tokens/seq), seq)
	if err != nil {
		return e, 0, err
	}
	tr := l.NewTrace(evalBatch * seq)
	defer tr.Close()
	n := l.Spec.Count()
	e = evaluation{Model: l.state.Name, Params: n.Total, MLPWeights: n.MLPWeights, Steps: l.state.Step, TokensPerSecond: l.state.TokensPerSecond}
	loss, err := train.Evaluate(tr, ids, targets, seq, evalBatch)
	e.Loss = number(loss)
	return e, seq, err
}

// maxCounted bounds the training tokens that count models read.
const maxCounted = 1 << 28

func countModels(set *data.Set, orders []int, tokens, seq int) ([]evaluation, error) {
	ids, targets, err := set.Validation.Windows(max(1, tokens/seq), seq)
	if err != nil {
		return nil, err
	}
	text, err := set.Train.ReadAll(maxCounted)
	if err != nil {
		return nil, err
	}
	var es []evaluation
	for _, order := range orders {
		if order < 0 {
			return nil, cli.Usagef("--count-models: order %d, want 0 or more", order)
		}
		m, err := ngram.New(order, set.Tokenizer.Vocab(), text)
		if err != nil {
			return nil, fmt.Errorf("--count-models: %w", err)
		}
		name := fmt.Sprintf("order-%d counts", order)
		if order == 1 {
			name = "bigram counts"
		}
		es = append(es, evaluation{Model: name, Loss: number(m.Loss(ids, targets, seq))})
	}
	return es, nil
}
