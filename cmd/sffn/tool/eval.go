package tool

import (
	"fmt"
	"io"
	"slices"

	"github.com/spf13/cobra"

	"github.com/structuredffn/sffn/cmd/internal/cli"
	"github.com/structuredffn/sffn/internal/term"
	"github.com/structuredffn/sffn/model/data"
	"github.com/structuredffn/sffn/model/eval"
)

// evaluation is what sffn eval measures; each flag is a field.
type evaluation struct {
	models, data, tasks []string
	tokens              int
	orders              []int
	form                string
}

func newEval() *cobra.Command {
	var m machine
	var e evaluation
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "eval",
		Short: "Measure models on held-out text and on tasks of multiple choice",
		Long: `Measure one or more models on the validation split of folders that sffn prepare
made: windows of the model's training length, evenly spaced. --count-models adds
tables that count how often a token follows the 1, 2, ... before it, made from
the training split and measured on the same tokens.

--task is a file of questions, one JSON object a line:

  {"question": "...", "choices": ["...", "..."], "answer": 0}

or as ARC (question, choices with text and label, answerKey) or HellaSwag (ctx,
endings, label) have them. An answer that is a text is a label, else one of the
choices, else a number from 0, else a letter. A model's choice is the one with the highest
log-likelihood behind the question (accuracy), or with the highest for a byte of
its text (per byte). A question that is too long for the model loses its
beginning, which JSON counts as cut.`,
		Example: `  sffn eval --model run --data data
  sffn eval --model structured --model dense --data code --data web --count-models 1,5
  sffn eval --model run --task arc.jsonl --question-form $'Question: {question}\nAnswer:'`,
		Args: cli.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cli.Require(cmd, "model"); err != nil {
				return err
			}
			if err := e.check(); err != nil {
				return err
			}
			if err := m.open(); err != nil {
				return err
			}
			defer m.close()
			rs, ts, err := e.run(cmd.ErrOrStderr(), &m)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if asJSON {
				tokens := e.tokens
				if len(e.data) == 0 {
					tokens = 0 // of data
				}
				err = term.JSON(out, struct {
					Tokens int               `json:"tokens,omitempty"`
					Models []eval.Result     `json:"models,omitempty"`
					Tasks  []eval.TaskResult `json:"tasks,omitempty"`
				}{tokens, rs, ts})
			} else {
				if len(rs) > 0 {
					err = term.Table(out, eval.Table(rs))
				}
				if err == nil && len(ts) > 0 {
					err = term.Table(out, eval.TaskTable(ts))
				}
			}
			if err != nil {
				return err
			}
			return eval.CheckFinite(rs)
		},
	}
	fl := cmd.Flags()
	fl.StringArrayVar(&e.models, "model", nil, "folder of a run or checkpoint; may come several times")
	fl.StringArrayVar(&e.data, "data", nil, "folder that sffn prepare made; may come several times")
	fl.IntVar(&e.tokens, "tokens", 1<<17, "validation tokens to measure on, at most")
	fl.IntSliceVar(&e.orders, "count-models", nil, "also measure count models of these orders, such as 1,5")
	fl.StringArrayVar(&e.tasks, "task", nil, "file of multiple-choice questions; may come several times")
	fl.StringVar(&e.form, "question-form", "{question}", "how a task's questions are put")
	fl.BoolVar(&asJSON, "json", false, "print one JSON object")
	m.formatFlags(cmd)
	m.flag(cmd)
	return cmd
}

func (e *evaluation) check() error {
	if len(e.data) == 0 && len(e.tasks) == 0 {
		return cli.Usagef("give --data DIR, --task FILE, or both")
	}
	if len(e.data) == 0 && len(e.orders) > 0 {
		return cli.Usagef("--count-models counts the tokens of --data, which is missing")
	}
	if e.tokens < 1 {
		return cli.Usagef("--tokens: %d is out of range, want 1 or more", e.tokens)
	}
	if i := slices.IndexFunc(e.orders, func(order int) bool { return order < 0 }); i >= 0 {
		return cli.Usagef("--count-models: order %d, want 0 or more", e.orders[i])
	}
	return nil
}

// run measures every model on all sets and tasks, then the counts.
func (e *evaluation) run(log io.Writer, m *machine) (rs []eval.Result, ts []eval.TaskResult, err error) {
	var sets []eval.Set
	for _, dir := range e.data {
		set, err := data.Open(dir)
		if err != nil {
			return nil, nil, err
		}
		defer set.Close()
		sets = append(sets, eval.Set{Name: dir, Set: set})
	}
	var tasks []*eval.Task
	for _, name := range e.tasks {
		t, err := eval.ReadTask(name, e.form)
		if err != nil {
			return nil, nil, fmt.Errorf("--task: %w", err)
		}
		tasks = append(tasks, t)
	}
	seq := 0
	one := func(name string) error {
		c, err := openModel(name)
		if err != nil {
			return err
		}
		model, err := eval.Open(c, name, m.Options)
		if err != nil {
			return err
		}
		defer model.Close()
		seq = c.Config.Train.Seq
		for _, set := range sets {
			r, err := model.Loss(set, e.tokens)
			if err != nil {
				return err
			}
			rs = append(rs, r)
		}
		for _, t := range tasks {
			done := term.NewCounter(log, t.Name+": questions", len(t.Questions))
			r, err := model.Task(t, done.Set)
			done.Close()
			if err != nil {
				return err
			}
			ts = append(ts, r)
		}
		return nil
	}
	for _, name := range e.models {
		if err := one(name); err != nil {
			return nil, nil, err
		}
	}
	if len(e.orders) == 0 {
		return rs, ts, nil
	}
	for _, set := range sets {
		counted, err := eval.Counts(set, e.orders, e.tokens, seq)
		if err != nil {
			return nil, nil, fmt.Errorf("--count-models: %w", err)
		}
		rs = append(rs, counted...)
	}
	return rs, ts, nil
}
