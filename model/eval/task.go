package eval

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/structuredffn/sffn/internal/disk"
	"github.com/structuredffn/sffn/model"
	"github.com/structuredffn/sffn/model/train"
	"github.com/structuredffn/sffn/runtime/collective"
)

// Question has choices, of which that of number Answer is right.
type Question struct {
	Text    string
	Choices []string
	Answer  int
}

// Task is a list of questions.
type Task struct {
	Name      string
	Questions []Question
}

// Bounds of a task's file, which a mistaken --task would pass.
const (
	maxQuestion  = 1 << 20 // bytes of a line
	maxQuestions = 1 << 20
	maxChoices   = 64
)

// forms are the names that published tasks give their fields, one row a form: the
// question, its choices, and the right one.
var forms = []struct{ question, choices, answer string }{
	{"question", "choices", "answer"},
	{"question", "choices", "answerKey"},      // ARC, CommonsenseQA as data sets have them
	{"question_stem", "choices", "answerKey"}, // OpenBookQA
	{"ctx", "endings", "label"},               // HellaSwag
	{"stem", "choices", "answerKey"},          // ARC, OpenBookQA as their authors publish them, once flattened
}

// formsText is what a question may look like.
const formsText = `want {"question": "...", "choices": ["...", "..."], "answer": 0}, ARC's question, choices and answerKey, or HellaSwag's ctx, endings and label`

// ReadTask reads a file of one JSON object a line. template, where not empty, says
// how a question is put: {question} in it stands for the text.
//
// The answer is the number of a choice, from 0, or a text: a label of ARC's choices,
// else a choice itself, else a number, else a letter from A.
func ReadTask(name, template string) (*Task, error) {
	f, err := disk.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	t := &Task{Name: strings.TrimSuffix(filepath.Base(name), filepath.Ext(name))}
	r := bufio.NewReaderSize(f, maxQuestion)
	for line := 1; ; line++ {
		text, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return nil, fmt.Errorf("%s:%d: the line is longer than %d bytes", name, line, maxQuestion)
		} else if err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if len(bytes.TrimSpace(text)) > 0 {
			q, bad := parseQuestion(text)
			if bad != nil {
				return nil, fmt.Errorf("%s:%d: %w", name, line, bad)
			}
			if template != "" {
				q.Text = strings.ReplaceAll(template, "{question}", q.Text)
			}
			if t.Questions = append(t.Questions, q); len(t.Questions) > maxQuestions {
				return nil, fmt.Errorf("%s:%d: more than %d questions", name, line, maxQuestions)
			}
		}
		if err != nil {
			break
		}
	}
	if len(t.Questions) == 0 {
		return nil, fmt.Errorf("%s: no questions, %s", name, formsText)
	}
	return t, nil
}

func parseQuestion(line []byte) (q Question, err error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(line, &fields); err != nil {
		return q, fmt.Errorf("%w; %s", err, formsText)
	}
	// ARC's authors put stem and choices into the question.
	var inner map[string]json.RawMessage
	if json.Unmarshal(fields["question"], &inner) == nil && inner != nil {
		delete(fields, "question")
		fields["stem"], fields["choices"] = inner["stem"], inner["choices"]
	}
	for _, form := range forms {
		text, choices, answer := fields[form.question], fields[form.choices], fields[form.answer]
		if text == nil || choices == nil || answer == nil {
			continue
		}
		for name, value := range map[string]json.RawMessage{form.question: text, form.choices: choices, form.answer: answer} {
			if string(value) == "null" {
				return q, fmt.Errorf("%s is null; questions without an answer cannot be measured", name)
			}
		}
		if err := json.Unmarshal(text, &q.Text); err != nil {
			return q, fmt.Errorf("%s is no text", form.question)
		}
		var labels []string
		if q.Choices, labels, err = parseChoices(choices); err != nil {
			return q, fmt.Errorf("%s: %w", form.choices, err)
		}
		if q.Answer, err = parseAnswer(answer, q.Choices, labels); err != nil {
			return q, fmt.Errorf("%s: %w", form.answer, err)
		}
		return q, nil
	}
	return q, fmt.Errorf("the line has no question, choices and answer; %s", formsText)
}

// parseChoices reads a list of texts, or ARC's two lists: texts and their labels.
func parseChoices(raw json.RawMessage) (texts, labels []string, err error) {
	if json.Unmarshal(raw, &texts) != nil {
		var both struct{ Text, Label []string }
		if json.Unmarshal(raw, &both) != nil {
			var each []struct{ Text, Label string }
			if json.Unmarshal(raw, &each) != nil {
				return nil, nil, errors.New(`want a list of texts, or {"text": [...], "label": [...]}`)
			}
			for _, c := range each {
				both.Text, both.Label = append(both.Text, c.Text), append(both.Label, c.Label)
			}
		}
		texts, labels = both.Text, both.Label
		if len(texts) != len(labels) {
			return nil, nil, fmt.Errorf("%d texts have %d labels", len(texts), len(labels))
		}
	}
	if len(texts) < 2 || len(texts) > maxChoices {
		return nil, nil, fmt.Errorf("%d choices, want 2 to %d", len(texts), maxChoices)
	}
	if i := slices.Index(texts, ""); i >= 0 {
		return nil, nil, fmt.Errorf("choice %d is empty", i)
	}
	return texts, labels, nil
}

func parseAnswer(raw json.RawMessage, choices, labels []string) (int, error) {
	var x float64
	if json.Unmarshal(raw, &x) == nil {
		if x != math.Trunc(x) || x < 0 || x >= float64(len(choices)) {
			return 0, fmt.Errorf("%v is out of range, want a whole number from 0 to %d", x, len(choices)-1)
		}
		return int(x), nil
	}
	var s string
	if json.Unmarshal(raw, &s) != nil {
		return 0, errors.New("want the number of a choice, from 0, its label or its text")
	}
	if i := slices.Index(labels, s); i >= 0 {
		return i, nil
	}
	if i := slices.Index(choices, s); i >= 0 {
		return i, nil
	}
	if labels == nil {
		if n, err := strconv.Atoi(s); err == nil && n >= 0 && n < len(choices) {
			return n, nil
		}
		if len(s) == 1 && s[0] >= 'A' && int(s[0]-'A') < len(choices) {
			return int(s[0] - 'A'), nil
		}
	}
	return 0, fmt.Errorf("%.40q is none of the choices, their labels or their numbers", s)
}

// TaskResult is how a model does on a task. A choice's score is the
// log-likelihood of its text behind the question, or that for a byte of the
// choice; the choice that scores highest is the model's.
type TaskResult struct {
	Model     string `json:"model"`
	Task      string `json:"task"`
	Questions int    `json:"questions"`
	// Chance is the accuracy of guessing.
	Chance float64 `json:"chance"`
	// Accuracy is that of log-likelihoods, PerByte that of them divided by the
	// choices' bytes; the errors are standard errors of the mean.
	Accuracy      float64 `json:"accuracy"`
	AccuracyError float64 `json:"accuracy_stderr"`
	PerByte       float64 `json:"accuracy_per_byte"`
	PerByteError  float64 `json:"accuracy_per_byte_stderr"`
	// Cut counts the questions whose beginning was left out: with a choice they are
	// longer than the model's context.
	Cut int `json:"cut"`
}

// Task measures the model on a task. progress hears of each question that is done.
func (m *Model) Task(t *Task, progress func(done int)) (TaskResult, error) {
	r := TaskResult{Model: m.c.State.Name, Task: t.Name, Questions: len(t.Questions)}
	if _, err := m.c.Text(); err != nil {
		return r, fmt.Errorf("%s: %w", t.Name, err)
	}
	var n answers
	for _, q := range t.Questions {
		r.Chance += 1 / float64(len(q.Choices)) / float64(len(t.Questions))
	}
	err := train.Apart(m.Group, func() (err error) {
		n, err = m.questions(t, progress)
		return err
	})
	if err != nil {
		return r, err
	}
	all, err := collective.All(context.Background(), m.Group, n)
	if err != nil {
		return r, err
	}
	raw, perByte := 0, 0
	for _, n := range all {
		raw, perByte, r.Cut = raw+int(n.raw), perByte+int(n.perByte), r.Cut+int(n.cut)
	}
	r.Accuracy, r.AccuracyError = share(raw, r.Questions)
	r.PerByte, r.PerByteError = share(perByte, r.Questions)
	return r, nil
}

// answers are how many questions were answered well, by log-likelihood and by that for a
// byte, and how many were cut.
type answers struct{ raw, perByte, cut int64 }

// questions scores this rank's share of a task's questions.
func (m *Model) questions(t *Task, progress func(done int)) (n answers, err error) {
	s := scorer{m: m}
	defer s.close()
	for i := m.Group.Rank(); i < len(t.Questions); i += m.Group.Size() {
		q := t.Questions[i]
		scores, cut, err := s.score(q)
		if err != nil {
			return n, fmt.Errorf("%s: question %d: %w", t.Name, i+1, err)
		}
		if cut {
			n.cut++
		}
		if best(scores) == q.Answer {
			n.raw++
		}
		for j, c := range q.Choices {
			scores[j] /= float64(len(c))
		}
		if best(scores) == q.Answer {
			n.perByte++
		}
		progress(min(i+m.Group.Size(), len(t.Questions)))
	}
	return n, nil
}

func best(scores []float64) int {
	b := 0
	for i, s := range scores {
		if s > scores[b] {
			b = i
		}
	}
	return b
}

// share is a part of n and its standard error.
func share(k, n int) (p, stderr float64) {
	p = float64(k) / float64(n)
	return p, math.Sqrt(p * (1 - p) / float64(max(1, n-1)))
}

// scorer holds what questions share.
type scorer struct {
	m     *Model
	trace *model.Trace
	rows  int
}

func (s *scorer) close() {
	if s.trace != nil {
		s.trace.Close()
	}
}

// scored is the number of positions that run at a time, if one choice has no more.
const scored = 2048

// score returns the log-likelihoods of the choices. They run as batches, in which
// the shorter ones end with what is ignored. cut says that the question was too
// long.
func (s *scorer) score(q Question) (scores []float64, cut bool, err error) {
	positions := s.m.m.Spec.MaxPositions
	type sequence struct {
		ids   []int32
		first int // of the choice's
	}
	all, longest := make([]sequence, len(q.Choices)), 0
	for i, c := range q.Choices {
		ids, first := s.m.split(q.Text, c)
		if n := len(ids) - 1 - positions; n > 0 {
			ids, first, cut = ids[n:], first-n, true
		}
		if first < 1 {
			return nil, cut, fmt.Errorf("choice %d has %d tokens, the model's context is %d", i, len(ids)-first, positions)
		}
		all[i], longest = sequence{ids, first}, max(longest, len(ids)-1)
	}
	for some := range slices.Chunk(all, max(1, scored/longest)) {
		n := len(some) * longest
		ids, targets, losses := make([]int32, n), make([]int32, n), make([]float64, n)
		for i, q := range some {
			row := i * longest
			copy(ids[row:], q.ids[:len(q.ids)-1])
			for j := range longest {
				targets[row+j] = model.Ignored
				if j+1 >= q.first && j+1 < len(q.ids) {
					targets[row+j] = q.ids[j+1]
				}
			}
		}
		if s.rows < n {
			s.close()
			s.trace, s.rows = s.m.m.NewRecomputingTrace(n), n // the layers share one set of activations
		}
		if err := s.trace.Losses(losses, ids, targets, len(some)); err != nil {
			return nil, cut, err
		}
		for row := range slices.Chunk(losses, longest) {
			sum := 0.0
			for _, l := range row {
				sum -= l
			}
			scores = append(scores, sum)
		}
	}
	return scores, cut, nil
}

// split encodes a question and a choice behind it, with a space between where
// neither has one. first is the first token that is not of the question alone: one
// that holds the border belongs to the choice.
func (m *Model) split(question, choice string) (ids []int32, first int) {
	tok := m.c.Tokenizer
	question = strings.TrimRight(question, " ")
	if r, _ := utf8.DecodeRuneInString(choice); !strings.HasSuffix(question, "\n") && r != ' ' && r != '\n' && question != "" {
		choice = " " + choice
	}
	before, _ := tok.Frame()
	if len(before) == 0 {
		before = []int32{tok.EndOfDocument()}
	}
	alone := tok.Encode(slices.Clone(before), []byte(question))
	ids = tok.Encode(slices.Clone(before), []byte(question+choice))
	for first < min(len(alone), len(ids)-1) && alone[first] == ids[first] {
		first++
	}
	return ids, first
}

// TaskTable has a line of heading and one for each result.
func TaskTable(rs []TaskResult) [][]string {
	rows := [][]string{{"model", "task", "questions", "chance", "accuracy", "per byte"}}
	for _, r := range rs {
		rows = append(rows, []string{r.Model, r.Task, fmt.Sprint(r.Questions), fmt.Sprintf("%.3f", r.Chance),
			fmt.Sprintf("%.3f ± %.3f", r.Accuracy, r.AccuracyError), fmt.Sprintf("%.3f ± %.3f", r.PerByte, r.PerByteError)})
	}
	return rows
}
